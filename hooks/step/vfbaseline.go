package step

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"libvirt-direct/internal/link"
)

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

// remember notes a VF as it is before a guest has it. At start libvirt has changed its MAC
// and its VLAN by then, and saved both. Of a guest that runs nothing is to be learnt: what
// it has would be taken for the VF's own.
func (v *VF) remember(ctx context.Context, e *Env, pf link.Link) error {
	if e.Op == Reconnect {
		return nil
	}
	dev, there, err := netdevOf(ctx, e.Kernel, v.VFPlace)
	if err != nil {
		return err
	}
	if e.Op == PortCreated {
		// libvirt also calls for the port of a guest that it finds running.
		if !there {
			return nil
		}
		if uppers, err := e.Kernel.Uppers(ctx, dev.Name); err != nil || len(uppers) > 0 {
			return err
		}
	}
	now, err := e.Kernel.VF(ctx, pf, v.Number)
	if err != nil {
		return err
	}
	if e.Op == Prepare { // who knows nothing of our claims can have taken it meanwhile
		after, there, err := netdevOf(ctx, e.Kernel, v.VFPlace)
		if err != nil {
			return err
		}
		who, err := hands(ctx, e, v, after, there)
		if err != nil {
			return err
		}
		if who != "" || after.Name != v.Seen || after.Index != dev.Index {
			return Hint(ErrNotFree, "%s is being given to somebody else at this moment", v.name())
		}
	}
	v.Baseline = &Baseline{Settings: now.VFSettings, Own: dev.MAC, Up: dev.Up, Netdev: dev.Name, Index: dev.Index}
	if e.Op == Start {
		v.Baseline.Settings.MAC, v.Baseline.Settings.VLAN = nil, nil
		v.Baseline.saved(e.Libvirt, pf.Name, v.Number)
	}
	return nil
}

// saved takes what libvirt has saved of a VF before it changed it.
func (b *Baseline) saved(libvirt fs.FS, pf string, number int) {
	for _, part := range []string{"qemu", "hostdevmgr"} {
		saved, err := ReadSaved(libvirt, SavedFile(part, pf, number))
		if err != nil {
			continue
		}
		found := b.Settings
		if saved.AdminMAC != "" {
			found.MAC = &saved.AdminMAC
		}
		if saved.VLAN != nil {
			found.VLAN = &link.VFVLAN{ID: *saved.VLAN, Proto: link.Dot1Q}
		}
		if found.Check() == nil {
			b.Settings, b.Own = found, cmp.Or(saved.MAC, b.Own)
		}
	}
}

// pay puts a VF back for another guest's life that could not do so itself, or for an
// earlier one of this domain.
func pay(ctx context.Context, e *Env, v *VF, pf link.Link) error {
	if v.Baseline == nil {
		return nil
	}
	dev, there, err := netdevOf(ctx, e.Kernel, v.VFPlace)
	if err != nil {
		return err
	}
	if who, err := hands(ctx, e, v, dev, there); err != nil || who != "" {
		return errors.Join(err, Hint(ErrInUse, "%s: %s", v.name(), who))
	}
	return (&restoration{v, e, pf, dev, there}).all(ctx)
}

// paySettings does that for a VF that the guest has already: its MAC and its VLAN are
// libvirt's by now, and the rest is not to be left as another guest had it.
func paySettings(ctx context.Context, e *Env, v *VF, pf link.Link) error {
	if v.Baseline == nil {
		return nil
	}
	return e.Kernel.RestoreVF(ctx, pf, v.Number, func(now link.VFSettings) link.VFSettings {
		back, _ := (&restoration{v: v}).settings(now)
		return back.Only(func(attr string) bool { return attr != link.AttrMAC && attr != link.AttrVLAN })
	})
}

// A restoration gives a VF and its network device their baseline.
type restoration struct {
	v       *VF
	e       *Env
	pf, dev link.Link // the VF's own, where that is there
	there   bool
}

func (r *restoration) all(ctx context.Context) error {
	v, e := r.v, r.e
	var errs []error
	// First, since a VF's driver announces its own MAC when it goes down.
	if r.there && v.Baseline.Own != "" {
		errs = append(errs, r.netdev(ctx))
	}
	if v.Freed { // the VF's own is the same by now, and would be taken for it
		errs = append(errs, r.noMAC(ctx))
	}
	var back link.VFSettings
	err := e.Kernel.RestoreVF(ctx, r.pf, v.Number, func(now link.VFSettings) link.VFSettings {
		var kept []string
		back, kept = r.settings(now)
		for _, attr := range kept {
			value, _ := now.Value(attr)
			e.Event("left %s of %s at %s: somebody else has set it", attr, v.name(), value)
		}
		if errors.Join(errs...) != nil { // with the PF's the VF could not have its own any more
			back = back.Only(func(attr string) bool { return attr != link.AttrMAC })
		}
		return back
	})
	if refuses(err, link.AttrMAC) && *back.MAC == NoMAC && v.Baseline.Own != "" {
		// Some drivers refuse the zero MAC that they report where none was given; then the
		// VF's own is the next best.
		e.Event("%s: the driver takes no MAC back, it gets %s", v.name(), v.Baseline.Own)
		back.MAC = &v.Baseline.Own
		err = e.Kernel.RestoreVF(ctx, r.pf, v.Number, func(link.VFSettings) link.VFSettings { return back })
	}
	if text := back.String(); text != "" && err == nil {
		e.Event("%s is back at %s", v.name(), text)
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

// noMAC takes away the MAC that the PF has given.
func (r *restoration) noMAC(ctx context.Context) error {
	none := NoMAC
	return r.e.Kernel.RestoreVF(ctx, r.pf, r.v.Number, func(link.VFSettings) link.VFSettings { return link.VFSettings{MAC: &none} })
}

// netdev puts a VF's network device back. Where libvirt's macvtap has gone from it the
// kernel has given it its MAC again, unless its driver takes none while it is up.
func (r *restoration) netdev(ctx context.Context) error {
	v, e, dev, was := r.v, r.e, r.dev, r.v.Baseline
	r.name(ctx)
	// While it is up: igbvf takes what it has when it goes down for its permanent one.
	if dev.MAC == v.MAC && dev.MAC != was.Own {
		err := setMAC(ctx, e.Kernel, dev.Index, was.Own)
		if errors.Is(err, link.ErrMACFixed) { // its PF gets it back after this
			err = errors.Join(r.noMAC(ctx), setMAC(ctx, e.Kernel, dev.Index, was.Own))
		}
		if err != nil {
			return fmt.Errorf("%s keeps the guest's MAC: %w", dev.Name, err)
		}
	}
	if dev.Up && !was.Up {
		if err := e.Kernel.SetUp(ctx, dev.Index, false); err != nil {
			return err
		}
	}
	if !dev.Up && was.Up {
		return e.Kernel.SetUp(ctx, dev.Index, true)
	}
	return nil
}

// name renames a VF's network device that is a new one, because its driver was
// bound again: without udev it has the first name that was free. One that somebody has
// renamed is let be, and one whose name is another's by now: nothing here goes by it.
func (r *restoration) name(ctx context.Context) {
	v, e, dev, was := r.v, r.e, r.dev, r.v.Baseline
	if was.Netdev == "" || dev.Name == was.Netdev || dev.Index == was.Index {
		return
	}
	if err := e.Kernel.SetName(ctx, dev.Index, was.Netdev); err != nil {
		e.Event("the network device of %s was %s and is now %s: %v", v.name(), was.Netdev, dev.Name, err)
		return
	}
	e.Event("%s is %s again", dev.Name, was.Netdev)
}

// settings returns the settings to put back, and the attributes that somebody else
// has changed.
func (r *restoration) settings(now link.VFSettings) (back link.VFSettings, left []string) {
	v := r.v
	changed := now.Differ(v.Baseline.Settings)
	mine := func(attr string) bool {
		have, said := now.Value(attr)
		if want, set := v.Want.Value(attr); v.Set && set && (!said || want == have) {
			return true
		}
		switch attr { // libvirt's: the guest's MAC, or the VF's own; no VLAN, or the old one without its priority
		case link.AttrMAC:
			return v.MAC == have || v.Baseline.Own == have || v.Freed && have == NoMAC
		case link.AttrVLAN:
			return now.VLAN != nil && r.libvirtVLAN(*now.VLAN)
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

// libvirtVLAN reports whether libvirt has set a VLAN.
func (r *restoration) libvirtVLAN(now link.VFVLAN) bool {
	v := r.v
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

// NoMAC is what a PF shows where it has given no MAC.
const NoMAC = "00:00:00:00:00:00"
