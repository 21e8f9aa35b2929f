package plan

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/settings"
	"libvirt-direct/xmlfilter"
)

// ErrBridge: the bridge is not set up for what the NIC asks.
var ErrBridge = errors.New("the bridge is not set up for it")

// onBridge reports whether a NIC is, or can turn out to be, a tap in a Linux bridge.
// type='network' is one where libvirt's network is NAT, routed or isolated, and shows as
// type='bridge' or another once libvirt has resolved it.
func onBridge(n *xmlfilter.NIC) bool {
	return n.Type == "bridge" && n.VirtualPort == nil || n.Type == "network"
}

// portSettingsFit refuses settings for a bridge's port where the NIC is none.
func portSettingsFit(n *xmlfilter.NIC, s Settings) error {
	if onBridge(n) {
		if is(s.Port.Locked, true) && is(s.Port.Learning, true) {
			return step.Hint(step.ErrUnsuitable, "locked='yes' with learning='yes': the bridge would learn the addresses that the lock is to keep out; leave learning out, or say learning='no'")
		}
		return nil
	}
	isOVS := onOVS(n) || WasOnOVS(n) != nil
	for _, setting := range settings.All() {
		text, set := setting.Text(settings.NIC{Port: s.Port})
		switch {
		case !set || isOVS && setting.NICs&settings.OnOVS != 0:
		case isOVS:
			return step.Hint(step.ErrUnsuitable, "%s='%s' is for ports of a Linux bridge, and this is one of Open vSwitch", setting.Name, text)
		default:
			return step.Hint(step.ErrUnsuitable, "%s='%s' is for ports of a bridge, and this is type='%s'", setting.Name, text, n.Type)
		}
	}
	return nil
}

// is reports whether a flag is set to a value.
func is(flag *bool, value bool) bool { return flag != nil && *flag == value }

// bridgePort is a NIC whose tap is, or can turn out to be, a port of a Linux bridge.
type bridgePort struct{ *planner }

// prepare checks a NIC in a bridge; handled is false for others.
func (p bridgePort) prepare(n *xmlfilter.NIC, s Settings) (handled bool, err error) {
	if !onBridge(n) {
		return false, nil
	}
	if !s.choosesNothing() || s.Uplink != nil && n.Type == "network" {
		return true, step.Hint(step.ErrUnsuitable, "libvirt makes the device of type='%s': its settings cannot say dev, mode or own='hook', nor uplink of a network", n.Type)
	}
	if n.Type == "network" {
		return true, nil // what libvirt makes of it is seen at start
	}
	if s.VF.Set() {
		return true, step.Hint(step.ErrUnsuitable, "qos, proto, trust and the like are for virtual functions, and this is a port of %s", n.Source.Bridge)
	}
	_, err = p.port(n, s)
	return true, err
}

// port returns what is to be set on a NIC's tap; nil for nothing.
func (p bridgePort) port(n *xmlfilter.NIC, s Settings) (*step.BridgePort, error) {
	vlans, err := portVLANs(s)
	if err != nil || !s.Port.Set() && s.VLAN == 0 && s.Uplink == nil {
		return nil, err
	}
	dev, there := p.find(n.Source.Bridge)
	br := dev.Bridge
	switch {
	case !there:
		return nil, step.Hint(ErrNoDevice, "bridge %q", n.Source.Bridge)
	case br == nil:
		return nil, step.Hint(step.ErrUnsuitable, "%s is no Linux bridge", dev.Name)
	case n.MTU > dev.MTU:
		return nil, step.Hint(ErrBridge, "<mtu size='%d'> is larger than %d of %s; run: ip link set %[3]s mtu %[1]d", n.MTU, dev.MTU, dev.Name)
	case vlans != nil && !br.VLANFiltering:
		return nil, step.Hint(ErrBridge, "%s does not filter VLANs; run: ip link set %[1]s type bridge vlan_filtering 1, and let its uplink have them: bridge vlan add dev UPLINK vid %d",
			dev.Name, vlans[0].ID)
	case is(s.Port.BPDUGuard, true) && !br.STP:
		return nil, step.Hint(ErrBridge, "%s runs no spanning tree, so that a guard on its ports sees no BPDU; run: ip link set %[1]s type bridge stp_state 1, or leave bpduguard out", dev.Name)
	}
	if s.Uplink != nil {
		want, err := p.uplink(s.Uplink)
		if err != nil {
			return nil, err
		}
		if want.Index != dev.Index {
			return nil, p.notRewritten(fmt.Sprintf("uplink %q is %s here, and its <source> says %s", s.Uplink.Name, want.Name, n.Source.Bridge))
		}
	}
	if u := p.host.uplinkOf(p.cfg, dev.Name); u != nil {
		for _, v := range vlans {
			if !u.Allows(v.ID) {
				return nil, step.Hint(ErrNotAllowed, "VLAN %d on uplink %q; add it to vlans of [uplink.%s] in %s", v.ID, u.Name, u.Name, config.Path)
			}
		}
	}
	b := &step.BridgePort{Device: n.Target, Bridge: dev.Name, VLANs: vlans, Flags: link.PortFlags(s.Port.PortFlags)}
	if is(b.Flags.Locked, true) {
		learning := false
		b.Flags.Learning = &learning
	}
	if is(b.Flags.Learning, false) {
		b.MAC = n.MAC
	}
	if b.Flags == (link.PortFlags{}) && vlans == nil {
		return nil, nil
	}
	return b, nil
}

// portVLANs returns the VLANs that a NIC's settings want of its bridge port; nil where
// they say nothing of them.
func portVLANs(s Settings) ([]link.PortVLAN, error) {
	if s.Port.Native != "" && (s.VLAN == 0 || s.Port.Trunk == "") {
		return nil, step.Hint(step.ErrUnsuitable, "native='%s' needs vlan, the native one, and trunk", s.Port.Native)
	}
	tagged, err := settings.ParseVLANs(s.Port.Trunk)
	if err != nil {
		return nil, step.Hint(step.ErrUnsuitable, "trunk='%s': %v", s.Port.Trunk, err)
	}
	var vlans []link.PortVLAN
	if s.VLAN != 0 {
		vlans = append(vlans, link.PortVLAN{ID: s.VLAN, PVID: true, Untagged: s.Port.Native != "tagged"})
	}
	for _, id := range tagged {
		if id != s.VLAN {
			vlans = append(vlans, link.PortVLAN{ID: id})
		}
	}
	return vlans, nil
}

// start plans what is set on a tap that libvirt has put into a bridge by now;
// handled is false for NICs that are none.
func (p bridgePort) start(n *xmlfilter.NIC, s Settings) (handled bool, err error) {
	if onBridge(n) {
		if s.VF.Set() {
			return true, step.Hint(step.ErrUnsuitable, "qos, proto, trust and the like are for virtual functions, and libvirt has put it into bridge %s", n.Source.Bridge)
		}
		b, err := p.port(n, s)
		if err != nil || b == nil {
			return true, err
		}
		p.add(step.Step{NIC: p.id(n), Kind: b})
		return true, nil
	}
	if _, vf := p.onVF(n); n.Type == "direct" && n.Source.Network != "" && s.VLAN != 0 && !vf {
		return true, step.Hint(step.ErrUnsuitable, "vlan='%d': libvirt's network %q has given it %s, which is no virtual function; name the VLAN's own device in the network",
			s.VLAN, n.Source.Network, n.Source.Dev)
	}
	return false, nil
}

// convert returns what is to be changed in a NIC that is a tap in a Linux bridge; handled
// is false for others. libvirt 9.0 refuses <vlan> there: the settings have it then.
func (p bridgePort) convert(n *xmlfilter.NIC, s Settings) (c xmlfilter.Change, handled bool, err error) {
	if !onBridge(n) {
		return c, false, nil
	}
	if n.Type == "bridge" && n.VLAN != nil {
		words, err := vlanSettings(n.VLAN, s)
		if err != nil {
			return c, true, err
		}
		c.DropVLAN, c.Settings = true, newSettings(n, words)
		s.VLAN, _ = strconv.Atoi(words[settings.NameVLAN])
		s.Port.Trunk, s.Port.Native = words[settings.NameTrunk], cmp.Or(words[settings.NameNative], s.Port.Native)
	}
	here := *n
	if n.Type == "bridge" && s.Uplink != nil {
		dev, err := p.uplink(s.Uplink)
		if err != nil {
			return c, true, err
		}
		if dev.Name != n.Source.Bridge {
			c.SourceBridge, here.Source.Bridge = dev.Name, dev.Name
		}
	}
	_, err = p.prepare(&here, s)
	return c, true, err
}

// vlanSettings turns <vlan> into settings.
func vlanSettings(v *xmlfilter.VLAN, s Settings) (map[string]string, error) {
	words := map[string]string{}
	tagged := slices.Clone(v.Tags)
	native := v.NativeTag
	if !v.Trunk && len(v.Tags) == 1 {
		native = v.Tags[0]
	}
	if native != 0 {
		words[settings.NameVLAN] = strconv.Itoa(native)
		tagged = slices.DeleteFunc(tagged, func(id int) bool { return id == native })
	}
	if len(tagged) > 0 {
		words[settings.NameTrunk] = settings.FormatVLANs(tagged)
		if v.NativeMode == "tagged" {
			words[settings.NameNative] = v.NativeMode
		}
	}
	vlan := ""
	if s.VLAN != 0 {
		vlan = strconv.Itoa(s.VLAN)
	}
	if have := s.Port.Native; have != "" && v.NativeMode != "" && have != v.NativeMode {
		return nil, step.Hint(step.ErrUnsuitable, "<vlan> says nativeMode='%s' and its settings say native='%s'", v.NativeMode, have)
	}
	for name, have := range map[string]string{settings.NameVLAN: vlan, settings.NameTrunk: s.Port.Trunk} {
		if have != "" && have != words[name] {
			return nil, step.Hint(step.ErrUnsuitable, "<vlan> says %s='%s' and its settings say '%s'", name, words[name], have)
		}
	}
	return words, nil
}

func (p bridgePort) remap(n *xmlfilter.NIC, s Settings) (r Rename, handled bool, err error) {
	if !onBridge(n) || n.Type == "network" || s.Uplink == nil {
		return r, onBridge(n), nil
	}
	dev, err := p.uplink(s.Uplink)
	if err == nil && dev.Name != n.Source.Bridge {
		r.Bridge = dev.Name
	}
	return r, true, err
}
