package checks

import (
	"bytes"
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"libvirt-direct/hooks"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/link"
)

// shield is the name, without its ending, of the packages' files for udev and
// systemd-networkd. The helper's package has them too, since either can be alone.
var shield = [...]string{"0-libvirt-direct", "0-libvirt-direct-helper"}

const networkd = "systemd-networkd"

// managers checks that no program of this host configures the devices made for guests: the
// host would be in the guests' network.
func managers(ctx context.Context, _ *Env) []Finding {
	k, err := link.Open()
	if err != nil {
		return []Finding{finding(Fault, "managers", "%s", hooks.OneLine(err))}
	}
	defer k.Close()
	found := append(onGuestsDevices(ctx, k), shielded("/")...)
	if _, err := os.Stat("/run/udev/control"); err == nil && len(found) == 0 {
		found = append(found, finding(OK, "managers", "this host's network managers leave the devices made for guests alone"))
	}
	return found
}

// onGuestsDevices tells of this host's presence on devices that are for guests.
func onGuestsDevices(ctx context.Context, k *link.Conn) (found []Finding) {
	all, err := k.All(ctx)
	if err != nil {
		return []Finding{finding(Fault, "managers", "%s", hooks.OneLine(err))}
	}
	for _, l := range all {
		if !forGuests(l) {
			continue
		}
		presence, err := k.Presence(ctx, l)
		if err != nil {
			found = append(found, finding(Note, "managers", "%s", hooks.OneLine(err)))
			continue
		}
		who := managerOf("/", l.Index)
		switch {
		case presence != "":
			found = append(found, finding(Fault, "managers",
				"%s is for guests, and this host is on it: %s%s; keep what did that off it, then run: ip address flush dev %s; sysctl -w net/ipv6/conf/%s/disable_ipv6=1",
				l.Name, presence, by(who), l.Name, l.Name))
		case strings.HasPrefix(who, networkd): // NetworkManager says this of what it only looks at, too
			found = append(found, finding(Fault, "managers", "%s is for guests, and %s manages it: have it leave the device alone", l.Name, who))
		}
	}
	return found
}

// forGuests reports whether the hook or the helper has made a device, by its alias. The helper's
// for a sub-interface begins as the hook's.
func forGuests(l link.Link) bool {
	return l.Alias == step.Alias || strings.HasPrefix(l.Alias, step.Alias+" ") || strings.HasPrefix(l.Alias, hooks.HelperAlias)
}

func by(who string) string {
	if who == "" {
		return ""
	}
	return ", by " + who
}

// managerOf names the program that has taken a device for its own, as it says itself in the
// file system at root, "" where none does.
func managerOf(root string, index int) string {
	n := strconv.Itoa(index)
	state := variables(filepath.Join(root, "run/systemd/netif/links", n))
	if file := state["NETWORK_FILE"]; file != "" && state["ADMIN_STATE"] != "unmanaged" {
		return networkd + " (" + file + ")"
	}
	nm := variables(filepath.Join(root, "run/NetworkManager/devices", n))
	if nm["managed"] == "true" || nm["managed"] == "1" {
		return "NetworkManager"
	}
	return ""
}

// variables reads a file of lines NAME=VALUE. One that is not there has none.
func variables(file string) map[string]string {
	text, _ := os.ReadFile(file)
	return parseVariables(text)
}

func parseVariables(text []byte) map[string]string {
	vars := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			vars[name] = strings.Trim(value, `"`)
		}
	}
	return vars
}

// shielded tells whether what keeps the host's programs off is where those look for it,
// in the file system at root, and is not kept from doing so by a file of this host.
func shielded(root string) (found []Finding) {
	if _, err := os.Stat(filepath.Join(root, "run/udev/control")); err != nil {
		return nil // nobody reads rules
	}
	found = append(found, inPlace(root, "udev/rules.d", ".rules", "udev renames")...)
	found = append(found, inPlace(root, "systemd/network", ".link", "udev renames")...)
	if links, _ := os.ReadDir(filepath.Join(root, "run/systemd/netif/links")); len(links) > 0 {
		found = append(found, inPlace(root, "systemd/network", ".network", "systemd-networkd configures")...)
	}
	return found
}

// inPlace tells whether a file of the shield is there, first, and as it was installed. Of
// files of one name the one in the first folder counts, and of files of different names that
// match a device the first.
func inPlace(root, dir, ending, does string) (found []Finding) {
	const why = "what is made for guests"
	files := map[string]string{} // by name: the one that counts
	for _, base := range []string{"lib", "usr/lib", "usr/local/lib", "run", "etc"} {
		here, _ := filepath.Glob(filepath.Join(root, base, dir, "*"+ending)) // the pattern is good
		for _, f := range here {
			files[filepath.Base(f)] = f
		}
	}
	any := false
	for _, name := range shield {
		name += ending
		f, ok := files[name]
		if !ok {
			continue
		}
		any = true
		installed := filepath.Join(root, "usr/lib", dir, name)
		want, err := os.ReadFile(installed)
		if have, _ := os.ReadFile(f); f != installed && (err != nil || !bytes.Equal(have, want)) {
			found = append(found, finding(Note, "managers", "%s is in place of %s: %s %s by what it says", inRoot(root, f), inRoot(root, installed), does, why))
		}
	}
	if !any {
		return append(found, finding(Note, "managers", "%s%s is missing: %s %s as it does the host's own devices; install it from packaging/managers, or the package again",
			filepath.Join("/usr/lib", dir, shield[0]), ending, does, why))
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if name < shield[0]+ending && name != shield[1]+ending && ending != ".rules" {
			found = append(found, finding(Note, "managers", "%s comes before %s%s: %s %s by it where it matches; give it a name from 1 on",
				inRoot(root, files[name]), shield[0], ending, does, why))
		}
	}
	return found
}

// inRoot is a path as it is in the file system at root.
func inRoot(root, path string) string { return strings.TrimPrefix(path, strings.TrimSuffix(root, "/")) }
