package plan

import (
	"cmp"

	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/xmlfilter"
)

// BridgeOf is the bridge, of Linux or of Open vSwitch, whose port a NIC's tap is or becomes;
// "" for a NIC without.
func BridgeOf(n *xmlfilter.NIC) string {
	if was := WasOnOVS(n); was != nil {
		return was.Source.Bridge
	}
	if onOVS(n) || onBridge(n) {
		return n.Source.Bridge
	}
	return ""
}

// fdbPF is the value of the fdb setting by which physical functions below the bridge are told.
const fdbPF = "pf"

// MayWantFDB reports whether a NIC could want an entry in forwarding tables: by its settings,
// or, where they say nothing of it, by those of an uplink.
func MayWantFDB(cfg *config.Config, host Snapshot, n *xmlfilter.NIC) bool {
	s, err := SettingsOf(cfg, host, n)
	if err != nil || n.Settings == nil || n.MAC == "" {
		return false
	}
	return cmp.Or(s.FDB, fdbOf(cfg)) == fdbPF
}

// fdbOf is fdbPF where any uplink has it.
func fdbOf(cfg *config.Config) string {
	for _, u := range cfg.Uplinks {
		if u.FDB == fdbPF {
			return fdbPF
		}
	}
	return ""
}

// fdb plans that physical functions below a NIC's bridge know its MAC, where its settings
// want that, or those of the uplink that the bridge is, or the physical function.
func (p *planner) fdb(n *xmlfilter.NIC, s Settings) {
	bridge := BridgeOf(n)
	if !MayWantFDB(p.cfg, p.host, n) {
		return
	}
	for _, pf := range p.host.PFsBelow[bridge] {
		want := s.FDB
		for _, u := range []*config.Uplink{s.Uplink, p.host.uplinkOf(p.cfg, bridge), p.uplinkAt(pf.Index)} {
			if want == "" && u != nil {
				want = u.FDB
			}
		}
		if want == fdbPF {
			p.last = append(p.last, step.Step{NIC: p.id(n), Kind: &step.FDB{PF: pf.Name, MAC: n.MAC}})
		}
	}
}

// uplinkAt returns the uplink whose device has an index, nil for none.
func (p *planner) uplinkAt(index int) *config.Uplink {
	for _, name := range p.cfg.UplinkNames() {
		if dev, ok := p.host.Uplinks[name]; ok && dev.Index == index {
			return p.cfg.Uplinks[name]
		}
	}
	return nil
}

// fdbFits refuses the fdb setting where the NIC's tap is no port of a bridge. What a libvirt
// network makes of it is seen at start.
func fdbFits(n *xmlfilter.NIC, s Settings) error {
	if s.FDB == "" || BridgeOf(n) != "" || n.Type == "network" {
		return nil
	}
	return step.Hint(step.ErrUnsuitable, "fdb is for ports of a bridge or of Open vSwitch, and this is type='%s'", n.Type)
}
