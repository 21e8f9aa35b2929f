package checks

import "context"

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
		say(Note, "%s runs no spanning tree and so passes frames to 01:80:C2:00:00:00 on: lldpad hears neither EVB nor VDP on %s, guests' BPDUs reach the switch; use vdpd, or: ip link set %[1]s type bridge stp_state 1", br.Name, l.Name)
	}
	if br.Bridge.GroupFwdMask&lldpBit != 0 {
		say(Note, "group_fwd_mask of %s passes LLDP (01:80:C2:00:00:0E) on to guests: lldpad does not hear it on %s", br.Name, l.Name)
	} else {
		say(OK, "LLDP (01:80:C2:00:00:0E) of guests in %s ends there, as IEEE 802.1Q wants it; where a guest is to speak with the switch: ip link set %[1]s type bridge group_fwd_mask 0x%[2]x",
			br.Name, br.Bridge.GroupFwdMask|lldpBit)
	}
	return found
}
