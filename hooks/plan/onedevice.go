package plan

import (
	"slices"

	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
)

// uplinksAt returns the uplinks that hold for a device: the one that its name means, and all
// whose device it is, which can be several where one is found by name and another by pci.
func (h Snapshot) uplinksAt(cfg *config.Config, dev Device) []*config.Uplink {
	var all []*config.Uplink
	if u := h.uplinkOf(cfg, dev.Name); u != nil {
		all = append(all, u)
	}
	for _, name := range cfg.UplinkNames() {
		u := cfg.Uplinks[name]
		if up, ok := h.Uplinks[name]; ok && dev.Index != 0 && up.Index == dev.Index && !slices.Contains(all, u) {
			all = append(all, u)
		}
	}
	return all
}

// allowed refuses a VLAN on a device that one of its uplinks does not allow: the first of them
// by name must not stand for another's limits.
func (h Snapshot) allowed(cfg *config.Config, dev Device, vid int) error {
	for _, u := range h.uplinksAt(cfg, dev) {
		if !u.Allows(vid) {
			return step.Hint(ErrNotAllowed, "VLAN %d on uplink %q; add it to vlans of [uplink.%s] in %s", vid, u.Name, u.Name, config.Path)
		}
	}
	return nil
}
