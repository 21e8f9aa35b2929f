package checks

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"libvirt-direct/helper/plaintap"
	"libvirt-direct/hooks"
)

// plainTaps checks to whom the helper's files give plain TAP devices. The holder of one can
// give it another station's address, which a Linux bridge then takes for its own, and in
// every kind of bridge send with that address, so that the answers come to him.
func plainTaps(context.Context, *Env) []Finding {
	if _, err := os.Stat(helperPath); errors.Is(err, fs.ErrNotExist) {
		return nil // whatever other programs make of bridge.conf
	}
	return append(ofProfiles(plaintap.Profiles()), ofACLs(plaintap.ACLs())...)
}

func ofProfiles(names []string, err error) (found []Finding) {
	if err != nil {
		return []Finding{refusesAll(err, "every profile is refused")}
	}
	for _, name := range names {
		found = append(found, finding(Note, "helper",
			"profile %s gives several users plain TAP devices: each of them can take the frames of other stations; set anti-spoof = yes and device = isolated in %s", name, plaintap.Config))
	}
	return found
}

func ofACLs(files []string, err error) (found []Finding) {
	if err != nil {
		return []Finding{refusesAll(err, "every bridge is refused")}
	}
	for _, file := range files {
		found = append(found, finding(Note, "helper",
			"%s gives plain TAP devices to everybody who may read it: each of them can take the frames of other stations; use a profile with anti-spoof = yes and device = isolated in %s instead", file, plaintap.Config))
	}
	return found
}

func refusesAll(err error, text string) Finding {
	if errors.Is(err, fs.ErrPermission) {
		return finding(Note, "helper", "not looked at, that needs root: %s", hooks.OneLine(err))
	}
	return finding(Fault, "helper", "%s: %s", text, hooks.OneLine(err))
}
