package checks

import (
	"context"
	"errors"
	"strings"

	"libvirt-direct/hooks"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/ovs"
)

// virtualSwitch checks that Open vSwitch answers where it is looked for, and tells of others.
// A host without any has no line.
func virtualSwitch(ctx context.Context, env *Env) []Finding {
	db := hooks.FindSwitch(env.Config)
	defer db.Close()
	place, err := db.Place()
	if errors.Is(err, config.ErrConfig) {
		return nil // configuration says so
	}
	if err != nil {
		return []Finding{finding(Fault, "openvswitch", "%s", hooks.OneLine(err))}
	}
	others := ovs.Elsewhere(place)
	if !place.Installed() {
		if len(others) == 0 {
			return nil
		}
		return []Finding{finding(Note, "openvswitch", "nothing is at %s, and a socket is at %s; guests on Open vSwitch that have settings need [ovs] socket = %q in %s",
			place, strings.Join(others, " and "), others[0], env.Config)}
	}
	bridges, err := db.Bridges(ctx)
	if err != nil {
		return []Finding{finding(Fault, "openvswitch", "%s", hooks.OneLine(err))}
	}
	found := []Finding{finding(OK, "openvswitch", "%s answers, with %d bridge(s)", place, len(bridges))}
	if len(others) > 0 && place.From == "" {
		found = append(found, finding(Note, "openvswitch", "a socket is at %s, too; [ovs] socket in %s says which is meant", strings.Join(others, " and "), env.Config))
	}
	return found
}
