package checks

import (
	"context"
	"errors"

	"libvirt-direct/hooks"
	"libvirt-direct/hooks/plan"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/libvirtd"
	"libvirt-direct/internal/link"
	"libvirt-direct/xmlfilter"
)

// clones tells of definitions that have lost settings, or that name another guest's device, as
// clones do: they do not start. It is silent where there are none, and where libvirt does not
// answer, which libvirtDaemons says.
func clones(ctx context.Context, env *Env) (found []Finding) {
	cfg, err := config.Load(env.Config)
	if err != nil {
		return nil // configuration says so
	}
	conn, err := libvirtd.Dial(ctx, env.Libvirt)
	if err != nil {
		return nil
	}
	defer conn.Close()
	k, err := link.Open()
	if err != nil {
		return nil // uplinks says so
	}
	defer k.Close()
	domains, err := conn.Domains(ctx)
	if err != nil {
		return []Finding{finding(Note, "domains", "%s", hooks.OneLine(err))}
	}
	for _, dom := range domains {
		text, err := conn.XML(ctx, dom)
		if err != nil {
			continue // it was undefined just now
		}
		d, err := xmlfilter.Parse([]byte(text))
		if err == nil {
			err = plan.Lost(d, cfg, hooks.SurveyTargets(ctx, k, env.Records, d))
		} else if !errors.Is(err, xmlfilter.ErrSettings) {
			continue // none of ours
		}
		if err != nil {
			found = append(found, finding(Fault, "domain "+dom.Name, "it does not start: %s", hooks.OneLine(err)))
		}
	}
	return found
}
