package checks

import (
	"context"

	"libvirt-direct/internal/link"
)

// forwarding is BR_STATE_FORWARDING (include/uapi/linux/if_bridge.h), and lldpBit the bit
// of 01:80:C2:00:00:0E in group_fwd_mask.
const (
	forwarding = 3
	lldpBit    = 1 << 0xe
)

// bridgePort says what it means for an uplink that its device is a port of a Linux bridge.
// Who wants that has reasons, so that nothing of it is a fault.
func bridgePort(ctx context.Context, _ *Env, k kernel, u uplink) (found []Finding) {
	l, about := u.device, "bridge "+u.config.Name
	if l.Port == nil {
		return nil
	}
	br, err := k.ByIndex(ctx, l.Master)
	if err != nil || br.Bridge == nil {
		return []Finding{finding(Note, about, "%s is a port of a bridge that cannot be looked up: %v", l.Name, err)}
	}
	say := func(level Level, format string, args ...any) {
		found = append(found, finding(level, about, format, args...))
	}
	say(Note, "%s is a port of %s: the kernel makes no macvtap on it; give guests <interface type='bridge'>, or take it out: ip link set %[1]s nomaster", l.Name, br.Name)
	if br.Bridge.STP {
		say(Note, "%s runs a spanning tree: it sends BPDUs out of %s, and a switch that guards its port against them shuts it", br.Name, l.Name)
		if l.Port.State != forwarding {
			say(Note, "the spanning tree of %s lets nothing through %s now (state %d)", br.Name, l.Name, l.Port.State)
		}
	} else {
		if l.Up && l.Carrier && l.Port.State != forwarding {
			say(Note, "%s lets nothing through %s (state %d), though it runs no spanning tree: bridge link set dev %[2]s state 3", br.Name, l.Name, l.Port.State)
		}
		say(Note, "%s runs no spanning tree and so passes frames to 01:80:C2:00:00:00 on: lldpad hears neither EVB nor VDP on %s, guests' BPDUs reach the switch; use vdpd, or: ip link set %[1]s type bridge stp_state 1", br.Name, l.Name)
	}
	found = append(found, portFlags(l, br.Name, about)...)
	if br.Bridge.GroupFwdMask&lldpBit != 0 {
		say(Note, "group_fwd_mask of %s passes LLDP (01:80:C2:00:00:0E) on to guests: lldpad does not hear it on %s", br.Name, l.Name)
	} else {
		say(OK, "LLDP (01:80:C2:00:00:0E) of guests in %s ends there, as IEEE 802.1Q wants it; where a guest is to speak with the switch: ip link set %[1]s type bridge group_fwd_mask 0x%[2]x",
			br.Name, br.Bridge.GroupFwdMask|lldpBit)
	}
	return found
}

// portFlags says which flags of an uplink as a bridge's port keep frames from guests or the
// network. A tap is a place for each of them.
func portFlags(l link.Link, bridge, about string) (found []Finding) {
	p := l.Port
	is := func(flag *bool, value bool) bool { return flag != nil && *flag == value }
	for _, f := range []struct {
		bad       bool
		name, fix string
		is, text  string
	}{
		{is(p.Isolated, true), "isolated", "off", "on", "guests whose ports are isolated reach nobody outside of %[2]s"},
		{is(p.Locked, true), "locked", "off", "on", "%[2]s drops what comes in from senders that its table does not have as behind %[1]s"},
		{is(p.Flood, false), "flood", "on", "off", "what guests send to addresses that %[2]s does not know yet does not leave by %[1]s"},
		{is(p.MulticastFlood, false), "mcast_flood", "on", "off", "guests' multicast, IPv6's neighbour discovery among it, does not leave by %[1]s unless somebody there has joined"},
		{is(p.Learning, false) && is(p.Flood, false), "learning", "on", "off", "%[2]s never learns who is behind %[1]s, and does not flood to it"},
	} {
		if f.bad {
			found = append(found, finding(Note, about, "%[1]s has %[3]s %[5]s: "+f.text+"; bridge link set dev %[1]s %[3]s %[4]s", l.Name, bridge, f.name, f.fix, f.is))
		}
	}
	return found
}
