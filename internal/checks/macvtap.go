package checks

import (
	"context"

	"libvirt-direct/hooks"
)

// macvtap says why no macvtap can be made on an uplink's device, and what to use in its
// place. A card whose virtual functions the guests get needs none on itself, and a port of
// a switch none where they get ports of that: bridgePort tells of a Linux bridge's.
func macvtap(ctx context.Context, env *Env, k kernel, u uplink) (found []Finding) {
	l, about := u.device, "uplink "+u.config.Name
	if l.Port != nil {
		return nil
	}
	obstacles, err := k.Lower(ctx, l.Name, "bridge", k.Elsewhere(ctx))
	if err != nil {
		return []Finding{finding(Note, about, "%v", err)}
	}
	level := Fault
	if vfs, err := hooks.VFs(ctx, k, env.Records, l); err == nil && len(vfs) > 0 {
		level = Note
	}
	if master, err := k.ByIndex(ctx, l.Master); err == nil && master.Kind == "openvswitch" {
		level = Note
	}
	for _, o := range obstacles {
		if o.Errno != 0 {
			found = append(found, finding(level, about, "no macvtap can be made on %s: %s", l.Name, o))
		} else {
			found = append(found, finding(Note, about, "a macvtap on %s does not get all of its frames: %s", l.Name, o))
		}
	}
	return found
}
