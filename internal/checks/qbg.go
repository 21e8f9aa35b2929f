package checks

import (
	"context"
	"errors"

	"libvirt-direct/hooks"
	"libvirt-direct/lldpad"
	"libvirt-direct/vdp/control"
)

// qbg checks what an uplink's device needs for <virtualport type='802.1Qbg'>. Only who
// wants that has a station running, so that nothing of it is a fault.
func qbg(ctx context.Context, _ *Env, _ kernel, u uplink) []Finding {
	device, about := u.device.Name, "802.1Qbg "+u.config.Name
	vdpd := control.NewClient("")
	if _, err := vdpd.Status(ctx); !errors.Is(err, control.ErrNoDaemon) {
		if err == nil {
			err = vdpd.Ready(ctx, device)
		}
		if err != nil {
			return []Finding{finding(Note, about, "%s", hooks.OneLine(err))}
		}
		return []Finding{finding(OK, about, "vdpd and the switch have agreed on %s", device)}
	}
	r, err := lldpad.Check(ctx, device)
	if err != nil {
		return []Finding{finding(Note, about, "%s", hooks.OneLine(err))}
	}
	return ofLLDPAD(about, device, r)
}

// ofLLDPAD says how lldpad stands with a device; nothing where it does not run.
func ofLLDPAD(about, device string, r lldpad.Report) []Finding {
	switch {
	case errors.Is(r.Err, lldpad.ErrNoDaemon) && !errors.Is(r.Err, lldpad.ErrStalePid):
		return nil
	case r.Err == nil:
		return []Finding{finding(OK, about, "lldpad and the switch have agreed on %s, edition %s", device, r.Edition)}
	}
	found := []Finding{finding(Note, about, "%v", r.Err)}
	if len(r.Fix) > 0 {
		found = append(found, finding(Note, about, "what follows mends it; reloading lldpad drops all VSIs that it holds"))
	}
	for _, command := range r.Fix {
		found = append(found, finding(Note, about, "to fix it: %s", command))
	}
	return found
}
