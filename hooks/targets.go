package hooks

import (
	"cmp"
	"context"
	"errors"
	"strings"

	"libvirt-direct/hooks/plan"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
	"libvirt-direct/xmlfilter"
)

// HelperAlias begins the alias of the helper's devices; who asked for it follows.
const HelperAlias = "qemu-direct-helper: "

// targets looks whose the devices are that a domain's NICs name by <target dev=>. What cannot
// be told stands in nobody's way.
func targets(ctx context.Context, k step.Kernel, rec Records, d *xmlfilter.Domain) map[string]plan.Target {
	found := map[string]plan.Target{}
	for i := range d.NICs {
		n := &d.NICs[i]
		if _, seen := found[n.Target]; seen || !plan.NamesDevice(n) {
			continue
		}
		l, err := k.ByName(ctx, n.Target)
		gone := errors.Is(err, link.ErrNotFound)
		if err != nil && !gone {
			continue
		}
		t := plan.Target{There: !gone, Name: cmp.Or(l.Name, n.Target)}
		t.Owner = ownerOf(rec.Journal, d.UUID, t, l)
		for _, other := range rec.Others {
			if t.Owner == nil && other.UUID != d.UUID && targetOf(other, n.Target) {
				t.Owner = &plan.Owner{Domain: cmp.Or(other.Name, other.UUID)}
			}
		}
		found[n.Target] = t
	}
	return found
}

// targetOf reports whether a domain names a hook-owned device.
func targetOf(d *xmlfilter.Domain, target string) bool {
	for i := range d.NICs {
		if n := &d.NICs[i]; n.Type == "ethernet" && n.Managed == "no" && n.Target == target {
			return true
		}
	}
	return false
}

// ownerOf is who has a device, nil where that is nobody of ours, or the domain itself. The
// device's alias says it, or a claim to it: somebody can have changed the alias, and a device
// that is claimed can be on its way.
func ownerOf(dir *journal.Dir, uuid string, t plan.Target, l link.Link) *plan.Owner {
	if whose, ours := strings.CutPrefix(l.Alias, step.Alias+" "); ours && journal.IsUUID(whose) {
		if whose == uuid {
			return nil
		}
		if j, err := dir.Load(whose); err == nil && j != nil {
			return &plan.Owner{Domain: cmp.Or(j.Name, whose)}
		}
		return &plan.Owner{Domain: whose}
	}
	if who, helpers := strings.CutPrefix(l.Alias, HelperAlias); helpers {
		return &plan.Owner{Helper: who}
	}
	claims, err := claimsTo(dir, "link/"+t.Name)
	if err != nil {
		return nil
	}
	for _, c := range claims.Others(uuid) {
		s, err := step.Decode(c.Step)
		device, is := s.Kind.(step.Device)
		made := err == nil && is && c.Phase != journal.Planned && t.There && device.Ifindex() == l.Index
		if made || !t.There && !c.Started && c.Phase != journal.Done { // it is on its way
			return &plan.Owner{Domain: cmp.Or(c.Name, c.UUID)}
		}
	}
	for _, other := range claims.Unreadable {
		if other != uuid && t.There {
			return &plan.Owner{Domain: other, Unreadable: true}
		}
	}
	return nil
}

// foreignDevices refuses a domain that has nothing for us and names another guest's device. Only
// what the kernel and the journals show of that device refuses it.
func (h *Hook) foreignDevices(ctx context.Context, c Call, d *xmlfilter.Domain) error {
	named := false
	for i := range d.NICs {
		named = named || plan.NamesDevice(&d.NICs[i])
	}
	if !named || c.Op != step.Prepare && c.Op != step.Start && c.Op != step.Reconnect {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, config.DefaultDeadline)
	defer cancel()
	k, closeKernel, err := h.Kernel()
	if err != nil {
		return nil
	}
	defer closeKernel()
	return plan.Targets(c.Op, d, SurveyTargets(ctx, k, h.records(), d))
}

// SurveyTargets looks up no more than the devices that a domain's NICs name by <target dev=>.
func SurveyTargets(ctx context.Context, k step.Kernel, rec Records, d *xmlfilter.Domain) plan.Snapshot {
	return plan.Snapshot{Owner: d.UUID, Targets: targets(ctx, k, rec, d)}
}
