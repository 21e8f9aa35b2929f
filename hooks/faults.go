package hooks

import (
	"context"

	"libvirt-direct/internal/config"
	"libvirt-direct/xmlfilter"
)

// lookFaulty looks up the devices of uplinks whose sections of the configuration are
// faulty. One that cannot be found is nobody's to name.
func (h *Host) lookFaulty(ctx context.Context, k Kernel, cfg *config.Config) {
	for _, u := range cfg.FaultyUplinks() {
		for _, way := range u.Devices {
			if l, err := FindUplink(ctx, k, way); err == nil {
				h.Faulty = append(h.Faulty, FaultyDevice{Index: l.Index, Fault: u.Fault})
			}
		}
	}
}

// FaultyDevice is the device of an uplink whose section of the configuration is faulty.
type FaultyDevice struct {
	Index int
	Fault error
}

// faultAt returns the fault of the uplink whose device has an index, or nil.
func (h Host) faultAt(indices ...int) error {
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
func (h Host) faultOf(cfg *config.Config, name string) error {
	if err := cfg.UplinkFault(name); err != nil {
		return err
	}
	dev := h.Devices[name]
	vf := h.VFs[name]
	if err := h.faultAt(dev.Index, dev.Parent, vf.PFIndex); err != nil {
		return err
	}
	if parent, _, ok := splitVLAN(name); ok {
		return h.faultOf(cfg, parent)
	}
	return nil
}

// settings returns what holds for a NIC. It refuses one that depends on a section of the
// configuration that is faulty: what that limits is not known. A plain guest whose device
// is there is libvirt's to start.
func (p *planner) settings(n *xmlfilter.NIC) (settings, error) {
	s, err := settingsOf(p.cfg, p.host, n)
	if err != nil || s.uplink != nil {
		return s, err
	}
	for _, name := range []string{s.dev, n.Source.Dev, n.Source.Bridge, n.Source.PCI} {
		_, there := p.host.Devices[name]
		if _, vf := p.host.VFs[name]; name == "" || plain(p.domain) && (there || vf) {
			continue
		}
		if err := p.host.faultOf(p.cfg, name); err != nil {
			return s, err
		}
	}
	return s, nil
}
