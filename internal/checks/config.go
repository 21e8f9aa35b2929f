package checks

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"libvirt-direct/internal/config"
)

// configuration checks that the configuration can be read, and be written by root alone.
func configuration(_ context.Context, env *Env) []Finding {
	cfg, err := config.Load(env.Config)
	if err != nil {
		return []Finding{finding(Fault, "config", "%v", err)}
	}
	fi, err := os.Stat(env.Config)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return []Finding{finding(OK, "config", "no %s: the defaults hold", env.Config)}
	case err != nil:
		return []Finding{finding(Fault, "config", "%v", err)}
	case !rootOwned(fi):
		return []Finding{finding(Fault, "config", "%s can be written by others than root: chown root:root, chmod 644", env.Config)}
	}
	var found []Finding
	for _, fault := range cfg.Faults() {
		found = append(found, finding(Fault, "config", "%v", fault))
	}
	if len(found) > 0 {
		return found
	}
	return []Finding{finding(OK, "config", "%s, with %d uplink(s) and %d profile(s)", env.Config, len(cfg.Uplinks), len(cfg.Profiles))}
}
