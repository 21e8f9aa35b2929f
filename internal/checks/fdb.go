package checks

import (
	"context"
	"slices"
	"strings"

	"libvirt-direct/hooks"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/ovs"
)

// cardTables proposes the fdb setting where a bridge, of Linux or of Open vSwitch, stands on
// a card with virtual functions: guests on those reach no guest behind the bridge that the
// card does not know.
func cardTables(ctx context.Context, env *Env) []Finding {
	cfg, err := config.Load(env.Config)
	if err != nil {
		return nil // configuration says so
	}
	k, err := link.Open()
	if err != nil {
		return nil // uplinks says so
	}
	defer k.Close()
	db := hooks.FindSwitch(env.Config)
	defer db.Close()
	switches, err := db.Bridges(ctx)
	if err != nil {
		switches = nil // most hosts have none, and who has one sees elsewhere that it does not answer
	}
	return cardsBelow(ctx, k, cfg, switches)
}

func cardsBelow(ctx context.Context, k kernel, cfg *config.Config, switches []ovs.Bridge) (found []Finding) {
	links, err := k.All(ctx)
	if err != nil {
		return []Finding{finding(Note, "bridge", "%v", err)}
	}
	look := func(bridge string, ports []link.Link) {
		pfs, err := hooks.PFsBelow(ctx, k, links, ports)
		if err != nil {
			found = append(found, finding(Note, "bridge "+bridge, "%v", err))
		}
		if len(pfs) == 0 {
			return
		}
		names := make([]string, len(pfs))
		for i, pf := range pfs {
			names[i] = pf.Name
		}
		text := "%s has virtual functions: guests on those reach a guest on %s only if the card knows its MAC"
		if !asksForFDB(cfg) {
			text += "; say fdb = \"pf\" in the profile or the uplink of guests on the bridge"
		}
		found = append(found, finding(Note, "bridge "+bridge, text, strings.Join(names, ", "), bridge))
	}
	for _, l := range links {
		if l.Kind == "bridge" {
			look(l.Name, slices.DeleteFunc(slices.Clone(links), func(p link.Link) bool { return p.Master != l.Index }))
		}
	}
	for _, b := range switches {
		look(b.Name, slices.DeleteFunc(slices.Clone(links), func(p link.Link) bool {
			return !slices.ContainsFunc(b.Devices, func(d ovs.Device) bool { return d.Name == p.Name })
		}))
	}
	return found
}

// asksForFDB reports whether the configuration has the setting anywhere.
func asksForFDB(cfg *config.Config) bool {
	for _, u := range cfg.Uplinks {
		if u.FDB != "" {
			return true
		}
	}
	for _, p := range cfg.Profiles {
		if p.FDB != "" {
			return true
		}
	}
	return false
}
