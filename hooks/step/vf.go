package step

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"libvirt-direct/internal/config"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
)

// VF is one virtual function in a guest's hands. At prepare it is claimed, and where the
// guest is managed it is noted what it is before libvirt changes it; at start, when libvirt
// has given the VF to the guest and to no other, the wanted settings are set.
//
// Undoing puts each setting back that is as we or libvirt have left it; what somebody
// else has changed since stays. Without a baseline nothing is put back: libvirt does so
// with what is its own.
type VF struct {
	link.VFPlace
	PFName string `json:"pf_name"` // for messages
	// MAC is the guest's, which libvirt gives the VF.
	MAC string `json:"mac,omitempty"`
	// LibvirtVLAN is that of the NIC's <vlan>, which libvirt sets; 0 for none.
	LibvirtVLAN int             `json:"libvirt_vlan,omitempty"`
	Want        link.VFSettings `json:"want"`
	Optional    []string        `json:"optional,omitempty"`
	// Program is false for what is not to be set, only claimed.
	Program bool `json:"program,omitempty"`
	// Managed: it is put back at the end. The VF of a plain guest is claimed, and that is
	// all.
	Managed bool `json:"managed,omitempty"`
	// GuestMAC: its network device gets the guest's MAC, for the hook's macvtap on it.
	GuestMAC bool `json:"guest_mac,omitempty"`
	// Hostdev: the guest has it by VFIO, without a network device here.
	Hostdev bool `json:"hostdev,omitempty"`

	// What Do notes before it acts.

	// Baseline is nil where the VF was in a guest's hands already when it was first seen.
	Baseline *Baseline `json:"baseline,omitempty"`
	// Freed: the MAC that the PF had given was taken away, for the guest's.
	Freed bool `json:"freed,omitempty"`
	// Set: the wanted settings were set.
	Set bool `json:"set,omitempty"`
	// Debt: all this is of the domain whose claim was taken over, and is to be put back.
	Debt bool `json:"debt,omitempty"`

	// Seen is its network device when it was planned, Chosen says that another would do.
	Seen   string `json:"-"`
	Chosen bool   `json:"-"`
}

func (v *VF) name() string { return fmt.Sprintf("VF %d of %s", v.Number, v.PFName) }

func (*VF) Type() string { return "vf" }

func (v *VF) Key() string { return fmt.Sprintf("vf %s/%d", v.PF, v.Number) }

func (*VF) Until() Op { return Release }

func (v *VF) Does() string {
	switch {
	case !v.Managed:
		return fmt.Sprintf("claim %s (%s), and leave it to libvirt", v.name(), v.Device)
	case !v.Program:
		return fmt.Sprintf("claim %s (%s), and remember its settings for the end", v.name(), v.Device)
	}
	return fmt.Sprintf("set %s: %s", v.name(), v.Want)
}

func (v *VF) Resource() (name string, shared bool) { return VFResource(v.VFPlace), false }

func (v *VF) Subject() string { return v.name() }

// IsChosen reports whether it was chosen freely.
func (v *VF) IsChosen() bool { return v.Chosen }

// Place is which virtual function it is.
func (v *VF) Place() link.VFPlace { return v.VFPlace }

// TakeOver passes on what is owed for the VF.
func (v *VF) TakeOver(was Kind, holder journal.Claim) (Kind, journal.Phase, error) {
	owed, is := was.(*VF)
	switch {
	case was == nil:
		return v, journal.Planned, nil
	case !is:
		return nil, "", fmt.Errorf("%w: domain %s: %s is a %s", journal.ErrCorrupt, holder.UUID, v.Key(), was.Type())
	case owed.Baseline == nil: // nothing is owed
		return v, journal.Planned, nil
	}
	debt := *owed
	debt.Debt = true
	return &debt, journal.Intended, nil
}

func (v *VF) Holds() string {
	switch {
	case v.Program:
		return fmt.Sprintf("%s (%s): %s", v.name(), v.Device, v.Want)
	case !v.Managed:
		return fmt.Sprintf("%s (%s), libvirt's to set and to put back", v.name(), v.Device)
	}
	return fmt.Sprintf("%s (%s)", v.name(), v.Device)
}

func (v *VF) Undoes() string {
	if !v.Managed {
		return ""
	}
	return fmt.Sprintf("put %s back to what it was", v.name())
}

// Observe says how a VF is not as it was set.
func (v *VF) Observe(ctx context.Context, k Kernel, o *Observed) error {
	pf, err := k.PF(ctx, v.VFPlace)
	var now link.VF
	if err == nil {
		now, err = k.VF(ctx, pf, v.Number)
	}
	if errors.Is(err, link.ErrNotFound) || errors.Is(err, link.ErrNoVF) {
		o.Difference = "gone"
		return nil
	}
	if err != nil {
		return err
	}
	o.Device = &pf
	if v.Set && v.Baseline == nil {
		o.Difference = "what it was before the guest is not known, and is not put back"
	}
	for _, attr := range now.Differ(v.Want) {
		if have, said := now.Value(attr); said && !slices.Contains(v.Optional, attr) {
			want, _ := v.Want.Value(attr)
			o.Difference = fmt.Sprintf("%s is %s, not %s", attr, have, want)
			return nil
		}
	}
	return nil
}

func (v *VF) Check() error {
	for _, n := range []string{v.PF, v.Device} {
		if !busName.MatchString(n) || n == "." || n == ".." {
			return fmt.Errorf("device %q", n)
		}
	}
	if v.Number < 0 || v.Number > 1<<16 {
		return fmt.Errorf("VF %d", v.Number)
	}
	if v.Baseline == nil {
		return v.Want.Check()
	}
	if n := v.Baseline.Netdev; n != "" && !config.ValidIfname(n) {
		return fmt.Errorf("network device %q", n)
	}
	return errors.Join(v.Want.Check(), v.Baseline.Settings.Check())
}

func (v *VF) Do(ctx context.Context, e *Env) (err error) {
	was, phase := e.Was()
	claimed, is := was.(*VF)
	if !is {
		return fmt.Errorf("%s is not claimed", v.name())
	}
	noted := *claimed
	owes := noted.Debt || e.Op == Prepare && !v.Program && phase != journal.Planned
	if owes && !v.Managed {
		// A plain guest is not refused what could not be put back before it.
		defer func() {
			if err != nil {
				e.Event("warning: %v", err)
				err = nil
			}
		}()
	}
	if !owes && (!v.Managed || !v.Program && phase != journal.Planned) {
		return nil // a plain guest's, or noted when it started
	}
	if err := e.Lock(ctx, VFResource(v.VFPlace)); err != nil {
		return err
	}
	pf, err := e.Kernel.PF(ctx, v.VFPlace)
	if err != nil {
		return err
	}
	v.Baseline, v.Freed, v.Set = noted.Baseline, noted.Freed, noted.Set
	switch {
	case owes:
		if e.Op == Prepare {
			err = pay(ctx, e, &noted, pf)
			v.Freed = false
		} else {
			err = paySettings(ctx, e, &noted, pf)
		}
		if err != nil {
			return err
		}
		v.Set = false
		if !v.Managed && e.Op == Prepare {
			v.Baseline = nil
			return e.Save(journal.Planned)
		}
	case phase == journal.Planned && v.Baseline == nil:
		if err := v.remember(ctx, e, pf); err != nil {
			return err
		}
	}
	if noted.Debt {
		noted.Program = false // by another domain
	}
	if v.Program {
		return v.program(ctx, e, pf, noted)
	}
	if e.Op == Prepare && !pf.Up { // libvirt and most drivers ask for that
		if err := e.Kernel.SetUp(ctx, pf.Index, true); err != nil {
			return err
		}
	}
	if v.GuestMAC && e.Op == Prepare {
		if err := e.Save(journal.Intended); err != nil {
			return err
		}
		if err := giveMAC(ctx, e, v, pf); err != nil {
			return err
		}
	}
	return e.Save(journal.Done)
}

func (v *VF) program(ctx context.Context, e *Env, pf link.Link, noted VF) error {
	if noted.Program { // by the network's settings, behind the domain's own
		v.Want, v.Optional = v.Want.Override(noted.Want), append(v.Optional, noted.Optional...)
	}
	v.Set = true
	if err := e.Save(journal.Intended); err != nil {
		return err
	}
	warnings, err := e.Kernel.SetVF(ctx, pf, v.Number, v.Want, v.Optional...)
	for _, w := range warnings {
		e.Event("warning: %v", w)
	}
	if err != nil {
		return err
	}
	e.Event("set %s: %s", v.name(), v.Want)
	return e.Save(journal.Done)
}

// Undo puts a VF back, one setting for itself, unless it is in other hands by now.
func (v *VF) Undo(ctx context.Context, e *Env) error {
	if v.Baseline == nil {
		if v.Set {
			e.Event("%s keeps %s: what it was before is not known", v.name(), v.Want)
		}
		return nil
	}
	var dev link.Link
	there := false
	pf, err := e.Kernel.PF(ctx, v.VFPlace)
	if err == nil {
		dev, there, err = netdevOf(ctx, e.Kernel, v.VFPlace)
	}
	if errors.Is(err, link.ErrNotFound) {
		if _, _, at := netdevOf(ctx, e.Kernel, v.VFPlace); at == nil {
			return fmt.Errorf("%w: %s: its PF has no network device here", ErrLater, v.name())
		}
		e.Event("%s is gone, and its settings with it", v.name())
		return nil
	}
	if err != nil {
		return err
	}
	who, err := hands(ctx, e, v, dev, there)
	if err != nil {
		return err
	}
	if who != "" {
		return fmt.Errorf("%w: %s: %s", ErrLater, v.name(), who)
	}
	err = (&restoration{v, e, pf, dev, there}).all(ctx)
	if errors.Is(err, link.ErrNoVF) {
		e.Event("%s is gone, and its settings with it", v.name())
		return nil
	}
	return err
}

// VFResource is what is claimed with a virtual function.
func VFResource(p link.VFPlace) string { return fmt.Sprintf("vf/%s/%d", p.PF, p.Number) }
