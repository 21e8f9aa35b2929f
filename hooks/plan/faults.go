package plan

import (
	"slices"

	"libvirt-direct/internal/config"
	"libvirt-direct/xmlfilter"
)

// FaultyDevice is the device of an uplink whose section of the configuration is faulty, or
// one of several that the section could mean.
type FaultyDevice struct {
	Index int
	Fault error
	// Uplink is the one that could mean it; nil where its section is faulty.
	Uplink *config.Uplink
}

// mayBe reports whether an uplink's device could be the one with an index.
func (h Snapshot) mayBe(u *config.Uplink, index int) bool {
	return index != 0 && slices.ContainsFunc(h.Faulty, func(f FaultyDevice) bool { return f.Uplink == u && f.Index == index })
}

// faultAt returns the fault of the uplink whose device has an index, or nil.
func (h Snapshot) faultAt(indices ...int) error {
	for _, f := range h.Faulty {
		for _, i := range indices {
			if i != 0 && i == f.Index {
				return f.Fault
			}
		}
	}
	return nil
}

// faultOf returns the fault of the uplink that a device's name means or leads to, or nil.
func (h Snapshot) faultOf(cfg *config.Config, name string) error {
	if err := cfg.UplinkFault(name); err != nil {
		return err
	}
	dev := h.Devices[name]
	vf := h.VFs[name]
	if err := h.faultAt(dev.Index, dev.Parent, vf.PFIndex); err != nil {
		return err
	}
	if parent, _, ok := SplitVLAN(name); ok {
		return h.faultOf(cfg, parent)
	}
	return nil
}

// known returns what holds for a NIC. It refuses one that depends on a section of the
// configuration that is faulty: what that limits is not known. A plain guest whose device
// is there is libvirt's to start.
func (p *planner) known(n *xmlfilter.NIC) (Settings, error) {
	s, err := SettingsOf(p.cfg, p.host, n)
	if err != nil || s.Uplink != nil {
		return s, err
	}
	for _, name := range []string{s.Dev, n.Source.Dev, n.Source.Bridge, BridgeOf(n), n.Source.PCI} {
		_, there := p.host.Devices[name]
		if _, vf := p.host.VFs[name]; name == "" || Plain(p.domain) && (there || vf) {
			continue
		}
		if err := p.host.faultOf(p.cfg, name); err != nil {
			return s, err
		}
	}
	return s, nil
}
