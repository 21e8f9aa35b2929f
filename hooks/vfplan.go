package hooks

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"libvirt-direct/internal/config"
	"libvirt-direct/internal/link"
	setting "libvirt-direct/internal/settings"
	"libvirt-direct/xmlfilter"
)

// newPlanner starts a plan in which the VFs that the domain names are not free.
func newPlanner(op Op, d *xmlfilter.Domain, cfg *config.Config, host Host) planner {
	p := planner{op: op, domain: d, cfg: cfg, host: host, taken: map[link.VFPlace]bool{}}
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

// prepareVF plans for a NIC that is a VF; handled is false for one that is not.
func (p *planner) prepareVF(n *xmlfilter.NIC, s settings) (handled bool, err error) {
	if n.Type == "ethernet" && s.own {
		return p.ownedVF(n, s)
	}
	vf, ok := p.onVF(n)
	switch {
	case n.Type == "hostdev" && n.Settings == nil && !ok:
		return true, nil // a plain guest's, and none of ours to judge
	case n.Type == "hostdev" && n.Source.PCI == "":
		return true, remedy(ErrUnsuitable, "it has no <source><address type='pci'>")
	case n.Type == "hostdev" && !ok:
		return true, remedy(ErrNoDevice, "PCI function %s is no virtual function here", n.Source.PCI)
	case n.Type == "hostdev" && isQbg(n.VirtualPort):
		return true, p.notRewritten("libvirt refuses 802.1Qbg on a hostdev NIC")
	case !ok && s.vf.Set():
		return true, p.noVF(n, s)
	case !ok || s.own:
		return false, nil
	case s.mode != "" && n.Type == "direct" && s.mode != "passthrough":
		return true, p.notRewritten(fmt.Sprintf("it asks for mode %s and its <source> says passthrough", s.mode))
	}
	if s.uplink != nil {
		dev, err := p.uplink(s.uplink)
		if err != nil {
			return true, err
		}
		if dev.Index != vf.PFIndex {
			return true, p.notRewritten(fmt.Sprintf("uplink %q is %s here, and its VF is one of %s", s.uplink.Name, dev.Name, vf.PFName))
		}
	}
	if _, err := p.wantVF(n, s, vf); err != nil {
		return true, err
	}
	return true, p.claimVF(n, s, vf)
}

// claimVF plans that the guest has the VF that its NIC names. A plain guest is refused it
// only if the kernel shows that another one has it: then libvirt would fail as well, after
// it has changed the VF under that guest.
func (p *planner) claimVF(n *xmlfilter.NIC, s settings, vf VFDevice) error {
	err := p.host.Available(vf, true)
	switch {
	case p.op == Reconnect: // it has it
		err = nil
	case n.Settings == nil && err != nil && vf.Guest == "":
		return nil // another claim stays, and libvirt decides
	}
	if err != nil {
		return err
	}
	for _, o := range p.steps {
		if o.VF != nil && o.VF.VFPlace == vf.VFPlace {
			return remedy(ErrUnsuitable, "VF %d of %s is its NIC %s's already; name another one", vf.Number, vf.PFName, o.NIC)
		}
	}
	p.addVF(n, s, vf, link.VFSettings{}, false)
	return nil
}

func (p *planner) noVF(n *xmlfilter.NIC, s settings) error {
	if s.uplink != nil && cmp.Or(s.mode, n.Source.Mode) == "passthrough" {
		return p.notRewritten("it is to have a virtual function of uplink " + s.uplink.Name)
	}
	if s.vf.PortProfile != "" && s.vf == (setting.VF{PortProfile: s.vf.PortProfile}) {
		return remedy(ErrUnsuitable, "portprofile='%s' is for own='hook' in mode passthrough, and for virtual functions; this is neither", s.vf.PortProfile)
	}
	return remedy(ErrUnsuitable, "qos, proto, trust and the like are for virtual functions, and <source> is none")
}

func (p *planner) addVF(n *xmlfilter.NIC, s settings, vf VFDevice, want link.VFSettings, program bool) {
	v := &VF{
		VFPlace: vf.VFPlace, PFName: vf.PFName, MAC: n.MAC, Want: want, Program: program,
		Managed: n.Settings != nil, Hostdev: n.Type == "hostdev", seen: vf.Netdev, chosen: vf.chosen,
	}
	if program {
		v.Optional = s.optional
	}
	if n.VLAN != nil && len(n.VLAN.Tags) == 1 {
		v.LibvirtVLAN = n.VLAN.Tags[0]
	}
	p.steps = append(p.steps, Step{NIC: p.id(n), VF: v})
}

// wantVF returns what a NIC's settings want of its VF.
func (p *planner) wantVF(n *xmlfilter.NIC, s settings, vf VFDevice) (link.VFSettings, error) {
	w := s.vf
	want := link.VFSettings(w.VFAttributes)
	id := s.vlan
	if n.VLAN != nil && len(n.VLAN.Tags) == 1 {
		if id != 0 && id != n.VLAN.Tags[0] {
			return want, remedy(ErrUnsuitable, "<vlan> says %d and its settings say %d", n.VLAN.Tags[0], id)
		}
		id = n.VLAN.Tags[0]
	}
	if s.vlan != 0 || w.QoS != nil || w.Proto != "" {
		want.VLAN = &link.VFVLAN{ID: id, Proto: cmp.Or(w.Proto, link.Dot1Q)}
		if w.QoS != nil {
			want.VLAN.QoS = *w.QoS
		}
	}
	if err := want.Check(); err != nil {
		return want, remedy(ErrUnsuitable, "%v", err)
	}
	for _, name := range p.cfg.UplinkNames() {
		u := p.cfg.Uplinks[name]
		if dev, ok := p.host.Uplinks[name]; ok && dev.Index == vf.PFIndex && id != 0 && !u.Allows(id) {
			return want, remedy(ErrNotAllowed, "VLAN %d on uplink %q; add it to vlans of [uplink.%s] in %s", id, u.Name, u.Name, config.Path)
		}
	}
	return want, nil
}

// startVF plans what is set on a VF once libvirt has done its part.
func (p *planner) startVF(n *xmlfilter.NIC, s settings) error {
	if n.Type == "ethernet" {
		return nil // done at prepare
	}
	vf, ok := p.onVF(n)
	if !ok {
		if s.vf.Set() {
			return remedy(ErrUnsuitable, "qos, proto, trust and the like are for virtual functions, and libvirt has given it none")
		}
		return nil
	}
	want, err := p.wantVF(n, s, vf)
	if err != nil {
		return err
	}
	if want != (link.VFSettings{}) {
		p.addVF(n, s, vf, want, true)
	}
	if s.vf.PortProfile != "" {
		p.add(Step{NIC: p.id(n), Port: &Port{VFPlace: vf.VFPlace, Device: vf.PFName, Profile: s.vf.PortProfile, MAC: n.MAC}})
	}
	return p.hostdevQbg(n, s, vf)
}

// ownedVF plans the device of a hook-owned NIC in passthrough mode: on a VF that is
// named, on one that is free, or on a whole device.
func (p *planner) ownedVF(n *xmlfilter.NIC, s settings) (handled bool, err error) {
	if cmp.Or(s.mode, "vepa") != "passthrough" {
		if s.vf.Set() {
			return true, remedy(ErrUnsuitable, "qos, proto, trust, portprofile and the like need mode='passthrough'")
		}
		return false, nil
	}
	vf, ok, err := p.takeVF(n, s)
	if err != nil {
		return true, err
	}
	if !ok {
		return p.ownedPort(n, s)
	}
	want, err := p.wantVF(n, s, vf)
	if err != nil {
		return true, err
	}
	// Remembered first, so that it is put back last, when the macvtap has given
	// the VF its own MAC back.
	p.addVF(n, s, vf, link.VFSettings{}, false)
	bare := s
	bare.uplink, bare.dev, bare.vlan = nil, vf.Netdev, 0
	p.host.Devices = maps.Clone(p.host.Devices)
	p.host.Devices[vf.Netdev] = Device{Name: vf.Netdev, VF: true}
	if err := p.hookOwned(n, bare); err != nil {
		return true, err
	}
	if want != (link.VFSettings{}) {
		p.addVF(n, s, vf, want, true)
	}
	if s.vf.PortProfile != "" {
		p.add(Step{NIC: p.id(n), Port: &Port{VFPlace: vf.VFPlace, Device: vf.PFName, Profile: s.vf.PortProfile, MAC: n.MAC}})
	}
	return true, nil
}

// takeVF returns the VF of a hook-owned NIC: the one that it has, the one that it
// names, or a free one of its uplink.
func (p *planner) takeVF(n *xmlfilter.NIC, s settings) (VFDevice, bool, error) {
	if vf, ok := p.host.VFs[s.dev]; ok && s.uplink == nil {
		if p.op == Reconnect {
			return vf, true, nil
		}
		return vf, true, p.host.Available(vf, true)
	}
	if held, ok := p.host.Held[p.id(n)]; ok {
		return held, true, nil
	}
	u := s.uplink
	if u == nil {
		u = p.cfg.UplinkCalled(s.dev)
	}
	if u == nil {
		return VFDevice{}, false, nil
	}
	return p.pick(u)
}

// pick takes a free VF of an uplink, in the order in which they were looked at. ok is
// false where the uplink has no VFs.
func (p *planner) pick(u *config.Uplink) (vf VFDevice, ok bool, err error) {
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
		return VFDevice{}, false, remedy(ErrNoDevice, "no virtual function of uplink %q (%s) is free%s", u.Name, p.host.Uplinks[u.Name].Name, why)
	}
	p.taken[free[i].VFPlace] = true
	free[i].chosen = true
	return free[i], true, nil
}

// ownedPort plans a port profile for a whole device in passthrough mode.
func (p *planner) ownedPort(n *xmlfilter.NIC, s settings) (handled bool, err error) {
	profile := s.vf.PortProfile
	if s.vf != (setting.VF{PortProfile: profile}) {
		return true, remedy(ErrUnsuitable, "qos, proto, trust and the like are for virtual functions, and its device is none")
	}
	if profile == "" {
		return false, nil
	}
	if err := p.hookOwned(n, s); err != nil {
		return true, err
	}
	lower := p.steps[len(p.steps)-1].Macvtap.Lower
	p.add(Step{NIC: p.id(n), Port: &Port{Device: lower, Profile: profile, MAC: n.MAC}})
	return true, nil
}

const qbh = "802.1Qbh"

// vf returns what is to be changed in a NIC that is, or is to get, a VF; handled is
// false for others.
func (r *rewriter) vf(n *xmlfilter.NIC, s settings) (c xmlfilter.Change, handled bool, err error) {
	mode := cmp.Or(s.mode, n.Source.Mode)
	switch {
	case n.Type == "hostdev":
		vf, ok := r.onVF(n)
		if ok && isQbg(n.VirtualPort) {
			// What is kept of it is what start associates, so that it must be kept.
			_, err := vsiOf(n.VirtualPort, n.MAC, vf.PFName, vlanOf(n, s))
			c.DropVirtualPort = r.keep
			return c, true, err
		}
		if ok && r.takesPort(n, vf.PFIndex, s.uplink) {
			c.DropVirtualPort = true
			c.Settings = map[string]string{setting.NamePortProfile: n.VirtualPort.Parameters["profileid"]}
		}
		return c, true, nil
	case n.Type != "direct" || mode != "passthrough" || s.own && n.VirtualPort == nil:
		return c, false, nil
	}
	vf, ok := r.host.VFs[n.Source.Dev]
	u := s.uplink
	if u == nil {
		u = r.cfg.UplinkCalled(n.Source.Dev)
		if dev, there := r.host.Devices[n.Source.Dev]; u != nil && there && dev.Name == n.Source.Dev && r.foreign(n.Source.Dev) == nil && n.Source.Dev != u.Name {
			u = nil // it names the device itself, not the network
		}
	}
	busy := ok && !r.keep && r.host.Available(vf, true) != nil
	if u != nil && (!ok || busy || vf.PFIndex != r.host.Uplinks[u.Name].Index) {
		var picked bool
		vf, picked, err = r.pick(u)
		if err != nil || !picked && !ok {
			return c, err != nil, err
		}
		ok = ok || picked
		c.SourceDev = vf.Netdev
		c.Settings = newSettings(n, map[string]string{setting.NameUplink: u.Name})
	}
	if !ok {
		if r.takesPort(n, r.host.Devices[n.Source.Dev].Index, u) {
			c, err = r.toOwnedPort(n, s, "")
			return c, true, err
		}
		return c, false, nil
	}
	if s.mode != "" && s.mode != n.Source.Mode {
		c.SourceMode = s.mode
	}
	if r.takesPort(n, vf.PFIndex, u) {
		// libvirt alone cannot keep such a VF: it fails to save what enic does
		// not report.
		c, err = r.toOwnedPort(n, s, vf.Netdev)
	}
	if err == nil && (n.Settings != nil || len(c.Settings) > 0) {
		r.reserve(n, vf)
	}
	return c, true, err
}

// reserve notes the VF of a NIC for the start that follows.
func (r *rewriter) reserve(n *xmlfilter.NIC, vf VFDevice) {
	r.steps = append(r.steps, Step{NIC: r.id(n), VF: &VF{VFPlace: vf.VFPlace, PFName: vf.PFName, MAC: n.MAC, Managed: true}})
}

// takesPort reports whether the hook is to associate a NIC's port in libvirt's place.
func (r *rewriter) takesPort(n *xmlfilter.NIC, index int, u *config.Uplink) bool {
	if n.VirtualPort == nil || n.VirtualPort.Type != qbh || n.VirtualPort.Parameters["profileid"] == "" {
		return false
	}
	if u != nil {
		return u.Associate == setting.OwnHook
	}
	for _, name := range r.cfg.UplinkNames() {
		if dev, ok := r.host.Uplinks[name]; ok && dev.Index == index && index != 0 {
			return r.cfg.Uplinks[name].Associate == setting.OwnHook
		}
	}
	return false
}

// toOwnedPort makes a NIC hook-owned, its port profile a word.
func (r *rewriter) toOwnedPort(n *xmlfilter.NIC, s settings, vf string) (xmlfilter.Change, error) {
	if n.MAC == "" {
		return xmlfilter.Change{}, remedy(ErrUnsuitable, "it has no <mac address=>; define the domain first, libvirt gives it one")
	}
	words := map[string]string{
		setting.NameOwn: setting.OwnHook, setting.NameMode: "passthrough",
		setting.NamePortProfile: n.VirtualPort.Parameters["profileid"],
	}
	switch u := s.uplink; {
	case u != nil:
		words[setting.NameUplink] = u.Name
	case vf != "":
		words[setting.NameDev] = vf
	default:
		pl, err := r.locate(n, s)
		if err != nil {
			return xmlfilter.Change{}, err
		}
		for k, v := range pl.words() {
			words[k] = v
		}
	}
	return xmlfilter.Change{Settings: newSettings(n, words), Ethernet: targetName(r.domain, n)}, nil
}
