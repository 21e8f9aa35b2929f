package hooks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"libvirt-direct/internal/config"
	"libvirt-direct/internal/link"
	setting "libvirt-direct/internal/settings"
	"libvirt-direct/xmlfilter"
)

// bridgeKernel is what the hook asks of the kernel for ports of Linux bridges.
type bridgeKernel interface {
	SetPortFlags(ctx context.Context, index int, want link.PortFlags) error
	SetPortVLANs(ctx context.Context, index int, want []link.PortVLAN) error
	AddPortMAC(ctx context.Context, index int, mac string) error
}

// ErrBridge: the bridge is not set up for what the NIC asks.
var ErrBridge = errors.New("the bridge is not set up for it")

// BridgePort sets on the tap that libvirt has put into a bridge what libvirt does not.
// There is nothing to undo: the tap goes with the domain.
type BridgePort struct {
	momentary
	Device string          `json:"device"` // "" before libvirt has made it
	Bridge string          `json:"bridge"`
	Flags  link.PortFlags  `json:"flags"`
	VLANs  []link.PortVLAN `json:"vlans,omitempty"` // nil: as they are
	// MAC is the guest's, for a port that does not learn.
	MAC string `json:"mac,omitempty"`
}

func (b *BridgePort) key() string { return "bridge port " + b.Device }

func (b *BridgePort) does() string {
	return fmt.Sprintf("set %s in bridge %s: %s", cmp.Or(b.Device, "its tap"), b.Bridge, b)
}

func (b *BridgePort) holds() string { return b.does() }

func (b *BridgePort) String() string {
	text := b.Flags.String()
	if v := portVLANText(b.VLANs); v != "" {
		text = joinText(text, v)
	}
	if b.MAC != "" {
		text = joinText(text, "address "+b.MAC)
	}
	return text
}

func joinText(a, b string) string {
	if a == "" {
		return b
	}
	return a + ", " + b
}

// portVLANText says what VLANs a port has: "VLAN 10", or "native VLAN 10, tagged 20-29".
func portVLANText(vlans []link.PortVLAN) string {
	var tagged []int
	text := ""
	for _, v := range vlans {
		switch {
		case v.PVID && v.Untagged && len(vlans) == 1:
			return "VLAN " + strconv.Itoa(v.ID)
		case v.PVID && v.Untagged:
			text = "native VLAN " + strconv.Itoa(v.ID)
		case v.PVID:
			text = "native VLAN " + strconv.Itoa(v.ID) + " (tagged)"
		default:
			tagged = append(tagged, v.ID)
		}
	}
	if len(tagged) > 0 {
		text = joinText(text, "tagged "+setting.FormatVLANs(tagged))
	}
	return text
}

// onBridge reports whether a NIC is, or can turn out to be, a tap in a Linux bridge.
// type='network' is one where libvirt's network is NAT, routed or isolated, and shows as
// type='bridge' or another once libvirt has resolved it.
func onBridge(n *xmlfilter.NIC) bool {
	return n.Type == "bridge" && n.VirtualPort == nil || n.Type == "network"
}

// portSettingsFit refuses settings for a bridge's port where the NIC is none.
func portSettingsFit(n *xmlfilter.NIC, s settings) error {
	w := s.port
	switch {
	case !w.Set() || onBridge(n):
	case !onOVS(n) && wasOnOVS(n) == nil:
		return remedy(ErrUnsuitable, "isolated, learning, hairpin, bpduguard, trunk and native are for ports of a bridge, and this is type='%s'", n.Type)
	case w.Learning != nil || w.Hairpin != nil || w.BPDUGuard != nil:
		return remedy(ErrUnsuitable, "learning, hairpin and bpduguard are for ports of a Linux bridge, and this is one of Open vSwitch")
	}
	return nil
}

// prepareBridge checks a NIC in a bridge; handled is false for others.
func (p *planner) prepareBridge(n *xmlfilter.NIC, s settings) (handled bool, err error) {
	if !onBridge(n) {
		return false, nil
	}
	if !s.choosesNothing() || s.uplink != nil && n.Type == "network" {
		return true, remedy(ErrUnsuitable, "libvirt makes the device of type='%s': its settings cannot say dev, mode or own='hook', nor uplink of a network", n.Type)
	}
	if n.Type == "network" {
		return true, nil // what libvirt makes of it is seen at start
	}
	if s.vf.Set() {
		return true, remedy(ErrUnsuitable, "qos, proto, trust and the like are for virtual functions, and this is a port of %s", n.Source.Bridge)
	}
	_, err = p.bridgePort(n, s)
	return true, err
}

// bridgePort returns what is to be set on a NIC's tap; nil for nothing.
func (p *planner) bridgePort(n *xmlfilter.NIC, s settings) (*BridgePort, error) {
	vlans, err := portVLANs(s)
	if err != nil || !s.port.Set() && s.vlan == 0 && s.uplink == nil {
		return nil, err
	}
	dev, there := p.find(n.Source.Bridge)
	br := dev.Bridge
	switch {
	case !there:
		return nil, remedy(ErrNoDevice, "bridge %q", n.Source.Bridge)
	case br == nil:
		return nil, remedy(ErrUnsuitable, "%s is no Linux bridge", dev.Name)
	case n.MTU > dev.MTU:
		return nil, remedy(ErrBridge, "<mtu size='%d'> is larger than %d of %s; run: ip link set %[3]s mtu %[1]d", n.MTU, dev.MTU, dev.Name)
	case vlans != nil && !br.VLANFiltering:
		return nil, remedy(ErrBridge, "%s does not filter VLANs; run: ip link set %[1]s type bridge vlan_filtering 1, and let its uplink have them: bridge vlan add dev UPLINK vid %d",
			dev.Name, vlans[0].ID)
	case s.port.BPDUGuard != nil && *s.port.BPDUGuard && !br.STP:
		return nil, remedy(ErrBridge, "%s runs no spanning tree, so that a guard on its ports sees no BPDU; run: ip link set %[1]s type bridge stp_state 1, or leave bpduguard out", dev.Name)
	}
	if s.uplink != nil {
		want, err := p.uplink(s.uplink)
		if err != nil {
			return nil, err
		}
		if want.Index != dev.Index {
			return nil, p.notRewritten(fmt.Sprintf("uplink %q is %s here, and its <source> says %s", s.uplink.Name, want.Name, n.Source.Bridge))
		}
	}
	if u := p.host.uplinkOf(p.cfg, dev.Name); u != nil {
		for _, v := range vlans {
			if !u.Allows(v.ID) {
				return nil, remedy(ErrNotAllowed, "VLAN %d on uplink %q; add it to vlans of [uplink.%s] in %s", v.ID, u.Name, u.Name, config.Path)
			}
		}
	}
	b := &BridgePort{Device: n.Target, Bridge: dev.Name, VLANs: vlans, Flags: link.PortFlags{
		Isolated: s.port.Isolated, Learning: s.port.Learning, Hairpin: s.port.Hairpin, BPDUGuard: s.port.BPDUGuard,
	}}
	if l := s.port.Learning; l != nil && !*l {
		b.MAC = n.MAC
	}
	if b.Flags == (link.PortFlags{}) && vlans == nil {
		return nil, nil
	}
	return b, nil
}

// portVLANs returns the VLANs that a NIC's settings want of its bridge port; nil where
// they say nothing of them.
func portVLANs(s settings) ([]link.PortVLAN, error) {
	if s.port.Native != "" && (s.vlan == 0 || s.port.Trunk == "") {
		return nil, remedy(ErrUnsuitable, "native='%s' needs vlan, the native one, and trunk", s.port.Native)
	}
	tagged, err := setting.ParseVLANs(s.port.Trunk)
	if err != nil {
		return nil, remedy(ErrUnsuitable, "trunk='%s': %v", s.port.Trunk, err)
	}
	var vlans []link.PortVLAN
	if s.vlan != 0 {
		vlans = append(vlans, link.PortVLAN{ID: s.vlan, PVID: true, Untagged: s.port.Native != "tagged"})
	}
	for _, id := range tagged {
		if id != s.vlan {
			vlans = append(vlans, link.PortVLAN{ID: id})
		}
	}
	return vlans, nil
}

// startBridge plans what is set on a tap that libvirt has put into a bridge by now;
// handled is false for NICs that are none.
func (p *planner) startBridge(n *xmlfilter.NIC, s settings) (handled bool, err error) {
	if onBridge(n) {
		if s.vf.Set() {
			return true, remedy(ErrUnsuitable, "qos, proto, trust and the like are for virtual functions, and libvirt has put it into bridge %s", n.Source.Bridge)
		}
		b, err := p.bridgePort(n, s)
		if err != nil || b == nil {
			return true, err
		}
		p.add(Step{NIC: p.id(n), BridgePort: b})
		return true, nil
	}
	if _, vf := p.onVF(n); n.Type == "direct" && n.Source.Network != "" && s.vlan != 0 && !vf {
		return true, remedy(ErrUnsuitable, "vlan='%d': libvirt's network %q has given it %s, which is no virtual function; name the VLAN's own device in the network",
			s.vlan, n.Source.Network, n.Source.Dev)
	}
	return false, nil
}

func (*BridgePort) do(ctx context.Context, a *applier, s Step) error {
	b := s.BridgePort
	dev, err := a.kernel.ByName(ctx, b.Device)
	if err != nil {
		return err
	}
	bridge, err := a.kernel.ByName(ctx, b.Bridge)
	if err != nil {
		return err
	}
	if dev.Master != bridge.Index {
		return fmt.Errorf("%w: %s is no port of %s", ErrWrongDevice, b.Device, b.Bridge)
	}
	if b.Flags != (link.PortFlags{}) {
		if err := a.kernel.SetPortFlags(ctx, dev.Index, b.Flags); err != nil {
			return err
		}
	}
	if b.VLANs != nil {
		if err := a.kernel.SetPortVLANs(ctx, dev.Index, b.VLANs); err != nil {
			return err
		}
	}
	if b.MAC != "" { // behind the VLANs: it is entered in each that the port has
		if err := a.kernel.AddPortMAC(ctx, dev.Index, b.MAC); err != nil {
			return err
		}
	}
	a.note("%s in %s has %s", b.Device, b.Bridge, b)
	return nil
}

// bridge returns what is to be changed in a NIC that is a tap in a Linux bridge; handled
// is false for others. libvirt 9.0 refuses <vlan> there: the settings have it then.
func (r *rewriter) bridge(n *xmlfilter.NIC, s settings) (c xmlfilter.Change, handled bool, err error) {
	if !onBridge(n) {
		return c, false, nil
	}
	if n.Type == "bridge" && n.VLAN != nil {
		words, err := vlanSettings(n.VLAN, s)
		if err != nil {
			return c, true, err
		}
		c.DropVLAN, c.Settings = true, newSettings(n, words)
		s.vlan, _ = strconv.Atoi(words[setting.NameVLAN])
		s.port.Trunk, s.port.Native = words[setting.NameTrunk], words[setting.NameNative]
	}
	here := *n
	if n.Type == "bridge" && s.uplink != nil {
		dev, err := r.uplink(s.uplink)
		if err != nil {
			return c, true, err
		}
		if dev.Name != n.Source.Bridge {
			c.SourceBridge, here.Source.Bridge = dev.Name, dev.Name
		}
	}
	_, err = r.prepareBridge(&here, s)
	return c, true, err
}

// vlanSettings turns <vlan> into settings.
func vlanSettings(v *xmlfilter.VLAN, s settings) (map[string]string, error) {
	words := map[string]string{}
	tagged := slices.Clone(v.Tags)
	native := v.NativeTag
	if !v.Trunk && len(v.Tags) == 1 {
		native = v.Tags[0]
	}
	if native != 0 {
		words[setting.NameVLAN] = strconv.Itoa(native)
		tagged = slices.DeleteFunc(tagged, func(id int) bool { return id == native })
	}
	if len(tagged) > 0 {
		words[setting.NameTrunk] = setting.FormatVLANs(tagged)
		if v.NativeMode == "tagged" {
			words[setting.NameNative] = v.NativeMode
		}
	}
	vlan := ""
	if s.vlan != 0 {
		vlan = strconv.Itoa(s.vlan)
	}
	for name, have := range map[string]string{setting.NameVLAN: vlan, setting.NameTrunk: s.port.Trunk} {
		if have != "" && have != words[name] {
			return nil, remedy(ErrUnsuitable, "<vlan> says %s='%s' and its settings say '%s'", name, words[name], have)
		}
	}
	return words, nil
}
