package plan

import (
	"cmp"
	"fmt"
	"slices"

	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/ovs"
	"libvirt-direct/internal/settings"
	"libvirt-direct/xmlfilter"
)

// typeOVS is the <virtualport type=> of Open vSwitch.
const typeOVS = "openvswitch"

// onOVS reports whether libvirt makes a port of Open vSwitch for a NIC. One on a
// libvirt network is seen to be such only from start on, when libvirt has looked
// into its network.
func onOVS(n *xmlfilter.NIC) bool {
	return n.Type == "bridge" && n.VirtualPort != nil && n.VirtualPort.Type == typeOVS
}

// WasOnOVS returns the NIC as it was before it became hook-owned, nil if that was not
// on Open vSwitch.
func WasOnOVS(n *xmlfilter.NIC) *xmlfilter.NIC {
	if n.Settings == nil || n.Settings.Was == nil || n.Settings.Was.Source.Bridge == "" {
		return nil
	}
	if v := n.Settings.Was.VirtualPort; v == nil || v.Type != typeOVS {
		return nil
	}
	return n.Settings.Was
}

// ovsPort is a NIC on Open vSwitch.
type ovsPort struct{ *planner }

// prepare plans what is done before libvirt makes the port, or in its place.
func (p ovsPort) prepare(n *xmlfilter.NIC, s Settings) (handled bool, err error) {
	was := WasOnOVS(n)
	switch {
	case n.Type == "network" && s.OVS != nil && s.Own:
		return true, step.Hint(step.ErrUnsuitable, "libvirt looks into its network only after this; to be hook-owned it needs <interface type='bridge'>")
	case onOVS(n) && s.Own:
		return true, p.notRewritten("it asks to be hook-owned")
	case onOVS(n):
		if u := p.host.Called(p.cfg, n.Source.Bridge); u != nil && n.Settings != nil {
			if dev, err := p.uplink(u); err != nil || dev.Name != n.Source.Bridge {
				return true, cmp.Or(err, p.notRewritten(fmt.Sprintf("uplink %q is %s here, and its <source> says %s", u.Name, dev.Name, n.Source.Bridge)))
			}
		}
		_, err := p.port(n, s)
		return true, err
	case n.Type == "ethernet" && s.Own && was != nil:
		return true, p.hookOwned(n, was, s)
	case s.saysOVS() && n.Type != "network":
		return true, notOVS(n)
	}
	return false, nil
}

// saysOVS reports whether anything is said that only Open vSwitch can do.
func (s Settings) saysOVS() bool { return s.OVS != nil || s.IfaceID != "" }

func notOVS(n *xmlfilter.NIC) error {
	return step.Hint(step.ErrUnsuitable, "ifaceid and [profile.NAME.ovs] are for ports of Open vSwitch, and type='%s' is here without <virtualport type='openvswitch'>", n.Type)
}

// start plans what is set on the port that libvirt has made.
func (p ovsPort) start(n *xmlfilter.NIC, s Settings) (handled bool, err error) {
	if n.Type == "ethernet" {
		return WasOnOVS(n) != nil, nil
	}
	if !onOVS(n) {
		if s.saysOVS() {
			return true, notOVS(n)
		}
		return false, nil
	}
	if !config.ValidIfname(n.Target) {
		return true, step.Hint(step.ErrWrongDevice, "libvirt has named no device for it: %q", n.Target)
	}
	port, err := p.port(n, s)
	if err != nil || n.Settings == nil { // a plain guest's is libvirt's alone
		return true, err
	}
	port.Name, port.Bridge = n.Target, ""
	if s.IfaceID != "" {
		port.IDs = map[string]string{"iface-id": s.IfaceID}
	}
	if n.VLAN != nil && port.VLAN != nil && port.VLAN.Mode != "dot1q-tunnel" {
		port.VLAN = nil // libvirt has set it
	}
	p.add(step.Step{NIC: p.id(n), Kind: &step.OVSPort{Port: port, Assisted: true, AwaitOVN: s.OVS != nil && s.OVS.OVN}})
	return true, nil
}

// hookOwned plans the tap and the port of a NIC that is <interface type='ethernet'>
// for libvirt. was is the NIC before that.
func (p ovsPort) hookOwned(n, was *xmlfilter.NIC, s Settings) error {
	switch {
	case !madeByKernel(n):
		return errTooMuch(n)
	case n.MAC == "":
		return step.Hint(step.ErrUnsuitable, "it has no <mac address=>")
	case !config.ValidIfname(n.Target) || n.Managed != "no":
		return p.notRewritten("it has no <target dev= managed='no'>")
	}
	in := *was
	if s.Uplink != nil { // what is kept can be another host's name
		dev, err := p.uplink(s.Uplink)
		if err != nil {
			return err
		}
		in.Source.Bridge = dev.Name
	}
	port, err := p.port(&in, s)
	if err != nil {
		return err
	}
	port.Name = n.Target
	given := was.VirtualPort.Parameters
	// What libvirt would set (src/util/virnetdevopenvswitch.c).
	port.IDs = map[string]string{
		"attached-mac": n.MAC, "iface-id": cmp.Or(s.IfaceID, given["interfaceid"]), "vm-id": p.domain.UUID, "iface-status": "active",
	}
	if given["profileid"] != "" {
		port.IDs["port-profile"] = given["profileid"]
	}
	if port.IDs["iface-id"] == "" {
		return step.Hint(step.ErrUnsuitable, "its <virtualport> has no interfaceid; define the domain first, libvirt gives it one")
	}
	p.add(step.Step{NIC: p.id(n), Kind: &step.Tap{Name: n.Target, MTU: n.MTU, Queues: n.Queues}})
	p.add(step.Step{NIC: p.id(n), Kind: &step.OVSPort{Port: port, AwaitOVN: s.OVS != nil && s.OVS.OVN}})
	return nil
}

// port is the port of a NIC, but for its name. in is the <interface> with the
// bridge, the VLANs and the virtualport. It refuses VLANs that the host forbids.
func (p ovsPort) port(in *xmlfilter.NIC, s Settings) (ovs.Port, error) {
	if s.VF.Set() {
		return ovs.Port{}, step.Hint(step.ErrUnsuitable, "qos, proto, trust and the like are for virtual functions, and this is a port of Open vSwitch")
	}
	if o := s.OVS; o != nil && in.Bandwidth && (o.IngressRate > 0 || o.MinRate > 0 || o.MaxRate > 0) {
		return ovs.Port{}, step.Hint(step.ErrUnsuitable, "it has <bandwidth>, which is libvirt's, and its profile says rates; leave one out")
	}
	u, err := p.bridgeUplink(in.Source.Bridge, s.Uplink)
	if err != nil {
		return ovs.Port{}, err
	}
	port, err := portOf(in.Source.Bridge, p.domain.UUID, in.VLAN, s.VLAN, s.Port, s.OVS, u)
	if err != nil {
		return port, err
	}
	for _, other := range p.host.uplinksAt(p.cfg, p.host.Devices[in.Source.Bridge]) {
		if err := allowOVS(other, port.VLAN); err != nil {
			return port, err
		}
	}
	return port, nil
}

// ProfilePort is the port, but for its name, that a profile means without a domain, and
// for who says a VLAN himself. It refuses VLANs that the uplink, if any, does not allow.
func ProfilePort(bridge, owner string, p *config.Profile, u *config.Uplink, vlan int) (ovs.Port, error) {
	return portOf(bridge, owner, nil, vlan, p.Port, p.OVS, u)
}

func portOf(bridge, owner string, x *xmlfilter.VLAN, tag int, w settings.Port, o *settings.OVS, u *config.Uplink) (ovs.Port, error) {
	port := ovs.Port{Bridge: bridge, Owner: owner, Protected: w.Isolated != nil && *w.Isolated}
	if o == nil {
		o = &settings.OVS{}
	}
	vlan, err := ovsVLAN(x, tag, w, o.Tunnel)
	if err != nil {
		return port, err
	}
	if err := allowOVS(u, vlan); err != nil {
		return port, err
	}
	port.VLAN, port.MTU, port.Mirror = vlan, o.MTU, o.Mirror
	port.IngressRate, port.IngressBurst = o.IngressRate, o.IngressBurst
	if o.MinRate > 0 || o.MaxRate > 0 {
		port.QoS = &ovs.QoS{Type: cmp.Or(o.QoS, "linux-htb"), MinRate: o.MinRate * 1_000_000, MaxRate: o.MaxRate * 1_000_000}
	}
	return port, nil
}

// ovsVLAN is a port's part in VLANs: x, its NIC's <vlan>, as libvirt translates that, or
// else what the settings and the profile say.
func ovsVLAN(x *xmlfilter.VLAN, tag int, w settings.Port, tunnel bool) (*ovs.VLAN, error) {
	v := &ovs.VLAN{}
	var err error
	if v.Trunks, err = settings.ParseVLANs(w.Trunk); err != nil {
		return nil, step.Hint(step.ErrUnsuitable, "trunk='%s': %v", w.Trunk, err)
	}
	if tag != 0 {
		v.Tag = &tag
	}
	switch said := v.Trunks != nil || v.Tag != nil; {
	case w.Native != "" && (v.Tag == nil || v.Trunks == nil):
		return nil, step.Hint(step.ErrUnsuitable, "native='%s' needs vlan, the native one, and trunk", w.Native)
	case x != nil && said:
		return nil, step.Hint(step.ErrUnsuitable, "it has <vlan>, and its settings or profile say VLANs too; leave one out")
	case v.Tag != nil && v.Trunks != nil:
		v.Mode = "native-" + cmp.Or(w.Native, "untagged")
	case x != nil && x.NativeMode != "":
		v.Mode, v.Tag = "native-"+x.NativeMode, &x.NativeTag
	}
	if x != nil && x.Trunk {
		v.Trunks = x.Tags
	} else if x != nil && len(x.Tags) > 0 {
		v.Tag = &x.Tags[0]
	}
	switch {
	case tunnel && (v.Tag == nil || v.Trunks != nil):
		return nil, step.Hint(step.ErrUnsuitable, "a tunnel needs one VLAN: say vlan, or <vlan> with one tag")
	case tunnel:
		v.Mode = "dot1q-tunnel"
	case v.Tag == nil && v.Trunks == nil:
		return nil, nil
	}
	return v, nil
}

// bridgeUplink returns the uplink whose device a bridge is, nil if there is none. said is
// the one that the NIC's settings name.
func (p ovsPort) bridgeUplink(bridge string, said *config.Uplink) (*config.Uplink, error) {
	if said == nil {
		return p.host.uplinkOf(p.cfg, bridge), nil
	}
	dev, err := p.uplink(said)
	if err != nil {
		return nil, err
	}
	if dev.Name != bridge {
		return nil, p.notRewritten(fmt.Sprintf("uplink %q is %s here, and its <source> says %s", said.Name, dev.Name, bridge))
	}
	return said, nil
}

// allowOVS checks a port's VLANs against those that the host allows on its bridge. A
// port without any VLAN is a trunk of all of them for Open vSwitch.
func allowOVS(u *config.Uplink, v *ovs.VLAN) error {
	if u == nil || u.VLANs == nil {
		return nil
	}
	refuse := func(format string, args ...any) error {
		return step.Hint(ErrNotAllowed, "%s on uplink %q; vlans of [uplink.%s] in %s says which are", fmt.Sprintf(format, args...), u.Name, u.Name, config.Path)
	}
	if v == nil {
		return refuse("a port without <vlan>, which is a trunk of every VLAN,")
	}
	ids := slices.Clone(v.Trunks)
	if v.Tag != nil {
		ids = append(ids, *v.Tag)
	}
	for _, id := range ids {
		if !u.Allows(id) {
			return refuse("VLAN %d", id)
		}
	}
	return nil
}

// convert says how a NIC's XML is to become one that the hook can own, and maps its bridge
// by uplink.
func (p ovsPort) convert(n *xmlfilter.NIC, s Settings) (c xmlfilter.Change, handled bool, err error) {
	if n.Type == "ethernet" && s.Own && WasOnOVS(n) != nil {
		devices(p).rename(n, &c)
		return c, true, nil // its settings name the uplink, or its bridge has one name everywhere
	}
	if !onOVS(n) {
		return c, false, nil
	}
	u := s.Uplink
	if u == nil {
		u = p.host.Called(p.cfg, n.Source.Bridge)
	}
	noted := map[string]string{}
	if u != nil {
		dev, err := p.uplink(u)
		if err != nil {
			return c, true, err
		}
		if dev.Name != n.Source.Bridge {
			c.SourceBridge = dev.Name
		}
		if c.SourceBridge != "" || s.Own {
			noted[settings.NameUplink] = u.Name
		}
	}
	if s.Own {
		if n.MAC == "" {
			return c, true, step.Hint(step.ErrUnsuitable, "it has no <mac address=>; define the domain first, libvirt gives it one")
		}
		if n.Source.Bridge == "" { // what is kept would not tell that it was on Open vSwitch
			return c, true, step.Hint(step.ErrUnsuitable, "its <source> names no bridge; add bridge='NAME' to the first <source>")
		}
		noted[settings.NameOwn] = settings.OwnHook
		c.SourceBridge, c.Ethernet = "", targetName(p.domain, n)
		c.Keep = true // the bridge, VLANs and interface ID are read from what is kept
	}
	c.Settings = newSettings(n, noted)
	return c, true, nil
}

func (p ovsPort) remap(n *xmlfilter.NIC, s Settings) (r Rename, handled bool, err error) {
	if n.Type == "ethernet" && s.Own && WasOnOVS(n) != nil {
		return r, true, nil // its settings name the uplink, or its bridge has one name everywhere
	}
	if !onOVS(n) {
		return r, false, nil
	}
	u := cmp.Or(s.Uplink, p.host.Called(p.cfg, n.Source.Bridge))
	if u == nil {
		return r, true, nil
	}
	dev, err := p.uplink(u)
	if err == nil && dev.Name != n.Source.Bridge {
		r.Bridge, r.Noted = dev.Name, newSettings(n, map[string]string{settings.NameUplink: u.Name})
	}
	return r, true, err
}
