package checks

import (
	"context"
	"slices"
	"strings"

	"libvirt-direct/internal/link"
	"libvirt-direct/internal/settings"
)

// bridgeVLANs says which VLANs guests of an uplink that is a Linux bridge may have and yet
// cannot use. Who wants that has reasons, so that nothing of it is a fault.
func bridgeVLANs(ctx context.Context, _ *Env, k kernel, u uplink) []Finding {
	l, about := u.device, "bridge "+u.config.Name
	if l.Bridge == nil || u.config.VLANs == nil {
		return nil
	}
	if !l.Bridge.VLANFiltering {
		return []Finding{finding(Note, about, "%s does not filter VLANs, so that no guest can have one of its vlans: ip link set %[1]s type bridge vlan_filtering 1", l.Name)}
	}
	carried, err := carriedVLANs(ctx, k, l)
	if err != nil {
		return []Finding{finding(Note, about, "%v", err)}
	}
	var missing []int
	for id := 1; id < 4095; id++ {
		if u.config.Allows(id) && !slices.Contains(carried, id) {
			missing = append(missing, id)
		}
	}
	if len(missing) == 0 {
		return []Finding{finding(OK, about, "%s carries its VLANs beyond the guests' taps", l.Name)}
	}
	vids := settings.FormatVLANs(missing)
	first, _, _ := strings.Cut(vids, ",")
	return []Finding{finding(Note, about, "no port of %s but guests' taps carries VLANs %s: bridge vlan add dev UPLINK vid %s, and so on", l.Name, vids, first)}
}

// carriedVLANs are those of a bridge's ports but guests' taps: guests in others reach each
// other and nobody else.
func carriedVLANs(ctx context.Context, k kernel, bridge link.Link) (ids []int, err error) {
	all, err := k.All(ctx)
	if err != nil {
		return nil, err
	}
	for _, port := range all {
		if port.Master != bridge.Index || port.Kind == "tun" {
			continue
		}
		vlans, err := k.PortVLANs(ctx, port.Index)
		if err != nil {
			return nil, err
		}
		for _, v := range vlans {
			ids = append(ids, v.ID)
		}
	}
	return ids, nil
}
