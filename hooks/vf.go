package hooks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"regexp"
	"slices"
	"time"

	"libvirt-direct/internal/config"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
)

// vfKernel is what the hook asks of the kernel for virtual functions.
type vfKernel interface {
	VFOf(ctx context.Context, name string) (link.VFPlace, error)
	VFAt(ctx context.Context, address string) (link.VFPlace, error)
	PF(ctx context.Context, p link.VFPlace) (link.Link, error)
	VFUses(ctx context.Context, pf string) ([]link.VFUse, error)
	VFUseAt(ctx context.Context, p link.VFPlace) (link.VFUse, error)
	VFUsed(ctx context.Context, vf link.VFUse, elsewhere *link.Elsewhere) iter.Seq[link.Use]
	VF(ctx context.Context, pf link.Link, number int) (link.VF, error)
	SetVF(ctx context.Context, pf link.Link, number int, want link.VFSettings, optional ...string) ([]error, error)
	RestoreVF(ctx context.Context, pf link.Link, number int, choose func(now link.VFSettings) link.VFSettings) error
	AssociatePort(ctx context.Context, dev link.Link, request link.PortRequest, p link.Port) error
	DisassociatePort(ctx context.Context, dev link.Link, vf int) error
}

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
	// Hostdev: the guest has it by VFIO, without a network device here.
	Hostdev bool `json:"hostdev,omitempty"`

	// What Apply notes before it acts.

	// Baseline is nil where the VF was in a guest's hands already when it was first seen.
	Baseline *Baseline `json:"baseline,omitempty"`
	// Freed: the MAC that the PF had given was taken away, for the guest's.
	Freed bool `json:"freed,omitempty"`
	// Set: the wanted settings were set.
	Set bool `json:"set,omitempty"`
	// Debt: all this is of the domain whose claim was taken over, and is to be put back.
	Debt bool `json:"debt,omitempty"`

	seen   string // its network device when it was planned
	chosen bool   // freely: another would do
}

// Baseline is what a VF was before a guest had it.
type Baseline struct {
	Settings link.VFSettings `json:"settings"`
	// Own is the MAC of the VF's network device: libvirt leaves it as the one that the PF
	// gives.
	Own string `json:"own,omitempty"`
	// Up says whether that network device was up, Netdev and Index what it was.
	Up     bool   `json:"up,omitempty"`
	Netdev string `json:"netdev,omitempty"`
	Index  int    `json:"index,omitempty"`
}

func (v *VF) name() string { return fmt.Sprintf("VF %d of %s", v.Number, v.PFName) }

func (v *VF) key() string { return fmt.Sprintf("vf %s/%d", v.PF, v.Number) }

func (v *VF) does() string {
	switch {
	case !v.Managed:
		return fmt.Sprintf("claim %s (%s), and leave it to libvirt", v.name(), v.Device)
	case !v.Program:
		return fmt.Sprintf("claim %s (%s), and remember its settings for the end", v.name(), v.Device)
	}
	return fmt.Sprintf("set %s: %s", v.name(), v.Want)
}

func (v *VF) resource() (name string, shared bool) { return vfResource(v.VFPlace), false }

func (v *VF) subject() string { return v.name() }

func (v *VF) isChosen() bool { return v.chosen }

// takeOver passes on what is owed for the VF.
func (v *VF) takeOver(s Step, holder journal.Claim) (Step, journal.Phase, error) {
	if holder.Phase == journal.Planned {
		return s, journal.Planned, nil
	}
	was, err := decodeStep(holder.Step)
	if err != nil || was.VF == nil {
		return s, "", fmt.Errorf("%w: domain %s: %w", journal.ErrCorrupt, holder.UUID, err)
	}
	if was.VF.Baseline == nil { // nothing is owed
		return s, journal.Planned, nil
	}
	debt := *was.VF
	debt.Debt, s.VF = true, &debt
	return s, journal.Intended, nil
}

func (v *VF) holds() string {
	switch {
	case v.Program:
		return fmt.Sprintf("%s (%s): %s", v.name(), v.Device, v.Want)
	case !v.Managed:
		return fmt.Sprintf("%s (%s), libvirt's to set and to put back", v.name(), v.Device)
	}
	return fmt.Sprintf("%s (%s)", v.name(), v.Device)
}

func (v *VF) undoes() string {
	if !v.Managed {
		return ""
	}
	return fmt.Sprintf("put %s back to what it was", v.name())
}

// compareVF says how a VF is not as it was set.
func (v *VF) compare(ctx context.Context, k Kernel, h *Held) error {
	pf, err := k.PF(ctx, v.VFPlace)
	var now link.VF
	if err == nil {
		now, err = k.VF(ctx, pf, v.Number)
	}
	if errors.Is(err, link.ErrNotFound) || errors.Is(err, link.ErrNoVF) {
		h.Difference = "gone"
		return nil
	}
	if err != nil {
		return err
	}
	h.Device = &pf
	if v.Set && v.Baseline == nil {
		h.Difference = "what it was before the guest is not known, and is not put back"
	}
	for _, attr := range now.Differ(v.Want) {
		if have, said := now.Value(attr); said && !slices.Contains(v.Optional, attr) {
			want, _ := v.Want.Value(attr)
			h.Difference = fmt.Sprintf("%s is %s, not %s", attr, have, want)
			return nil
		}
	}
	return nil
}

// busName is a device's name on its bus.
var busName = regexp.MustCompile(`^[0-9A-Za-z:._-]{1,64}$`)

func (v *VF) check() error {
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

func (*VF) do(ctx context.Context, a *applier, s Step) (err error) {
	v := *s.VF
	s.VF = &v
	i := a.index(s.key())
	if i < 0 {
		return fmt.Errorf("%s is not claimed", v.name())
	}
	noted, phase := *a.steps[i].VF, a.journal.Entries[i].Phase
	owes := noted.Debt || a.op == Prepare && !v.Program && phase != journal.Planned
	if owes && !v.Managed {
		// A plain guest is not refused what could not be put back before it.
		defer func() {
			if err != nil {
				a.note("warning: %v", err)
				err = nil
			}
		}()
	}
	if !owes && (!v.Managed || !v.Program && phase != journal.Planned) {
		return nil // a plain guest's, or noted when it started
	}
	unlock, err := a.dir.Lock(ctx, vfResource(v.VFPlace))
	if err != nil {
		return err
	}
	defer unlock()
	pf, err := a.kernel.PF(ctx, v.VFPlace)
	if err != nil {
		return err
	}
	v.Baseline, v.Freed, v.Set = noted.Baseline, noted.Freed, noted.Set
	switch {
	case owes:
		if a.op == Prepare {
			err = a.pay(ctx, pf, &noted)
			v.Freed = false
		} else {
			err = a.paySettings(ctx, pf, &noted)
		}
		if err != nil {
			return err
		}
		v.Set = false
		if !v.Managed && a.op == Prepare {
			v.Baseline = nil
			return a.put(s, journal.Planned)
		}
	case phase == journal.Planned && v.Baseline == nil:
		if err := a.remember(ctx, pf, &v); err != nil {
			return err
		}
	}
	if noted.Debt {
		noted.Program = false // by another domain
	}
	if v.Program {
		return a.program(ctx, pf, s, noted)
	}
	if a.op == Prepare && !pf.Up { // libvirt and most drivers ask for that
		if err := a.kernel.SetUp(ctx, pf.Index, true); err != nil {
			return err
		}
	}
	return a.put(s, journal.Done)
}

// pay puts a VF back for another guest's life that could not do so itself, or for an
// earlier one of this domain.
func (a *applier) pay(ctx context.Context, pf link.Link, owed *VF) error {
	if owed.Baseline == nil {
		return nil
	}
	dev, there, err := a.netdev(ctx, owed.VFPlace)
	if err != nil {
		return err
	}
	if who, err := a.hands(ctx, owed, dev, there); err != nil || who != "" {
		return errors.Join(err, remedy(ErrInUse, "%s: %s", owed.name(), who))
	}
	return a.putBack(ctx, pf, owed, dev, there)
}

// paySettings does that for a VF that the guest has already: its MAC and its VLAN are
// libvirt's by now, and the rest is not to be left as another guest had it.
func (a *applier) paySettings(ctx context.Context, pf link.Link, owed *VF) error {
	if owed.Baseline == nil {
		return nil
	}
	return a.kernel.RestoreVF(ctx, pf, owed.Number, func(now link.VFSettings) link.VFSettings {
		back, _ := owed.toPutBack(now)
		return back.Only(func(attr string) bool { return attr != link.AttrMAC && attr != link.AttrVLAN })
	})
}

func (a *applier) program(ctx context.Context, pf link.Link, s Step, noted VF) error {
	v := s.VF
	if noted.Program { // by the network's settings, behind the domain's own
		v.Want, v.Optional = v.Want.Override(noted.Want), append(v.Optional, noted.Optional...)
	}
	v.Set = true
	done, err := a.intend(s)
	if err != nil {
		return err
	}
	warnings, err := a.kernel.SetVF(ctx, pf, v.Number, v.Want, v.Optional...)
	for _, w := range warnings {
		a.note("warning: %v", w)
	}
	if err != nil {
		return err
	}
	a.note("set %s: %s", v.name(), v.Want)
	return done()
}

// remember notes a VF as it is before a guest has it. At start libvirt has changed its MAC
// and its VLAN by then, and saved both. Of a guest that runs nothing is to be learnt: what
// it has would be taken for the VF's own.
func (a *applier) remember(ctx context.Context, pf link.Link, v *VF) error {
	if a.op == Reconnect {
		return nil
	}
	dev, there, err := a.netdev(ctx, v.VFPlace)
	if err != nil {
		return err
	}
	if a.op == PortCreated {
		// libvirt also calls for the port of a guest that it finds running.
		if !there {
			return nil
		}
		if uppers, err := a.kernel.Uppers(ctx, dev.Name); err != nil || len(uppers) > 0 {
			return err
		}
	}
	now, err := a.kernel.VF(ctx, pf, v.Number)
	if err != nil {
		return err
	}
	if a.op == Prepare { // who knows nothing of our claims can have taken it meanwhile
		after, there, err := a.netdev(ctx, v.VFPlace)
		if err != nil {
			return err
		}
		who, err := a.hands(ctx, v, after, there)
		if err != nil {
			return err
		}
		if who != "" || after.Name != v.seen || after.Index != dev.Index {
			return remedy(ErrNotFree, "%s is being given to somebody else at this moment", v.name())
		}
	}
	v.Baseline = &Baseline{Settings: now.VFSettings, Own: dev.MAC, Up: dev.Up, Netdev: dev.Name, Index: dev.Index}
	if a.op == Start {
		v.Baseline.Settings.MAC, v.Baseline.Settings.VLAN = nil, nil
		a.savedByLibvirt(pf.Name, v)
	}
	return nil
}

// savedByLibvirt takes what libvirt has saved of a VF before it changed it.
func (a *applier) savedByLibvirt(pf string, v *VF) {
	for _, part := range []string{"qemu", "hostdevmgr"} {
		saved, err := readSaved(a.libvirt, vfFile(part, pf, v.Number))
		if err != nil {
			continue
		}
		found := v.Baseline.Settings
		if saved.AdminMAC != "" {
			found.MAC = &saved.AdminMAC
		}
		if saved.VLAN != nil {
			found.VLAN = &link.VFVLAN{ID: *saved.VLAN, Proto: link.Dot1Q}
		}
		if found.Check() == nil {
			v.Baseline.Settings, v.Baseline.Own = found, cmp.Or(saved.MAC, v.Baseline.Own)
		}
	}
}

// errLater: what is to be put back is in the hands of somebody who made no claim. It is
// left alone, and stays owed until it is free.
var errLater = errors.New("left alone until it is free")

// undoVF puts a VF back, one setting for itself, unless it is in other hands by now.
func (*VF) undo(ctx context.Context, a *applier, s Step) error {
	v := s.VF
	if v.Baseline == nil {
		if v.Set {
			a.note("%s keeps %s: what it was before is not known", v.name(), v.Want)
		}
		return a.drop(s.key())
	}
	var dev link.Link
	there := false
	pf, err := a.kernel.PF(ctx, v.VFPlace)
	if err == nil {
		dev, there, err = a.netdev(ctx, v.VFPlace)
	}
	if errors.Is(err, link.ErrNotFound) {
		if _, _, at := a.netdev(ctx, v.VFPlace); at == nil {
			return fmt.Errorf("%w: %s: its PF has no network device here", errLater, v.name())
		}
		a.note("%s is gone, and its settings with it", v.name())
		return a.drop(s.key())
	}
	if err != nil {
		return err
	}
	if there { // our own, which could not be removed and holds the MAC
		for _, o := range a.steps {
			if o.Macvtap != nil && o.Macvtap.Lower == dev.Name && a.acted(o.key()) {
				return fmt.Errorf("%s: %s stands on it still", v.name(), o.Macvtap.Name)
			}
		}
	}
	who, err := a.hands(ctx, v, dev, there)
	if err != nil {
		return err
	}
	if who != "" {
		return fmt.Errorf("%w: %s: %s", errLater, v.name(), who)
	}
	err = a.putBack(ctx, pf, v, dev, there)
	if errors.Is(err, link.ErrNoVF) {
		a.note("%s is gone, and its settings with it", v.name())
		return a.drop(s.key())
	}
	if err != nil {
		return err
	}
	return a.drop(s.key())
}

// putBack gives a VF and its network device their baseline.
func (a *applier) putBack(ctx context.Context, pf link.Link, v *VF, dev link.Link, there bool) error {
	var errs []error
	// First, since a VF's driver announces its own MAC when it goes down.
	if there && v.Baseline.Own != "" {
		errs = append(errs, a.putBackNetdev(ctx, dev, v))
	}
	if v.Freed { // the VF's own is the same by now, and would be taken for it
		none := noMAC
		errs = append(errs, a.kernel.RestoreVF(ctx, pf, v.Number, func(link.VFSettings) link.VFSettings { return link.VFSettings{MAC: &none} }))
	}
	var back link.VFSettings
	err := a.kernel.RestoreVF(ctx, pf, v.Number, func(now link.VFSettings) link.VFSettings {
		var kept []string
		back, kept = v.toPutBack(now)
		for _, attr := range kept {
			value, _ := now.Value(attr)
			a.note("left %s of %s at %s: somebody else has set it", attr, v.name(), value)
		}
		return back
	})
	if refuses(err, link.AttrMAC) && *back.MAC == noMAC && v.Baseline.Own != "" {
		// Some drivers refuse the zero MAC that they report where none was given; then the
		// VF's own is the next best.
		a.note("%s: the driver takes no MAC back, it gets %s", v.name(), v.Baseline.Own)
		back.MAC = &v.Baseline.Own
		err = a.kernel.RestoreVF(ctx, pf, v.Number, func(link.VFSettings) link.VFSettings { return back })
	}
	if text := back.String(); text != "" && err == nil {
		a.note("%s is back at %s", v.name(), text)
	}
	return errors.Join(append(errs, err)...)
}

// refuses reports whether one of the errors that RestoreVF joins is about an attribute.
func refuses(err error, attr string) bool {
	all := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		all = joined.Unwrap()
	}
	return slices.ContainsFunc(all, func(err error) bool {
		var refused *link.VFError
		return errors.As(err, &refused) && refused.Attr == attr
	})
}

// guestMAC gives a macvtap in passthrough mode, and so its lower device, the guest's MAC.
// A VF may not change one that its PF has given it, unless it is trusted; some drivers say
// so, and others do as if. Then the PF's is taken away.
func (a *applier) guestMAC(ctx context.Context, m Macvtap, lower link.Link) error {
	k := a.kernel
	place, err := k.VFOf(ctx, lower.Name)
	if errors.Is(err, link.ErrNoVF) || errors.Is(err, link.ErrNotFound) {
		return k.SetMAC(ctx, m.Index, m.MAC)
	}
	if err != nil {
		return err
	}
	pf, err := k.PF(ctx, place)
	if err != nil {
		return err
	}
	fixed := a.setMAC(ctx, m.Index, lower.Index, m.MAC)
	if ignore(fixed, link.ErrMACFixed) != nil {
		return fixed
	}
	if fixed == nil {
		// When it comes up its driver asks the PF.
		if err := k.SetUp(ctx, lower.Index, true); err != nil {
			return err
		}
		taken, err := a.hasMAC(ctx, pf, place.Number, m.MAC)
		if taken || err != nil {
			return err
		}
	}
	if err := a.freeMAC(ctx, pf, place); err != nil {
		return errors.Join(fixed, err)
	}
	// A macvtap that has the MAC already would not pass it on.
	on := lower.Index
	if fixed != nil {
		on = m.Index
	}
	return a.setMAC(ctx, on, lower.Index, m.MAC)
}

// setMAC sets the MAC of a VF's network device, or of a macvtap on it. Some drivers take
// none while it is up.
func (a *applier) setMAC(ctx context.Context, index, lower int, mac string) error {
	err := a.kernel.SetMAC(ctx, index, mac)
	if !errors.Is(err, link.ErrBusy) {
		return err
	}
	if err := a.kernel.SetUp(ctx, lower, false); err != nil {
		return err
	}
	return errors.Join(a.kernel.SetMAC(ctx, index, mac), a.kernel.SetUp(ctx, lower, true))
}

// macTime is how long a PF that works asynchronously has to show a VF's new MAC.
const macTime = time.Second

// hasMAC reports whether a PF shows a VF with that MAC, or with none.
func (a *applier) hasMAC(ctx context.Context, pf link.Link, number int, mac string) (bool, error) {
	for end := time.Now().Add(macTime); ; {
		now, err := a.kernel.VF(ctx, pf, number)
		if err != nil || now.MAC == nil || *now.MAC == noMAC || *now.MAC == mac {
			return err == nil, err
		}
		if time.Now().After(end) {
			return false, nil
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(macTime / 10):
		}
	}
}

// freeMAC takes the MAC away that a PF has given a VF. That is noted before, for the
// driver does not tell a MAC that is given from one that the VF has chosen.
func (a *applier) freeMAC(ctx context.Context, pf link.Link, place link.VFPlace) error {
	for _, s := range a.steps {
		if s.VF == nil || s.VF.PF != place.PF || s.VF.Number != place.Number {
			continue
		}
		v := *s.VF
		v.Freed, s.VF = true, &v
		if err := a.put(s, journal.Done); err != nil {
			return err
		}
		break
	}
	none := noMAC
	if _, err := a.kernel.SetVF(ctx, pf, place.Number, link.VFSettings{MAC: &none}); err != nil {
		return err
	}
	a.note("took the MAC away that %s has given VF %d, for the guest's", pf.Name, place.Number)
	return nil
}

// putBackNetdev puts a VF's network device back. Where a macvtap has gone from it the
// kernel has given it its MAC again, unless its driver takes none while it is up.
func (a *applier) putBackNetdev(ctx context.Context, dev link.Link, v *VF) error {
	was := v.Baseline
	a.putBackName(ctx, dev, v)
	if dev.Up && !was.Up {
		if err := a.kernel.SetUp(ctx, dev.Index, false); err != nil {
			return err
		}
	}
	if dev.MAC == v.MAC && dev.MAC != was.Own {
		if err := a.kernel.SetMAC(ctx, dev.Index, was.Own); err != nil {
			a.note("%s keeps the guest's MAC: %v", dev.Name, err)
		}
	}
	if !dev.Up && was.Up {
		return a.kernel.SetUp(ctx, dev.Index, true)
	}
	return nil
}

// putBackName renames a VF's network device that is a new one, because its driver was
// bound again: without udev it has the first name that was free. One that somebody has
// renamed is let be, and one whose name is another's by now: nothing here goes by it.
func (a *applier) putBackName(ctx context.Context, dev link.Link, v *VF) {
	was := v.Baseline
	if was.Netdev == "" || dev.Name == was.Netdev || dev.Index == was.Index {
		return
	}
	if err := a.kernel.SetName(ctx, dev.Index, was.Netdev); err != nil {
		a.note("the network device of %s was %s and is now %s: %v", v.name(), was.Netdev, dev.Name, err)
		return
	}
	a.note("%s is %s again", dev.Name, was.Netdev)
}

// toPutBack returns the settings to put back, and the attributes that somebody else
// has changed.
func (v *VF) toPutBack(now link.VFSettings) (back link.VFSettings, left []string) {
	changed := now.Differ(v.Baseline.Settings)
	mine := func(attr string) bool {
		have, said := now.Value(attr)
		if want, set := v.Want.Value(attr); v.Set && set && (!said || want == have) {
			return true
		}
		switch attr { // libvirt's: the guest's MAC, or the VF's own; no VLAN, or the old one without its priority
		case link.AttrMAC:
			return v.MAC == have || v.Baseline.Own == have || v.Freed && have == noMAC
		case link.AttrVLAN:
			return now.VLAN != nil && v.libvirtVLAN(*now.VLAN)
		case link.AttrMinRate, link.AttrMaxRate:
			return v.Set && (v.Want.MinRate != nil || v.Want.MaxRate != nil) // one setting to the kernel
		}
		return false
	}
	for _, attr := range changed {
		if _, said := now.Value(attr); said && !mine(attr) {
			left = append(left, attr)
		}
	}
	return v.Baseline.Settings.Only(func(attr string) bool {
		return slices.Contains(changed, attr) && !slices.Contains(left, attr)
	}), left
}

func (v *VF) libvirtVLAN(now link.VFVLAN) bool {
	if now.QoS != 0 {
		return false
	}
	ids := []int{0}
	for _, s := range []*link.VFVLAN{v.Baseline.Settings.VLAN, v.Want.VLAN} {
		if s != nil {
			ids = append(ids, s.ID)
		}
	}
	return slices.Contains(append(ids, v.LibvirtVLAN), now.ID)
}

const noMAC = "00:00:00:00:00:00"
