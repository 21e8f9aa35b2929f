package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/settings"
	"libvirt-direct/xmlfilter"
)

// newPlanner starts a plan in which the VFs that the domain names are not free.
func newPlanner(op step.Op, d *xmlfilter.Domain, cfg *config.Config, host Snapshot) *planner {
	p := &planner{op: op, domain: d, cfg: cfg, host: host, taken: map[link.VFPlace]bool{}}
	for _, vf := range host.VFs {
		p.taken[vf.VFPlace] = true
	}
	return p
}

// onVF returns the VF that a NIC is, or whose device it stands on in passthrough mode.
func (p *planner) onVF(n *xmlfilter.NIC) (VFDevice, bool) {
	name := n.Source.PCI
	switch {
	case n.Type == "direct" && n.Source.Mode == "passthrough":
		name = n.Source.Dev
	case n.Type != "hostdev":
		return VFDevice{}, false
	}
	vf, ok := p.host.VFs[name]
	return vf, ok
}

// function is a NIC that is a virtual function, or stands on one or on a whole device in
// passthrough mode.
type function struct{ *planner }

// prepare plans for a NIC that is a VF; handled is false for one that is not.
func (p function) prepare(n *xmlfilter.NIC, s Settings) (handled bool, err error) {
	if n.Type == "ethernet" && s.Own {
		return p.owned(n, s)
	}
	vf, ok := p.onVF(n)
	switch {
	case n.Type == "hostdev" && n.Settings == nil && !ok:
		return true, nil // a plain guest's, and none of ours to judge
	case n.Type == "hostdev" && n.Source.PCI == "":
		return true, step.Hint(step.ErrUnsuitable, "it has no <source><address type='pci'>")
	case n.Type == "hostdev" && !ok:
		return true, step.Hint(ErrNoDevice, "PCI function %s is no virtual function here", n.Source.PCI)
	case n.Type == "hostdev" && isQbg(n.VirtualPort):
		return true, p.notRewritten("libvirt refuses 802.1Qbg on a hostdev NIC")
	case !ok && s.VF.Set():
		return true, p.none(n, s)
	case !ok || s.Own:
		return false, nil
	case s.Mode != "" && n.Type == "direct" && s.Mode != "passthrough":
		return true, p.notRewritten(fmt.Sprintf("it asks for mode %s and its <source> says passthrough", s.Mode))
	}
	if err := p.ofUplink(n, s, vf); err != nil {
		return true, err
	}
	if _, err := p.want(n, s, vf); err != nil {
		return true, err
	}
	return true, p.claim(n, s, vf)
}

// ofUplink checks that a VF is one of the uplink that the NIC's settings name. rewrite
// chooses another one where that is a macvtap's; a function's address is the user's to change.
func (p function) ofUplink(n *xmlfilter.NIC, s Settings, vf VFDevice) error {
	if s.Uplink == nil {
		return nil
	}
	dev, err := p.uplink(s.Uplink)
	switch {
	case err != nil || dev.Index == vf.PFIndex:
		return err
	case n.Type == "hostdev":
		return step.Hint(step.ErrUnsuitable, "uplink %q is %s here, and PCI function %s is a VF of %s; change its <address>, or leave uplink out", s.Uplink.Name, dev.Name, n.Source.PCI, vf.PFName)
	}
	if p.host.Free[s.Uplink.Name] == nil {
		return step.Hint(step.ErrUnsuitable, "uplink %q is %s here, which has no virtual functions, and its <source> is a VF of %s; name another device, or leave uplink out", s.Uplink.Name, dev.Name, vf.PFName)
	}
	return p.notRewritten(fmt.Sprintf("uplink %q is %s here, and its VF is one of %s", s.Uplink.Name, dev.Name, vf.PFName))
}

// claim plans that the guest has the VF that its NIC names. A plain guest is refused it
// only if the kernel shows that another one has it: then libvirt would fail as well, after
// it has changed the VF under that guest.
func (p function) claim(n *xmlfilter.NIC, s Settings, vf VFDevice) error {
	err := p.host.Available(vf, true)
	switch {
	case p.op == step.Reconnect: // it has it
		err = nil
	case n.Settings == nil && err != nil && vf.Guest == "":
		return nil // another claim stays, and libvirt decides
	}
	if err != nil {
		return err
	}
	for _, o := range p.steps {
		if has, is := o.Kind.(*step.VF); is && has.VFPlace == vf.VFPlace {
			return step.Hint(step.ErrUnsuitable, "VF %d of %s is its NIC %s's already; name another one", vf.Number, vf.PFName, o.NIC)
		}
	}
	p.addFunction(n, s, vf, link.VFSettings{}, false)
	return nil
}

func (p function) none(n *xmlfilter.NIC, s Settings) error {
	if s.Uplink != nil && cmp.Or(s.Mode, n.Source.Mode) == "passthrough" && p.host.Free[s.Uplink.Name] != nil {
		return p.notRewritten("it is to have a virtual function of uplink " + s.Uplink.Name)
	}
	if s.VF.PortProfile != "" && s.VF == (settings.VF{PortProfile: s.VF.PortProfile}) {
		return step.Hint(step.ErrUnsuitable, "portprofile='%s' is for own='hook' in mode passthrough, and for virtual functions; this is neither", s.VF.PortProfile)
	}
	return step.Hint(step.ErrUnsuitable, "qos, proto, trust and the like are for virtual functions, and <source> is none")
}

func (p function) addFunction(n *xmlfilter.NIC, s Settings, vf VFDevice, want link.VFSettings, program bool) *step.VF {
	v := &step.VF{
		VFPlace: vf.VFPlace, PFName: vf.PFName, MAC: n.MAC, Want: want, Program: program,
		Managed: n.Settings != nil, Hostdev: n.Type == "hostdev", Seen: vf.Netdev, Chosen: vf.chosen,
	}
	if program {
		v.Optional = s.Optional
	}
	if n.VLAN != nil && len(n.VLAN.Tags) == 1 {
		v.LibvirtVLAN = n.VLAN.Tags[0]
	}
	p.steps = append(p.steps, step.Step{NIC: p.id(n), Kind: v})
	return v
}

// want returns what a NIC's settings want of its VF.
func (p function) want(n *xmlfilter.NIC, s Settings, vf VFDevice) (link.VFSettings, error) {
	w := s.VF
	want := link.VFSettings(w.VFAttributes)
	id := s.VLAN
	if n.VLAN != nil && len(n.VLAN.Tags) == 1 {
		if id != 0 && id != n.VLAN.Tags[0] {
			return want, step.Hint(step.ErrUnsuitable, "<vlan> says %d and its settings say %d", n.VLAN.Tags[0], id)
		}
		id = n.VLAN.Tags[0]
	}
	if s.VLAN != 0 || w.QoS != nil || w.Proto != "" {
		want.VLAN = &link.VFVLAN{ID: id, Proto: cmp.Or(w.Proto, link.Dot1Q)}
		if w.QoS != nil {
			want.VLAN.QoS = *w.QoS
		}
	}
	if err := want.Check(); err != nil {
		return want, step.Hint(step.ErrUnsuitable, "%v", err)
	}
	for _, name := range p.cfg.UplinkNames() {
		u := p.cfg.Uplinks[name]
		if dev, ok := p.host.Uplinks[name]; ok && dev.Index == vf.PFIndex && id != 0 && !u.Allows(id) {
			return want, step.Hint(ErrNotAllowed, "VLAN %d on uplink %q; add it to vlans of [uplink.%s] in %s", id, u.Name, u.Name, config.Path)
		}
	}
	return want, nil
}

// start plans what is set on a VF once libvirt has done its part.
func (p function) start(n *xmlfilter.NIC, s Settings) (handled bool, err error) {
	if n.Type == "ethernet" {
		return true, nil // done at prepare
	}
	vf, ok := p.onVF(n)
	if !ok {
		if s.VF.Set() {
			return true, step.Hint(step.ErrUnsuitable, "qos, proto, trust and the like are for virtual functions, and libvirt has given it none")
		}
		return false, nil
	}
	want, err := p.want(n, s, vf)
	if err != nil {
		return true, err
	}
	if want != (link.VFSettings{}) {
		p.addFunction(n, s, vf, want, true)
	}
	if s.VF.PortProfile != "" {
		p.add(step.Step{NIC: p.id(n), Kind: &step.Port{VFPlace: vf.VFPlace, Device: vf.PFName, Profile: s.VF.PortProfile, MAC: n.MAC}})
	}
	if n.Type == "direct" {
		return false, nil // it is a macvtap as well
	}
	return true, p.hostdevQbg(n, s, vf)
}

// owned plans the device of a hook-owned NIC in passthrough mode: on a VF that is
// named, on one that is free, or on a whole device.
func (p function) owned(n *xmlfilter.NIC, s Settings) (handled bool, err error) {
	if cmp.Or(s.Mode, "vepa") != "passthrough" {
		if s.VF.Set() {
			return true, step.Hint(step.ErrUnsuitable, "qos, proto, trust, portprofile and the like need mode='passthrough'")
		}
		return false, nil
	}
	vf, ok, err := p.take(n, s)
	if err != nil {
		return true, err
	}
	if !ok {
		return p.ownedPort(n, s)
	}
	want, err := p.want(n, s, vf)
	if err != nil {
		return true, err
	}
	// Remembered first, so that it is put back last, when the macvtap has given
	// the VF its own MAC back.
	p.addFunction(n, s, vf, link.VFSettings{}, false).GuestMAC = true
	bare := s
	bare.Uplink, bare.Dev, bare.VLAN = nil, vf.Netdev, 0
	p.host.Devices = maps.Clone(p.host.Devices)
	p.host.Devices[vf.Netdev] = Device{Name: vf.Netdev, VF: true}
	if _, err := p.macvtap().hookOwned(n, bare); err != nil {
		return true, err
	}
	if want != (link.VFSettings{}) {
		p.addFunction(n, s, vf, want, true)
	}
	if s.VF.PortProfile != "" {
		p.add(step.Step{NIC: p.id(n), Kind: &step.Port{VFPlace: vf.VFPlace, Device: vf.PFName, Profile: s.VF.PortProfile, MAC: n.MAC}})
	}
	return true, nil
}

// take returns the VF of a hook-owned NIC: the one that it has, the one that it
// names, or a free one of its uplink.
func (p function) take(n *xmlfilter.NIC, s Settings) (VFDevice, bool, error) {
	if vf, ok := p.host.VFs[s.Dev]; ok && s.Uplink == nil {
		if p.op == step.Reconnect {
			return vf, true, nil
		}
		return vf, true, p.host.Available(vf, true)
	}
	if held, ok := p.host.Held[p.id(n)]; ok {
		return held, true, nil
	}
	u := s.Uplink
	if u == nil {
		u = p.host.Called(p.cfg, s.Dev)
	}
	if u == nil {
		return VFDevice{}, false, nil
	}
	return p.choose(u)
}

// choose takes a free VF of an uplink, in the order in which they were looked at. ok is
// false where the uplink has no VFs.
func (p function) choose(u *config.Uplink) (vf VFDevice, ok bool, err error) {
	free, has := slices.Clone(p.host.Free[u.Name]), p.host.Free[u.Name] != nil
	if !has {
		return VFDevice{}, false, nil
	}
	i := slices.IndexFunc(free, func(f VFDevice) bool { return !p.taken[f.VFPlace] })
	if i < 0 {
		why := ""
		if pools := p.host.Pooled[u.Name]; len(pools) > 0 {
			why = fmt.Sprintf("; libvirt's network %q hands out some: let it name fewer", pools[0])
		}
		if u.VFs != nil {
			why += "; vfs of [uplink." + u.Name + "] says which may be chosen"
		}
		return VFDevice{}, false, step.Hint(ErrNoDevice, "no virtual function of uplink %q (%s) is free%s", u.Name, p.host.Uplinks[u.Name].Name, why)
	}
	p.taken[free[i].VFPlace] = true
	free[i].chosen = true
	return free[i], true, nil
}

// ownedPort plans a port profile for a whole device in passthrough mode.
func (p function) ownedPort(n *xmlfilter.NIC, s Settings) (handled bool, err error) {
	profile := s.VF.PortProfile
	if s.VF != (settings.VF{PortProfile: profile}) {
		return true, step.Hint(step.ErrUnsuitable, "qos, proto, trust and the like are for virtual functions, and its device is none")
	}
	if profile == "" {
		return false, nil
	}
	lower, err := p.macvtap().hookOwned(n, s)
	if err != nil {
		return true, err
	}
	p.add(step.Step{NIC: p.id(n), Kind: &step.Port{Device: lower, Profile: profile, MAC: n.MAC}})
	return true, nil
}

const qbh = "802.1Qbh"

// convert returns what is to be changed in a NIC that is, or is to get, a VF; handled is
// false for others.
func (p function) convert(n *xmlfilter.NIC, s Settings) (c xmlfilter.Change, handled bool, err error) {
	switch {
	case n.Type == "hostdev":
		c, err = p.convertHostdev(n, s)
		return c, true, err
	case !p.passthrough(n, s) || s.Own && (n.VirtualPort == nil || isQbg(n.VirtualPort)):
		return c, false, nil
	}
	vf, u, err := p.meant(n, s, false)
	if err != nil {
		return c, true, err
	}
	if vf == nil {
		if p.takesPort(n, p.host.Devices[n.Source.Dev].Index, u) {
			c, err = p.toOwnedPort(n, s, "")
			return c, true, err
		}
		if s.VF.Set() {
			return c, true, p.none(n, s)
		}
		return c, false, nil
	}
	if vf.chosen {
		c.SourceDev = vf.Netdev
		c.Settings = newSettings(n, map[string]string{settings.NameUplink: u.Name})
	}
	if s.Mode != "" && s.Mode != n.Source.Mode {
		c.SourceMode = s.Mode
	}
	if p.takesPort(n, vf.PFIndex, u) {
		// libvirt alone cannot keep such a VF: it fails to save what enic does
		// not report.
		c, err = p.toOwnedPort(n, s, vf.Netdev)
	} else if s.Own {
		c, err = p.macvtap().toHookOwned(n, s) // which says why not
	}
	return c, true, err
}

// convertHostdev takes away what libvirt refuses on a hostdev NIC: the hook associates it.
func (p function) convertHostdev(n *xmlfilter.NIC, s Settings) (c xmlfilter.Change, err error) {
	vf, ok := p.onVF(n)
	if ok {
		if err := p.ofUplink(n, s, vf); err != nil {
			return c, err
		}
	}
	if ok && isQbg(n.VirtualPort) {
		// What is kept of it is what start associates.
		c.DropVirtualPort = true
		_, err = vsiOf(n.VirtualPort, n.MAC, vf.PFName, vlanOf(n, s))
		return c, err
	}
	if ok && p.takesPort(n, vf.PFIndex, s.Uplink) {
		c.DropVirtualPort = true
		c.Settings = map[string]string{settings.NamePortProfile: n.VirtualPort.Parameters["profileid"]}
	}
	return c, nil
}

func (p function) remap(n *xmlfilter.NIC, s Settings) (r Rename, handled bool, err error) {
	if n.Type == "hostdev" {
		return r, true, nil
	}
	if !p.passthrough(n, s) {
		return r, false, nil
	}
	vf, u, err := p.meant(n, s, true)
	if vf == nil || err != nil {
		return r, err != nil, err
	}
	if vf.chosen {
		r.Dev, r.Noted = vf.Netdev, newSettings(n, map[string]string{settings.NameUplink: u.Name})
	}
	if n.Settings != nil || len(r.Noted) > 0 {
		p.steps = append(p.steps, step.Step{NIC: p.id(n), Kind: &step.VF{VFPlace: vf.VFPlace, PFName: vf.PFName, MAC: n.MAC, Managed: true}})
	}
	return r, true, nil
}

// passthrough reports whether a NIC is a macvtap in passthrough mode.
func (p function) passthrough(n *xmlfilter.NIC, s Settings) bool {
	return n.Type == "direct" && cmp.Or(s.Mode, n.Source.Mode) == "passthrough"
}

// meant is the VF that a NIC in passthrough mode means, nil for none: the one that it names,
// or a chosen one of its uplink, where it names that, or one of another uplink, or, with
// available, one that it cannot have.
func (p function) meant(n *xmlfilter.NIC, s Settings, available bool) (*VFDevice, *config.Uplink, error) {
	vf, ok := p.host.VFs[n.Source.Dev]
	u := s.Uplink
	if u == nil {
		u = p.host.Called(p.cfg, n.Source.Dev)
		if dev, there := p.host.Devices[n.Source.Dev]; u != nil && there && dev.Name == n.Source.Dev && p.stack().foreign(n.Source.Dev) == nil && n.Source.Dev != u.Name {
			u = nil // it names the device itself, not the network
		}
	}
	busy := ok && available && p.host.Available(vf, true) != nil
	if u == nil || ok && !busy && vf.PFIndex == p.host.Uplinks[u.Name].Index {
		if !ok {
			return nil, u, nil
		}
		return &vf, u, nil
	}
	free, has, err := p.choose(u)
	switch {
	case err != nil:
		return nil, u, err
	case has:
		return &free, u, nil
	case ok && s.Uplink != nil:
		return nil, u, p.ofUplink(n, s, vf)
	case ok:
		return &vf, u, nil
	}
	return nil, u, nil
}

// takesPort reports whether the hook is to associate a NIC's port in libvirt's place.
func (p function) takesPort(n *xmlfilter.NIC, index int, u *config.Uplink) bool {
	if n.VirtualPort == nil || n.VirtualPort.Type != qbh || n.VirtualPort.Parameters["profileid"] == "" {
		return false
	}
	if u != nil {
		return u.Associate == settings.OwnHook
	}
	for _, name := range p.cfg.UplinkNames() {
		if dev, ok := p.host.Uplinks[name]; ok && dev.Index == index && index != 0 {
			return p.cfg.Uplinks[name].Associate == settings.OwnHook
		}
	}
	return false
}

// toOwnedPort makes a NIC hook-owned, its port profile a word.
func (p function) toOwnedPort(n *xmlfilter.NIC, s Settings, vf string) (xmlfilter.Change, error) {
	if n.MAC == "" {
		return xmlfilter.Change{}, step.Hint(step.ErrUnsuitable, "it has no <mac address=>; define the domain first, libvirt gives it one")
	}
	noted := map[string]string{
		settings.NameOwn: settings.OwnHook, settings.NameMode: "passthrough",
		settings.NamePortProfile: n.VirtualPort.Parameters["profileid"],
	}
	switch u := s.Uplink; {
	case u != nil:
		noted[settings.NameUplink] = u.Name
	case vf != "":
		noted[settings.NameDev] = vf
	default:
		pl, err := p.macvtap().locate(n, s)
		if err != nil {
			return xmlfilter.Change{}, err
		}
		for k, v := range pl.noted() {
			noted[k] = v
		}
	}
	return xmlfilter.Change{Settings: newSettings(n, noted), Ethernet: targetName(p.domain, n)}, nil
}

// macvtap is the NIC as the macvtap that it is as well.
func (p function) macvtap() macvtap { return macvtap(p) }
