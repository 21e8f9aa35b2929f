package checks

import (
	"context"

	"libvirt-direct/hooks"
	"libvirt-direct/internal/config"
)

// oneDevice says which other uplinks are the same device. config.toml refuses that where both
// are found by one name; one of them can be found by its PCI function, its MAC or an altname.
func oneDevice(ctx context.Context, env *Env, k kernel, u uplink) (found []Finding) {
	cfg, err := config.Load(env.Config)
	if err != nil {
		return nil // configuration says so
	}
	for _, name := range cfg.UplinkNames() {
		if name >= u.config.Name { // each pair once
			break
		}
		if l, err := hooks.FindUplink(ctx, k, cfg.Uplinks[name]); err == nil && l.Index == u.device.Index {
			found = append(found, finding(Note, "uplink "+u.config.Name,
				"%s is the device of uplink %s, too: the vlans of both limit guests on it, and a guest that names only the device gets the other defaults of %[2]s; leave one of [uplink.%[2]s] and [uplink.%[3]s] in %[4]s, and let the other's name be among its also",
				l.Name, name, u.config.Name, env.Config))
		}
	}
	return found
}
