package checks

import (
	"context"

	"libvirt-direct/hooks"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/link"
)

// uplink is one of the configuration whose device is there.
type uplink struct {
	config *config.Uplink
	device link.Link
}

// kernel is what the checks of an uplink ask of the kernel: *link.Conn.
type kernel interface {
	step.Kernel
	Elsewhere(ctx context.Context) *link.Elsewhere
	PortVLANs(ctx context.Context, index int) ([]link.PortVLAN, error)
}

// uplinks checks that the configuration's uplinks are there, and what is to be asked of
// each of their devices.
func uplinks(ctx context.Context, env *Env) (found []Finding) {
	cfg, err := config.Load(env.Config)
	if err != nil {
		return nil // configuration says so
	}
	k, err := link.Open()
	if err != nil {
		return []Finding{finding(Fault, "kernel", "%v", err)}
	}
	defer k.Close()
	for _, name := range cfg.UplinkNames() {
		l, err := hooks.FindUplink(ctx, k, cfg.Uplinks[name])
		found = append(found, uplinkDevice(env, name, l, err))
		if err != nil {
			continue
		}
		for _, look := range uplinkChecks() {
			found = append(found, look(ctx, env, k, uplink{cfg.Uplinks[name], l})...)
		}
	}
	return found
}

// uplinkDevice says what was found for an uplink's name.
func uplinkDevice(env *Env, name string, l link.Link, err error) Finding {
	about := "uplink " + name
	switch {
	case err != nil:
		return finding(Fault, about, "%v; fix [uplink.%s] in %s", err, name, env.Config)
	case !l.Up:
		return finding(Note, about, "%s is down; it is set up with its first guest", l.Name)
	case !l.Carrier:
		return finding(Note, about, "%s has no carrier, so that no guest's frame leaves this host: look at the cable and the switch's port", l.Name)
	}
	return finding(OK, about, "%s, MTU %d", l.Name, l.MTU)
}
