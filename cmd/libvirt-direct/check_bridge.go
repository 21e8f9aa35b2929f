package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"libvirt-direct/hooks"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/link"
	setting "libvirt-direct/internal/settings"
)

// forwarding is BR_STATE_FORWARDING (include/uapi/linux/if_bridge.h), and lldpBit the bit
// of 01:80:C2:00:00:0E in group_fwd_mask.
const (
	forwarding = 3
	lldpBit    = 1 << 0xe
)

// bridges says what it means for an uplink that its device is a port of a Linux bridge,
// or one itself. Who wants that has reasons, so that nothing of it is a fault.
func (c *checker) bridges(k *link.Conn, u *config.Uplink, l link.Link) {
	about := "bridge " + u.Name
	switch {
	case l.Bridge == nil || u.VLANs == nil:
	case !l.Bridge.VLANFiltering:
		c.say(levelNote, about, "%s does not filter VLANs, so that no guest can have one of its vlans: ip link set %[1]s type bridge vlan_filtering 1", l.Name)
	default:
		c.carried(k, about, u, l)
	}
	if l.Port == nil {
		return
	}
	br, err := k.ByIndex(c.ctx, l.Master)
	if err != nil || br.Bridge == nil {
		c.say(levelNote, about, "%s is a port of a bridge that cannot be looked up: %v", l.Name, err)
		return
	}
	c.say(levelNote, about, "%s is a port of %s: the kernel makes no macvtap on it; give guests <interface type='bridge'>, or take it out: ip link set %[1]s nomaster", l.Name, br.Name)
	if br.Bridge.STP {
		c.say(levelNote, about, "%s runs a spanning tree: it sends BPDUs out of %s, and a switch that guards its port against them shuts it", br.Name, l.Name)
		if l.Port.State != forwarding {
			c.say(levelNote, about, "the spanning tree of %s lets nothing through %s now (state %d)", br.Name, l.Name, l.Port.State)
		}
	} else {
		c.say(levelNote, about, "%s runs no spanning tree and so passes frames to 01:80:C2:00:00:00 on: lldpad hears neither EVB nor VDP on %s, guests' BPDUs reach the switch; use vdpd, or: ip link set %[1]s type bridge stp_state 1", br.Name, l.Name)
	}
	if br.Bridge.GroupFwdMask&lldpBit != 0 {
		c.say(levelNote, about, "group_fwd_mask of %s passes LLDP (01:80:C2:00:00:0E) on to guests: lldpad does not hear it on %s", br.Name, l.Name)
	} else {
		c.say(levelOK, about, "LLDP (01:80:C2:00:00:0E) of guests in %s ends there, as IEEE 802.1Q wants it; where a guest is to speak with the switch: ip link set %[1]s type bridge group_fwd_mask 0x%[2]x",
			br.Name, br.Bridge.GroupFwdMask|lldpBit)
	}
}

// carried says which of an uplink's VLANs no port of its bridge has but guests' taps:
// guests in them reach each other and nobody else.
func (c *checker) carried(k *link.Conn, about string, u *config.Uplink, br link.Link) {
	all, err := k.All(c.ctx)
	if err != nil {
		c.say(levelNote, about, "%v", err)
		return
	}
	var have, missing []int
	for _, port := range all {
		if port.Master != br.Index || port.Kind == "tun" {
			continue
		}
		vlans, err := k.PortVLANs(c.ctx, port.Index)
		if err != nil {
			c.say(levelNote, about, "%v", err)
			return
		}
		for _, v := range vlans {
			have = append(have, v.ID)
		}
	}
	for id := 1; id < 4095; id++ {
		if u.Allows(id) && !slices.Contains(have, id) {
			missing = append(missing, id)
		}
	}
	if len(missing) == 0 {
		c.say(levelOK, about, "%s carries its VLANs beyond the guests' taps", br.Name)
		return
	}
	vids := setting.FormatVLANs(missing)
	first, _, _ := strings.Cut(vids, ",")
	c.say(levelNote, about, "no port of %s but guests' taps carries VLANs %s: bridge vlan add dev UPLINK vid %s, and so on", br.Name, vids, first)
}

// networks says which of libvirt's running networks hand out devices, and whether our
// hook for networks is there, which keeps them from handing out what a guest has.
func (c *checker) networks() {
	pools := hooks.Pools(hooks.LibvirtFolder(hooks.LibvirtDir))
	if len(pools) == 0 {
		return
	}
	main := filepath.Join(hooksDir, "network")
	installed, _ := filepath.Glob(main + ".d/*") // the pattern is well-formed
	installed = slices.DeleteFunc(append(installed, main), func(path string) bool {
		return !ourHook(path) || !executable(path)
	})
	var names []string
	for _, n := range pools {
		names = append(names, n.Name)
	}
	if len(installed) > 0 {
		c.say(levelOK, "networks", "%s hand out devices of this host; %s sees to it", strings.Join(names, ", "), installed[0])
		return
	}
	how := "ln -s qemu " + main
	if _, err := os.Lstat(main); err == nil {
		how = "install it as " + main + ".d/50-libvirt-direct"
	}
	c.say(levelNote, "networks", "%s hand out devices of this host, and our hook for networks is not installed: %s, then reload libvirtd or virtnetworkd", strings.Join(names, ", "), how)
}
