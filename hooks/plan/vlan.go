package plan

import (
	"cmp"
	"slices"
	"strconv"

	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/xmlfilter"
)

// stack is a planner that knows of VLAN sub-interfaces, of those on them, and of what they
// stand on.
type stack struct{ *planner }

func (p *planner) stack() stack { return stack{p} }

// reach returns the device that a name means: one that is there, by its name or by what an
// uplink is called, or else, for "eth0.10.20", VLAN 20 of VLAN 10 of what "eth0" means,
// which is to be made. One that is to be made has no index.
//
// portable is a name that means the same on other hosts, as far as there is one: it begins
// with the uplink's.
func (p stack) reach(name string) (dev Device, portable string, ok bool) {
	u := p.host.Called(p.cfg, name)
	dev, there := p.host.Devices[name]
	literal := there && dev.Name == name && (p.host.Origin != Elsewhere || u == nil)
	if u != nil && !literal {
		dev, there = p.host.Uplinks[u.Name]
		return dev, p.portable(u, dev), there
	}
	parent, vid, isVLAN := SplitVLAN(name)
	if there {
		if u != nil {
			return dev, p.portable(u, dev), true
		}
		if below, portable, ok := p.reach(parent); isVLAN && ok && dev.is(below, vid) {
			return dev, portable + "." + strconv.Itoa(vid), true
		}
		return dev, dev.Name, true
	}
	if !isVLAN {
		return Device{}, "", false
	}
	below, portable, ok := p.reach(parent)
	if !ok {
		return Device{}, "", false
	}
	return p.sub(below, vid), portable + "." + strconv.Itoa(vid), true
}

// portable is an uplink's name, unless another device of this host has that name.
func (p stack) portable(u *config.Uplink, dev Device) string {
	if other, there := p.host.Devices[u.Name]; there && other.Index != dev.Index {
		return dev.Name
	}
	return u.Name
}

// sub is the sub-interface of a device for a VLAN, as it is or as it is to be made.
func (p stack) sub(below Device, vid int) Device {
	name := VLANName(below.Name, vid)
	if dev, there := p.host.Devices[name]; there && dev.Name == name && dev.is(below, vid) {
		return dev
	}
	return Device{
		Name: name, Kind: "vlan", VLANID: vid, Parent: below.Index, ParentName: below.Name, Below: &below, MTU: below.MTU,
	}
}

// is reports whether a device is a VLAN of another one.
func (d Device) is(below Device, vid int) bool {
	return d.Kind == "vlan" && d.VLANID == vid && below.Index != 0 && d.Parent == below.Index
}

// on reports whether a device leads to another one, by an index: it is that, stands on it, or
// is a VLAN of what does.
func (d Device) on(index int) bool {
	for at := &d; at != nil; at = at.Below {
		if at.Index == index || at.Parent == index {
			return true
		}
	}
	return false
}

// leaving returns the device by which frames of a VLAN of a device leave this host, as far as
// an uplink is there, and the tag that they have on it: that of the outermost VLAN.
func (p stack) leaving(parent Device, vid int) (Device, int) {
	for p.uplinkAt(parent.Index) == nil {
		if parent.Below == nil {
			if parent.Kind == "vlan" { // its parent is in another network namespace
				return Device{}, 0
			}
			return Device{Index: parent.Parent}, vid // by a macvlan, for instance
		}
		vid, parent = parent.VLANID, *parent.Below
	}
	return parent, vid
}

// hold plans the VLAN sub-interface that a device is, and those that it stands on, the
// outermost first: they are made, or held so that no other guest's end removes them. Those
// that are there and not called by their VLANs are somebody's own, and need no holding.
func (p stack) hold(n *xmlfilter.NIC, dev Device) error {
	if dev.Kind != "vlan" || dev.Below == nil {
		return nil
	}
	parent, _, named := SplitVLAN(dev.Name)
	if dev.Index != 0 && dev.Name != VLANName(dev.Below.Name, dev.VLANID) && !(named && parent == dev.Below.Name) {
		return nil
	}
	if err := p.hold(n, *dev.Below); err != nil {
		return err
	}
	return p.vlan(n, dev.Name, *dev.Below, dev.VLANID)
}

// vlan plans a sub-interface, if the host's configuration allows it, and what its parent
// stands on.
func (p stack) vlan(n *xmlfilter.NIC, name string, parent Device, vid int) error {
	if err := p.hold(n, parent); err != nil {
		return err
	}
	out, tag := p.leaving(parent, vid)
	_, there := p.host.Devices[name]
	if err := p.cfg.VLANFault(); err != nil && !there {
		return err
	}
	if err := p.host.allowed(p.cfg, out, tag); err != nil {
		return err
	}
	switch create := p.cfg.VLAN.Create; {
	case there:
	case create == "never":
		return step.Hint(ErrNotAllowed, "%s is not there, and vlan.create = \"never\" in %s; make it: ip link add link %s name %[1]s type vlan id %[4]d", name, config.Path, parent.Name, vid)
	case create == "uplinks" && p.uplinkAt(out.Index) == nil:
		return step.Hint(ErrNotAllowed, "%s is not there, %s is no uplink, and vlan.create = \"uplinks\" in %s", name, parent.Name, config.Path)
	}
	for _, s := range p.steps {
		if v, is := s.Kind.(*step.VLAN); is && v.Name == name && (v.Parent != parent.Name || v.ID != vid) {
			return step.Hint(step.ErrWrongDevice, "%s is VLAN %d of %s for NIC %s, and VLAN %d of %s for this one; give one of them another <source dev=>", name, v.ID, v.Parent, s.NIC, vid, parent.Name)
		}
	}
	p.add(step.Step{NIC: p.id(n), Kind: &step.VLAN{Name: name, Parent: parent.Name, ID: vid, ParentIndex: parent.Index}})
	return nil
}

// VLANNames are the names under which VLAN sub-interfaces for a NIC would be on this host,
// where its XML and its settings do not spell them out: below an uplink's name, or for a VLAN
// that these say.
func VLANNames(cfg *config.Config, host Snapshot, n *xmlfilter.NIC) []string {
	if n.Type != "direct" && n.Type != "ethernet" || n.Source.Network != "" {
		return nil
	}
	s, err := SettingsOf(cfg, host, n)
	if err != nil {
		return nil
	}
	var vids []int
	if n.VLAN != nil && len(n.VLAN.Tags) == 1 {
		vids = n.VLAN.Tags
	} else if s.VLAN != 0 {
		vids = []int{s.VLAN}
	}
	var names []string
	for _, name := range []string{n.Source.Dev, s.Dev} {
		above := slices.Clone(vids)
		for ok := name != ""; ok; {
			bottoms := []string{host.Devices[name].Name}
			if u := cmp.Or(s.Uplink, cfg.UplinkCalled(name)); u != nil {
				bottoms = append(bottoms, host.Uplinks[u.Name].Name)
			}
			for _, at := range bottoms {
				for _, vid := range above {
					if at == "" {
						break
					}
					at = VLANName(at, vid)
					names = append(names, at)
				}
			}
			if u := host.uplinkOf(cfg, name); u != nil {
				names = append(names, u.Name)
			}
			var vid int
			name, vid, ok = SplitVLAN(name)
			above = slices.Insert(above, 0, vid)
		}
	}
	if s.Uplink != nil && s.VLAN != 0 {
		names = append(names, VLANName(host.Uplinks[s.Uplink.Name].Name, s.VLAN))
	}
	return names
}

// missing says why an uplink at the bottom of a name has no device, nil where none is meant
// that has none.
func (p stack) missing(name string) error {
	for ok := true; ok; name, _, ok = SplitVLAN(name) {
		if u := p.host.Called(p.cfg, name); u != nil {
			_, err := p.uplink(u)
			return err
		}
	}
	return nil
}

// splitVLAN is SplitVLAN for a name that is no device's of another kind, and no uplink's.
func (p stack) splitVLAN(name string) (parent string, vid int, ok bool) {
	if parent, vid, ok = SplitVLAN(name); !ok || p.host.Called(p.cfg, name) != nil {
		return "", 0, false
	}
	dev, there := p.host.Devices[name]
	if !there || p.foreign(name) != nil {
		return parent, vid, true
	}
	on, _, ok := p.reach(parent)
	return parent, vid, ok && dev.is(on, vid)
}

// below puts a place on the uplink that the NIC's settings name. The VLANs in which it is
// there are those of the name, unless the settings say the VLAN: then they say it all.
func (p stack) below(pl *place, name string, s Settings) error {
	dev, err := p.uplink(pl.uplink)
	if err != nil {
		return err
	}
	pl.dev, pl.name = dev, p.portable(pl.uplink, dev)
	if pl.whole = s.VLAN != 0; pl.whole {
		return nil
	}
	if here, portable, ok := p.reach(name); ok && here.on(dev.Index) {
		pl.dev, pl.name, pl.whole = here, portable, here.Index == dev.Index
		return nil
	}
	var outer []int
	for {
		parent, vid, ok := p.splitVLAN(name)
		if !ok {
			break
		}
		name, outer = parent, append(outer, vid)
	}
	pl.whole = len(outer) == 0
	for _, vid := range slices.Backward(outer) {
		pl.dev, pl.name = p.sub(pl.dev, vid), pl.name+"."+strconv.Itoa(vid)
	}
	return nil
}

// foreign returns the uplink that a name means when another device of this host has
// it by accident: other hosts' names go before, when the configuration lists them.
func (p stack) foreign(name string) *config.Uplink {
	if parent, _, ok := SplitVLAN(name); ok {
		if u := p.foreign(parent); u != nil {
			return u
		}
	}
	if u := p.host.Called(p.cfg, name); u != nil && slices.Contains(u.Also, name) {
		return u
	}
	return nil
}
