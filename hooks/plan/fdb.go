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

// AsksSwitch reports whether Open vSwitch has to be asked what stands below a NIC's bridge: it
// is on one, and wants its MAC known, or could.
func AsksSwitch(cfg *config.Config, n *xmlfilter.NIC) bool {
	return onSwitch(n) && MayWantFDB(cfg, Snapshot{}, n)
}

func onSwitch(n *xmlfilter.NIC) bool { return onOVS(n) || WasOnOVS(n) != nil }

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
func (p *planner) fdb(n *xmlfilter.NIC, s Settings) error {
	if n.Settings == nil || n.MAC == "" {
		return nil
	}
	bridge := BridgeOf(n)
	if p.host.SwitchErr != nil && onSwitch(n) && wantsFDB(s, s.Uplink, p.host.uplinkOf(p.cfg, bridge)) {
		return p.host.SwitchErr
	}
	for _, pf := range p.host.PFsBelow[bridge] {
		if wantsFDB(s, s.Uplink, p.host.uplinkOf(p.cfg, bridge), p.uplinkAt(pf.Index)) {
			p.last = append(p.last, step.Step{NIC: p.id(n), Kind: &step.FDB{PF: pf.Name, Index: pf.Index, MAC: n.MAC}})
		}
	}
	return nil
}

// wantsFDB asks a NIC's settings, and then uplinks in order.
func wantsFDB(s Settings, uplinks ...*config.Uplink) bool {
	want := s.FDB
	for _, u := range uplinks {
		if want == "" && u != nil {
			want = u.FDB
		}
	}
	return want == fdbPF
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
