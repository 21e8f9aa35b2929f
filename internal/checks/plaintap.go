package checks

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"libvirt-direct/helper/plaintap"
	"libvirt-direct/hooks"
)

// plainTaps checks to whom the helper's files give plain TAP devices. The holder of one
// needs no right to give it another station's address. A bridge takes the address of a port
// for its own, so that station's frames reach nobody; a switch sends them to the port.
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
			"profile %s gives several users plain TAP devices: each of them can take the frames of other stations by changing the device's address; set device = isolated in %s", name, plaintap.Config))
	}
	return found
}

func ofACLs(files []string, err error) (found []Finding) {
	if err != nil {
		return []Finding{refusesAll(err, "every bridge is refused")}
	}
	for _, file := range files {
		found = append(found, finding(Note, "helper",
			"%s gives plain TAP devices to everybody who may read it: each of them can take the frames of other stations by changing the device's address; use a profile with device = isolated in %s instead", file, plaintap.Config))
	}
	return found
}

func refusesAll(err error, text string) Finding {
	if errors.Is(err, fs.ErrPermission) {
		return finding(Note, "helper", "not looked at, that needs root: %s", hooks.OneLine(err))
	}
	return finding(Fault, "helper", "%s: %s", text, hooks.OneLine(err))
}
