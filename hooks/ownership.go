package hooks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"libvirt-direct/internal/config"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
	"libvirt-direct/xmlfilter"
)

// This file is the one place that asks who has what: the kernel, who uses a virtual
// function, and the journals, who claims one.

// ErrInUse: another guest has the device.
var ErrInUse = errors.New("in use by another guest")

// ErrNotFree: somebody on this host who is no guest of ours has the device.
var ErrNotFree = errors.New("in use on this host")

// TakenError says why a domain cannot have a virtual function. It matches ErrInUse where
// another guest has it, else ErrNotFree.
type TakenError struct {
	VF VFDevice
	// By is the domain that claims it, "" where nobody does.
	By string
	// Starting: that domain is on its way to or from its VF, and the kernel does not tell.
	Starting bool
	// Unreadable: that domain's journal cannot be read, By is its UUID.
	Unreadable bool
	// Evidence is what the kernel shows, "" where it shows no use.
	Evidence string
}

func (e *TakenError) Error() string {
	who := fmt.Sprintf("VF %d of %s", e.VF.Number, e.VF.PFName)
	seen := ""
	if e.Evidence != "" {
		seen = fmt.Sprintf(" (%s: %s)", cmp.Or(e.VF.Netdev, e.VF.Device), e.Evidence)
	}
	switch {
	case e.Unreadable:
		return fmt.Sprintf("%v: %s is claimed by domain %s, whose journal cannot be read%s; try again, choose another VF, or see libvirt-direct status --claims", ErrInUse, who, e.By, seen)
	case e.Starting:
		return fmt.Sprintf("%v: %s is held for domain %q, which is starting, stopping or about to arrive%s; try again, choose another VF, or run libvirt-direct gc if it is none of these", ErrInUse, who, e.By, seen)
	case e.By != "":
		return fmt.Sprintf("%v: %s is domain %q's%s; stop that, or choose another VF", ErrInUse, who, e.By, seen)
	}
	return fmt.Sprintf("%v: %s%s; free it, or choose another VF", e.kind(), who, seen)
}

func (e *TakenError) kind() error {
	if e.By != "" || e.VF.Guest != "" {
		return ErrInUse
	}
	return ErrNotFree
}

// Is reports whether target is ErrInUse or ErrNotFree, as documented above.
func (e *TakenError) Is(target error) bool { return target == e.kind() }

// Available is the answer to whether a domain may have a virtual function: nil, or a
// *TakenError. named is false for who takes any that is free.
//
// One that it claims itself and that the kernel shows in no other hands, or that nobody
// claims and that the kernel shows unused, is available; to who names it also one whose claim is stale: its domain was started, and
// the kernel shows no use. A domain that was not started yet may be about to have it, and
// one that was stopped may have it put back at this moment.
func (h *Host) Available(vf VFDevice, named bool) error {
	holder, held := vf.Claims.Holder(h.Owner)
	own := slices.ContainsFunc(vf.Claims.All, func(c journal.Claim) bool {
		return c.UUID == h.Owner && (vf.Used == "" || vf.mine || vf.bound && c.Started)
	})
	taken := &TakenError{VF: vf, Evidence: vf.Used}
	unknown := slices.DeleteFunc(slices.Clone(vf.Claims.Unreadable), func(uuid string) bool { return uuid == h.Owner })
	switch {
	case len(unknown) > 0: // it can be starting, and above all that can be read
		taken.By, taken.Unreadable = unknown[0], true
		return taken
	case held:
		taken.By, taken.Starting = cmp.Or(holder.Name, holder.UUID), !holder.Started && vf.Used == ""
		if named && holder.Started && vf.Used == "" {
			return nil
		}
		return taken
	case own:
		return nil
	case vf.Used != "":
		return taken
	case !named && vf.Doubt != "":
		taken.Evidence = vf.Doubt
		return taken
	}
	return nil
}

// at looks who has the virtual function at a place; an error matching link.ErrNotFound
// where there is none any more.
func (s *surveyor) at(ctx context.Context, place link.VFPlace) (VFDevice, error) {
	use, err := s.kernel.VFUseAt(ctx, place)
	if err != nil {
		return VFDevice{}, err
	}
	vf := VFDevice{VFPlace: place, Netdev: use.Netdev, Driver: use.Driver, NUMA: use.NUMA}
	return vf, s.lookVF(ctx, &vf, use)
}

// claimsTo reads who claims a resource.
func claimsTo(dir *journal.Dir, resource string) (journal.Claims, error) { return dir.Claims(resource) }

// lookVF fills in who has a virtual function. Claims that cannot be read are an error only
// where the kernel does not show that it is in other hands.
func (s *surveyor) lookVF(ctx context.Context, vf *VFDevice, use link.VFUse) error {
	var err error
	vf.Claims, err = claimsTo(s.Journal, vf.resource())
	for u := range s.kernel.VFUsed(ctx, use, nil) {
		if u.Kind == link.UseUpper && vf.Guest == "" {
			l, err := s.kernel.ByName(ctx, u.Device)
			if err == nil && l.Kind == "macvtap" {
				vf.Guest, vf.GuestMAC = l.Name, l.MAC
				vf.mine = s.mine(l)
			}
		}
		switch {
		case u.Kind == link.UseUnknown:
			vf.Doubt = u.String()
		case vf.Used == "":
			vf.Used, vf.bound = u.String(), u.Kind == link.UseDriver || u.Kind == link.UseUnbound
		}
		if u.Kind != link.UseUpper { // the kinds come in order, what stands on it first
			break
		}
	}
	if vf.Used != "" && !vf.mine && !vf.bound {
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
func VFs(ctx context.Context, k Kernel, rec Records, pf link.Link) ([]VFDevice, error) {
	s := surveyor{Records: rec, kernel: k}
	uses, err := k.VFUses(ctx, pf.Name)
	if err != nil {
		return nil, err
	}
	vfs := make([]VFDevice, len(uses))
	for i, use := range uses {
		vfs[i] = VFDevice{VFPlace: use.VFPlace, PFName: pf.Name, PFIndex: pf.Index, Netdev: use.Netdev, Driver: use.Driver, NUMA: use.NUMA}
		// Who may not read the journals sees what the kernel shows.
		if err := s.lookVF(ctx, &vfs[i], use); ignore(err, fs.ErrPermission) != nil {
			return nil, err
		}
	}
	return vfs, nil
}

// Holder is the domain that claims a virtual function, "" for none, and what it wants of
// it.
func (v VFDevice) Holder() (domain string, want link.VFSettings) {
	holder, held := v.Claims.Holder("")
	if !held {
		return "", want
	}
	if s, err := decodeStep(holder.Step); err == nil && s.VF != nil {
		want = s.VF.Want
	}
	return cmp.Or(holder.Name, holder.UUID), want
}

// resource is what is claimed with a virtual function.
func (v VFDevice) resource() string { return vfResource(v.VFPlace) }

func vfResource(p link.VFPlace) string { return fmt.Sprintf("vf/%s/%d", p.PF, p.Number) }

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
func (s *surveyor) freeVFs(ctx context.Context, h *Host, dev Device, u *config.Uplink, need int) ([]VFDevice, error) {
	uses, err := s.uses(ctx, dev.Name)
	if err != nil || len(uses) == 0 {
		return nil, ignore(err, link.ErrNotFound)
	}
	claimed, err := s.Journal.Claimed("vf/" + uses[0].PF)
	if err != nil {
		return nil, err
	}
	pools := s.pools()
	rank := func(use link.VFUse) int {
		r := 0
		if slices.Contains(claimed, vfResource(use.VFPlace)) {
			r += 2
		}
		if len(s.domain.Nodes) > 0 && !slices.Contains(s.domain.Nodes, use.NUMA) {
			r++
		}
		return r
	}
	uses = slices.DeleteFunc(slices.Clone(uses), func(use link.VFUse) bool {
		return !u.Chooses(use.Number) || use.Netdev == "" || slices.Contains(s.Named, use.Netdev) || slices.Contains(s.Named, use.Device) || h.named(use.VFPlace)
	})
	own, err := s.ownVFs(h.Owner)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(uses, func(a, b link.VFUse) int { return rank(a) - rank(b) })
	slices.SortStableFunc(uses, func(a, b link.VFUse) int { return ownFirst(own, a) - ownFirst(own, b) })
	free := []VFDevice{}
	for _, use := range uses {
		if len(free) >= need {
			break
		}
		vf := VFDevice{VFPlace: use.VFPlace, PFName: dev.Name, PFIndex: dev.Index, Netdev: use.Netdev, NUMA: use.NUMA}
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

// named reports whether one of the domain's NICs names a virtual function.
func (h *Host) named(p link.VFPlace) bool {
	for _, vf := range h.VFs {
		if vf.VFPlace == p {
			return true
		}
	}
	return false
}

func ownFirst(own []string, use link.VFUse) int {
	if slices.Contains(own, vfResource(use.VFPlace)) {
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
		return nil, ignore(ignore(err, journal.ErrCorrupt), journal.ErrNewer)
	}
	var own []string
	for _, e := range j.Entries {
		own = append(own, e.Resource)
	}
	return own, nil
}

// poolOf names the network of libvirt's that could hand out a virtual function.
func poolOf(pools []*xmlfilter.Network, vf VFDevice) string {
	for _, n := range pools {
		if slices.Contains(n.Devices, vf.Netdev) || slices.Contains(n.PFs, vf.PFName) || slices.Contains(n.PCI, vf.Device) {
			return n.Name
		}
	}
	return ""
}

// held is how other domains hold something shared.
type held int

const (
	unheld held = iota
	heldForeign
	heldMade // and one of us made it
)

// sharedKind is a kind whose resource several domains can hold.
type sharedKind interface {
	kind
	// same says whether a step is about the same thing, and whether one of us has made that.
	same(s Step) (is, made bool)
}

// others reads how other domains hold something shared. A journal of which it is only known
// that it claims the resource counts as holding it: it is better to leave a device than
// to take it from under a guest.
func (a *applier) others(thing sharedKind) (held, error) {
	resource, _ := thing.resource()
	claims, err := claimsTo(a.dir, resource)
	if err != nil {
		return unheld, err
	}
	h := unheld
	for _, u := range claims.Unreadable {
		if u != a.journal.UUID {
			a.note("the journal of domain %s cannot be read; taken as a user", u)
			h = heldForeign
		}
	}
	for _, c := range claims.Others(a.journal.UUID) {
		s, err := decodeStep(c.Step)
		if err != nil {
			h = max(h, heldForeign)
			continue
		}
		if same, made := thing.same(s); same && made {
			return heldMade, nil
		} else if same {
			h = max(h, heldForeign)
		}
	}
	return h, nil
}

// beaten reports whether another domain holds by now what an entry of this one claims. Of
// what is made by its claimant, a device or a port, the claim alone is no hold: it can be
// that of a start which is refused because the thing is there.
func (a *applier) beaten(e journal.Entry) (bool, error) {
	if e.Shared {
		return false, nil
	}
	claims, err := claimsTo(a.dir, e.Resource)
	isVF := strings.HasPrefix(e.Resource, "vf/")
	for _, u := range claims.Unreadable {
		if isVF && u != a.journal.UUID {
			return false, fmt.Errorf("%w: the journal of domain %s, which claims it, cannot be read", errLater, u)
		}
	}
	if !isVF {
		claims.All = slices.DeleteFunc(claims.All, func(c journal.Claim) bool { return c.Phase == journal.Planned })
	}
	return claims.Beaten(a.journal.UUID, e.Gen), err
}

// hands says in whose hands a virtual function is that a domain gives back: nobody's, or
// what stands on it or has taken its network device away. The guest's own macvtap, which
// can be there still, has its MAC.
func (a *applier) hands(ctx context.Context, v *VF, dev link.Link, there bool) (string, error) {
	if !there {
		if v.Hostdev {
			return a.hostdevHands(ctx, v)
		}
		return "its network device is gone from here", nil
	}
	uppers, err := a.kernel.Uppers(ctx, dev.Name)
	if err != nil {
		return "", ignore(err, link.ErrNotFound)
	}
	for _, u := range uppers {
		l, err := a.kernel.ByName(ctx, u)
		if errors.Is(err, link.ErrNotFound) { // it has gone since it was listed
			continue
		}
		if err == nil && l.Kind == "macvtap" && l.MAC == v.MAC {
			continue
		}
		return u + " stands on " + dev.Name, err
	}
	return "", nil
}

// hostdevHands is hands for a VF without a network device: the MAC tells.
func (a *applier) hostdevHands(ctx context.Context, v *VF) (string, error) {
	if v.Baseline == nil {
		return "", nil
	}
	pf, err := a.kernel.PF(ctx, v.VFPlace)
	if err != nil {
		return "", err
	}
	now, err := a.kernel.VF(ctx, pf, v.Number)
	if err != nil || now.MAC == nil {
		return "", err
	}
	known := []string{v.MAC, v.Baseline.Own, noMAC}
	if was := v.Baseline.Settings.MAC; was != nil {
		known = append(known, *was)
	}
	if slices.Contains(known, *now.MAC) {
		return "", nil
	}
	return "it has the MAC " + *now.MAC, nil
}

// netdev returns a VF's network device, whatever it is called now; there is false where
// it has none here. A VF that is no more is an error matching link.ErrNotFound.
func (a *applier) netdev(ctx context.Context, p link.VFPlace) (dev link.Link, there bool, err error) {
	use, err := a.kernel.VFUseAt(ctx, p)
	if err != nil || use.Netdev == "" {
		return link.Link{}, false, err
	}
	dev, err = a.kernel.ByName(ctx, use.Netdev)
	return dev, err == nil, ignore(err, link.ErrNotFound)
}

// netdevOfVF is the network device of a PF's virtual function, "" where there is none.
func netdevOfVF(ctx context.Context, k Kernel, pf string, number int) (string, error) {
	uses, err := k.VFUses(ctx, pf)
	if err != nil {
		return "", ignore(err, link.ErrNotFound)
	}
	for _, use := range uses {
		if use.Number == number {
			return use.Netdev, nil
		}
	}
	return "", nil
}
