package plan

import (
	"cmp"
	"fmt"

	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/xmlfilter"
)

// Tagging says how a guest can send frames of VLANs onto an uplink that its vlans do not
// allow.
type Tagging struct {
	Uplink *config.Uplink
	VLAN   int    // the one that this host puts on its frames; 0: whatever tags the guest puts on them
	Why    string // how its NIC is attached
	Fix    string // how to attach it so that it cannot
}

func (t *Tagging) String() string {
	what := "any VLAN tag"
	if t.VLAN != 0 {
		what = fmt.Sprintf("VLAN %d", t.VLAN)
	}
	return fmt.Sprintf("can send %s onto uplink %q, whose vlans are %s: %s", what, t.Uplink.Name, t.Uplink.VLANText(), t.Why)
}

// CanTag returns how a NIC's guest can send frames of VLANs onto an uplink that does not
// allow them, nil where it cannot.
//
// A macvtap passes whatever tags the guest puts on its frames, and so does a virtual
// function without a VLAN, and a Linux bridge that does not filter VLANs. A VLAN
// sub-interface, and the card with a virtual function's VLAN, put theirs in front: what
// the guest adds is inside that. Which tags a port of Open vSwitch has is known, and none of
// them is there that is not allowed. Which device a libvirt network gives is known from
// step.Start on.
func CanTag(cfg *config.Config, host Snapshot, n *xmlfilter.NIC) *Tagging {
	s, err := SettingsOf(cfg, host, n)
	if err != nil || onOVS(n) || WasOnOVS(n) != nil {
		return nil
	}
	t := tagger{cfg: cfg, host: host, nic: n, settings: s}
	switch {
	case onBridge(n):
		return t.bridge()
	case vlanOf(n, s) != 0: // on its sub-interface, once prepared, or set on its virtual function
		return nil
	case n.Type == "hostdev":
		vf, is := host.VFs[n.Source.PCI]
		if !is {
			return nil
		}
		return t.function(vf)
	case n.Type == "direct", n.Type == "ethernet" && s.Own:
		return t.macvtap()
	}
	return nil
}

// tagger looks at one NIC.
type tagger struct {
	cfg      *config.Config
	host     Snapshot
	nic      *xmlfilter.NIC
	settings Settings
}

// onto returns a Tagging of the uplink whose device has an index, nil if that is none, or
// allows a VLAN; vid 0 stands for all of them. Of several uplinks one that enforces its
// vlans goes first.
func (t tagger) onto(index, vid int, why, fix string) *Tagging {
	var on *config.Uplink
	for _, name := range t.cfg.UplinkNames() {
		u, dev := t.cfg.Uplinks[name], t.host.Uplinks[name]
		forbids := vid == 0 && u.Limits() || vid != 0 && !u.Allows(vid)
		if index != 0 && (dev.Index == index || t.host.mayBe(u, index)) && forbids && (on == nil || u.Enforce && !on.Enforce) {
			on = u
		}
	}
	if on == nil {
		return nil
	}
	if vid == 0 && len(*on.VLANs) == 0 {
		fix = "give it another device"
	}
	return &Tagging{Uplink: on, VLAN: vid, Why: why, Fix: fix}
}

func (t tagger) bridge() *Tagging {
	p := planner{cfg: t.cfg, host: t.host}
	br, there := p.find(t.nic.Source.Bridge)
	if !there || br.Bridge == nil || br.Bridge.VLANFiltering {
		return nil
	}
	tagging := t.onto(br.Index, 0, br.Name+" does not filter VLANs", "")
	if tagging != nil {
		tagging.Fix = fmt.Sprintf("run: ip link set %s type bridge vlan_filtering 1", br.Name)
	}
	return tagging
}

func (t tagger) function(vf VFDevice) *Tagging {
	return t.onto(vf.PFIndex, 0, fmt.Sprintf("VF %d of %s has no VLAN", vf.Number, vf.PFName), functionFix)
}

const functionFix = "give it a VLAN: vlan='N' in its settings, or <vlan><tag id='N'/></vlan>"

func (t tagger) macvtap() *Tagging {
	name := t.nic.Source.Dev
	if t.settings.Own {
		name = cmp.Or(t.settings.Dev, name)
	}
	if vf, is := t.host.VFs[name]; is && !(t.settings.Own && t.settings.Uplink != nil) {
		return t.function(vf)
	}
	dev, there := t.lower(name)
	if !there {
		return nil
	}
	if mode := cmp.Or(t.settings.Mode, t.nic.Source.Mode); mode == "passthrough" {
		for _, u := range t.cfg.UplinkNames() {
			if t.host.Uplinks[u].Index == dev.Index && t.host.Free[u] != nil && (t.settings.Own || dev.Name != name) {
				return t.onto(dev.Index, 0, "its virtual function has no VLAN", functionFix)
			}
		}
	}
	if dev.Bridge != nil && dev.Bridge.VLANFiltering {
		return nil // it filters what is sent by its own device, too
	}
	fix := fmt.Sprintf("give it a VLAN: vlan='N' in its settings, or <source dev='%s.N'>", dev.Name)
	if t.settings.Own {
		fix = "give it a VLAN: vlan='N' in its settings"
	}
	return cmp.Or(t.onto(dev.Index, 0, fmt.Sprintf("its macvtap is on %s itself", dev.Name), fix), t.outside(dev))
}

// lower returns the device on which the NIC's macvtap is, or will be once it has been
// rewritten; there is false where none is known, or where it is a VLAN that is still to be
// made.
func (t tagger) lower(name string) (dev Device, there bool) {
	p := macvtap{&planner{cfg: t.cfg, host: t.host}}
	if t.settings.Own && t.nic.Type == "ethernet" {
		dev, err := p.parent(t.settings, "")
		return dev, err == nil
	}
	if dev, there = p.find(name); there && !t.settings.Own {
		return dev, true
	}
	place, err := p.locate(t.nic, t.settings)
	return place.dev, err == nil && place.vid == 0
}

// outside looks at the tags that VLAN sub-interfaces put on the frames of a device: the
// outermost is the one that reaches an uplink.
func (t tagger) outside(dev Device) *Tagging {
	for dev.Below != nil {
		why := fmt.Sprintf("its macvtap is on %s, which is VLAN %d of %s", dev.Name, dev.VLANID, dev.Below.Name)
		if tagging := t.onto(dev.Below.Index, dev.VLANID, why, "add it to vlans"); tagging != nil {
			return tagging
		}
		dev = *dev.Below
	}
	return nil
}

// enforce refuses a NIC whose guest could send VLANs onto an uplink that the configuration
// wants kept to others. A guest that runs is never refused.
func (p *planner) enforce(n *xmlfilter.NIC) error {
	switch {
	case p.host.Running:
		return nil
	case p.op == step.Start && n.Source.Network != "": // which libvirt has looked into by now
	case p.op != step.Prepare:
		return nil
	}
	t := CanTag(p.cfg, p.host, n)
	if t == nil || !t.Uplink.Enforce {
		return nil
	}
	return step.Hint(ErrNotAllowed, "it %v; %s, or leave enforce out of [uplink.%s] in %s", t, t.Fix, t.Uplink.Name, config.Path)
}
