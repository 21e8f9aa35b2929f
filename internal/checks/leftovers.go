package checks

import (
	"context"
	"os"

	"libvirt-direct/hooks"
)

// leftovers checks that nothing is left of guests that do not run.
func leftovers(ctx context.Context, env *Env) []Finding {
	if os.Geteuid() != 0 {
		return []Finding{finding(Note, "leftovers", "not looked for: that needs root")}
	}
	lines, err := env.Stale(ctx)
	switch {
	case err != nil:
		return []Finding{finding(Fault, "leftovers", "%s", hooks.OneLine(err))}
	case len(lines) > 0:
		return []Finding{finding(Note, "leftovers", "%d of guests that are not running: look with libvirt-direct gc --dry-run, remove with gc", len(lines))}
	}
	return []Finding{finding(OK, "leftovers", "none")}
}
