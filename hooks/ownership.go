package hooks

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"libvirt-direct/hooks/plan"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
	"libvirt-direct/xmlfilter"
)

// This file is the one place that asks who has what: the kernel, who uses a virtual
// function, and the journals, who claims one.

// at looks who has the virtual function at a place; an error matching link.ErrNotFound
// where there is none any more.
func (s *surveyor) at(ctx context.Context, place link.VFPlace) (plan.VFDevice, error) {
	use, err := s.kernel.VFUseAt(ctx, place)
	if err != nil {
		return plan.VFDevice{}, err
	}
	vf := plan.VFDevice{VFPlace: place, Netdev: use.Netdev, Driver: use.Driver, NUMA: use.NUMA}
	return vf, s.lookVF(ctx, &vf, use)
}

// claimsTo reads who claims a resource.
func claimsTo(dir *journal.Dir, resource string) (journal.Claims, error) { return dir.Claims(resource) }

// lookVF fills in who has a virtual function. Claims that cannot be read are an error only
// where the kernel does not show that it is in other hands.
func (s *surveyor) lookVF(ctx context.Context, vf *plan.VFDevice, use link.VFUse) error {
	var err error
	vf.Claims, err = claimsTo(s.Journal, vf.Resource())
	for u := range s.kernel.VFUsed(ctx, use, nil) {
		if u.Kind == link.UseUpper && vf.Guest == "" {
			l, err := s.kernel.ByName(ctx, u.Device)
			if err == nil && l.Kind == "macvtap" {
				vf.Guest, vf.GuestMAC = l.Name, l.MAC
				vf.Mine = s.mine(l)
			}
		}
		switch {
		case u.Kind == link.UseUnknown:
			vf.Doubt = u.String()
		case vf.Used == "":
			vf.Used, vf.Bound = u.String(), u.Kind == link.UseDriver || u.Kind == link.UseUnbound
		}
		if u.Kind != link.UseUpper { // the kinds come in order, what stands on it first
			break
		}
	}
	if vf.Used != "" && !vf.Mine && !vf.Bound {
		return nil
	}
	return err
}

// mine reports whether a macvtap is that of the domain for which is looked: it has the MAC
// of one of its NICs, or is a device of its own that was not finished.
func (s *surveyor) mine(l link.Link) bool {
	if s.domain == nil {
		return false
	}
	if slices.ContainsFunc(s.domain.NICs, func(n xmlfilter.NIC) bool { return n.MAC == l.MAC }) {
		return true
	}
	claims, err := claimsTo(s.Journal, "link/"+l.Name)
	return err == nil && slices.ContainsFunc(claims.All, func(c journal.Claim) bool { return c.UUID == s.domain.UUID && c.Phase != journal.Planned })
}

// VFs looks at who has each virtual function of a PF.
func VFs(ctx context.Context, k step.Kernel, rec Records, pf link.Link) ([]plan.VFDevice, error) {
	s := surveyor{Records: rec, kernel: k}
	uses, err := k.VFUses(ctx, pf.Name)
	if err != nil {
		return nil, err
	}
	vfs := make([]plan.VFDevice, len(uses))
	for i, use := range uses {
		vfs[i] = plan.VFDevice{VFPlace: use.VFPlace, PFName: pf.Name, PFIndex: pf.Index, Netdev: use.Netdev, Driver: use.Driver, NUMA: use.NUMA}
		// Who may not read the journals sees what the kernel shows.
		if err := s.lookVF(ctx, &vfs[i], use); step.Ignore(err, fs.ErrPermission) != nil {
			return nil, err
		}
	}
	return vfs, nil
}

// uses lists a PF's virtual functions, asked for once.
func (s *surveyor) uses(ctx context.Context, pf string) ([]link.VFUse, error) {
	if known, ok := s.vfUses[pf]; ok {
		return known, nil
	}
	uses, err := s.kernel.VFUses(ctx, pf)
	if err != nil {
		return nil, err
	}
	s.vfUses[pf] = uses
	return uses, nil
}

// freeVFs chooses as many virtual functions of an uplink's device as could be needed, of
// those that the configuration lets be chosen: the domain's own first, then those on its
// NUMA nodes. It returns nil where the device has none at all. What is looked at costs
// the more the more are in use; a VF that a hint says to be claimed is looked at last.
func (s *surveyor) freeVFs(ctx context.Context, h *plan.Snapshot, dev plan.Device, u *config.Uplink, need int) ([]plan.VFDevice, error) {
	uses, err := s.uses(ctx, dev.Name)
	if err != nil || len(uses) == 0 {
		return nil, step.Ignore(err, link.ErrNotFound)
	}
	claimed, err := s.Journal.Claimed("vf/" + uses[0].PF)
	if err != nil {
		return nil, err
	}
	pools := s.pools()
	rank := func(use link.VFUse) int {
		r := 0
		if slices.Contains(claimed, step.VFResource(use.VFPlace)) {
			r += 2
		}
		if len(s.domain.Nodes) > 0 && !slices.Contains(s.domain.Nodes, use.NUMA) {
			r++
		}
		return r
	}
	uses = slices.DeleteFunc(slices.Clone(uses), func(use link.VFUse) bool {
		return !u.Chooses(use.Number) || use.Netdev == "" || slices.Contains(s.Named, use.Netdev) || slices.Contains(s.Named, use.Device) || h.Named(use.VFPlace)
	})
	own, err := s.ownVFs(h.Owner)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(uses, func(a, b link.VFUse) int { return rank(a) - rank(b) })
	slices.SortStableFunc(uses, func(a, b link.VFUse) int { return ownFirst(own, a) - ownFirst(own, b) })
	free := []plan.VFDevice{}
	for _, use := range uses {
		if len(free) >= need {
			break
		}
		vf := plan.VFDevice{VFPlace: use.VFPlace, PFName: dev.Name, PFIndex: dev.Index, Netdev: use.Netdev, NUMA: use.NUMA}
		if pool := poolOf(pools, vf); pool != "" {
			h.Pooled[u.Name] = append(h.Pooled[u.Name], pool)
			continue
		}
		if err := s.lookVF(ctx, &vf, use); err != nil {
			return nil, err
		}
		if h.Available(vf, false) == nil {
			free = append(free, vf)
		}
	}
	return free, nil
}

func ownFirst(own []string, use link.VFUse) int {
	if slices.Contains(own, step.VFResource(use.VFPlace)) {
		return 0
	}
	return 1
}

// ownVFs are the resources of the virtual functions that the domain itself claims.
func (s *surveyor) ownVFs(owner string) ([]string, error) {
	if owner == "" {
		return nil, nil
	}
	j, err := s.Journal.Load(owner)
	if err != nil || j == nil {
		return nil, step.Ignore(step.Ignore(err, journal.ErrCorrupt), journal.ErrNewer)
	}
	var own []string
	for _, e := range j.Entries {
		own = append(own, e.Resource)
	}
	return own, nil
}

// poolOf names the network of libvirt's that could hand out a virtual function.
func poolOf(pools []*xmlfilter.Network, vf plan.VFDevice) string {
	for _, n := range pools {
		if slices.Contains(n.Devices, vf.Netdev) || slices.Contains(n.PFs, vf.PFName) || slices.Contains(n.PCI, vf.Device) {
			return n.Name
		}
	}
	return ""
}

// beaten reports whether another domain holds by now what an entry of this one claims. Of
// what is made by its claimant, a device or a port, the claim alone is no hold: it can be
// that of a start which is refused because the thing is there.
func (a *session) beaten(e journal.Entry) (bool, error) {
	if e.Shared {
		return false, nil
	}
	claims, err := claimsTo(a.dir, e.Resource)
	isVF := strings.HasPrefix(e.Resource, "vf/")
	for _, u := range claims.Unreadable {
		if isVF && u != a.journal.UUID {
			return false, fmt.Errorf("%w: the journal of domain %s, which claims it, cannot be read", step.ErrLater, u)
		}
	}
	if !isVF {
		claims.All = slices.DeleteFunc(claims.All, func(c journal.Claim) bool { return c.Phase == journal.Planned })
	}
	return claims.Beaten(a.journal.UUID, e.Gen), err
}

// hasVFs reports whether a device is a physical function with virtual functions.
func hasVFs(ctx context.Context, k step.Kernel, name string) (bool, error) {
	uses, err := k.VFUses(ctx, name)
	return len(uses) > 0, step.Ignore(err, link.ErrNotFound, link.ErrNoVF)
}
