package hooks

import (
	"context"
	"slices"

	"libvirt-direct/hooks/plan"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/ovs"
	"libvirt-direct/xmlfilter"
)

// pfsBelow looks for physical functions below the bridges of NICs that could want an entry
// in their forwarding tables. Most hosts' never do, and are not asked.
func (s *surveyor) pfsBelow(ctx context.Context, h *plan.Snapshot) error {
	var wanted []string
	for i := range s.domain.NICs {
		n := &s.domain.NICs[i]
		if bridge := plan.BridgeOf(n); bridge != "" && plan.MayWantFDB(s.cfg, *h, n) {
			wanted = append(wanted, bridge)
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	links, err := s.kernel.All(ctx)
	if err != nil {
		return err
	}
	h.PFsBelow = map[string][]plan.Device{}
	for _, name := range wanted {
		bridge, there := h.Devices[name]
		if _, known := h.PFsBelow[name]; known || !there {
			continue
		}
		var ports []link.Link
		if bridge.Kind == "bridge" {
			ports = portsOf(links, bridge.Index)
		}
		ports = append(ports, portsOfSwitch(links, s.Switches, bridge.Name)...)
		pfs, err := PFsBelow(ctx, s.kernel, links, ports)
		if err != nil {
			return err
		}
		for _, pf := range pfs {
			h.PFsBelow[name] = append(h.PFsBelow[name], plan.Device{Name: pf.Name, Index: pf.Index})
		}
	}
	return nil
}

// AskSwitch asks Open vSwitch which ports its bridges have, if a NIC of the domain wants to
// be known to cards below one. It is asked before anybody's lock is taken: it can be slow.
func (r *Records) AskSwitch(ctx context.Context, cfg *config.Config, d *xmlfilter.Domain, open func() step.Switch) {
	if !slices.ContainsFunc(d.NICs, func(n xmlfilter.NIC) bool { return plan.AsksSwitch(cfg, &n) }) {
		return
	}
	db := open()
	defer db.Close()
	r.Switches, r.SwitchErr = db.Bridges(ctx)
}

func portsOf(links []link.Link, bridge int) []link.Link {
	return slices.DeleteFunc(slices.Clone(links), func(l link.Link) bool { return l.Master != bridge })
}

func portsOfSwitch(links []link.Link, switches []ovs.Bridge, bridge string) (ports []link.Link) {
	for _, b := range switches {
		if b.Name != bridge {
			continue
		}
		for _, dev := range b.Devices {
			if i := slices.IndexFunc(links, func(l link.Link) bool { return l.Name == dev.Name }); i >= 0 {
				ports = append(ports, links[i])
			}
		}
	}
	return ports
}

// PFsBelow returns the physical functions with virtual functions that ports of a bridge are,
// or stand on: a bond, a team and VLANs can be between.
func PFsBelow(ctx context.Context, k step.Kernel, links, ports []link.Link) (pfs []link.Link, err error) {
	seen := map[int]bool{}
	for below := slices.Clone(ports); len(below) > 0; {
		l := below[0]
		below = below[1:]
		if seen[l.Index] {
			continue
		}
		seen[l.Index] = true
		switch l.Kind {
		case "vlan":
			below = append(below, slices.DeleteFunc(slices.Clone(links), func(o link.Link) bool { return o.Index != l.Parent })...)
		case "bond", "team":
			below = append(below, portsOf(links, l.Index)...)
		case "":
			has, err := hasVFs(ctx, k, l.Name)
			if err != nil {
				return nil, err
			}
			if has {
				pfs = append(pfs, l)
			}
		}
	}
	return pfs, nil
}
