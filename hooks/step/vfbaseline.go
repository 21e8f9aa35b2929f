package step

import (
	"cmp"
	"context"
	"errors"
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
	dev, there, err := v.netdev(ctx, e.Kernel)
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
		after, there, err := v.netdev(ctx, e.Kernel)
		if err != nil {
			return err
		}
		who, err := v.hands(ctx, e, after, there)
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
		v.savedByLibvirt(e, pf.Name)
	}
	return nil
}

// savedByLibvirt takes what libvirt has saved of a VF before it changed it.
func (v *VF) savedByLibvirt(e *Env, pf string) {
	for _, part := range []string{"qemu", "hostdevmgr"} {
		saved, err := ReadSaved(e.Libvirt, SavedFile(part, pf, v.Number))
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

// pay puts a VF back for another guest's life that could not do so itself, or for an
// earlier one of this domain.
func (v *VF) pay(ctx context.Context, e *Env, pf link.Link) error {
	if v.Baseline == nil {
		return nil
	}
	dev, there, err := v.netdev(ctx, e.Kernel)
	if err != nil {
		return err
	}
	if who, err := v.hands(ctx, e, dev, there); err != nil || who != "" {
		return errors.Join(err, Hint(ErrInUse, "%s: %s", v.name(), who))
	}
	return v.putBack(ctx, e, pf, dev, there)
}

// paySettings does that for a VF that the guest has already: its MAC and its VLAN are
// libvirt's by now, and the rest is not to be left as another guest had it.
func (v *VF) paySettings(ctx context.Context, e *Env, pf link.Link) error {
	if v.Baseline == nil {
		return nil
	}
	return e.Kernel.RestoreVF(ctx, pf, v.Number, func(now link.VFSettings) link.VFSettings {
		back, _ := v.toPutBack(now)
		return back.Only(func(attr string) bool { return attr != link.AttrMAC && attr != link.AttrVLAN })
	})
}

// putBack gives a VF and its network device their baseline.
func (v *VF) putBack(ctx context.Context, e *Env, pf, dev link.Link, there bool) error {
	var errs []error
	// First, since a VF's driver announces its own MAC when it goes down.
	if there && v.Baseline.Own != "" {
		errs = append(errs, v.putBackNetdev(ctx, e, dev))
	}
	if v.Freed { // the VF's own is the same by now, and would be taken for it
		none := NoMAC
		errs = append(errs, e.Kernel.RestoreVF(ctx, pf, v.Number, func(link.VFSettings) link.VFSettings { return link.VFSettings{MAC: &none} }))
	}
	var back link.VFSettings
	err := e.Kernel.RestoreVF(ctx, pf, v.Number, func(now link.VFSettings) link.VFSettings {
		var kept []string
		back, kept = v.toPutBack(now)
		for _, attr := range kept {
			value, _ := now.Value(attr)
			e.Event("left %s of %s at %s: somebody else has set it", attr, v.name(), value)
		}
		return back
	})
	if refuses(err, link.AttrMAC) && *back.MAC == NoMAC && v.Baseline.Own != "" {
		// Some drivers refuse the zero MAC that they report where none was given; then the
		// VF's own is the next best.
		e.Event("%s: the driver takes no MAC back, it gets %s", v.name(), v.Baseline.Own)
		back.MAC = &v.Baseline.Own
		err = e.Kernel.RestoreVF(ctx, pf, v.Number, func(link.VFSettings) link.VFSettings { return back })
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

// putBackNetdev puts a VF's network device back. Where a macvtap has gone from it the
// kernel has given it its MAC again, unless its driver takes none while it is up.
func (v *VF) putBackNetdev(ctx context.Context, e *Env, dev link.Link) error {
	was := v.Baseline
	v.putBackName(ctx, e, dev)
	if dev.Up && !was.Up {
		if err := e.Kernel.SetUp(ctx, dev.Index, false); err != nil {
			return err
		}
	}
	if dev.MAC == v.MAC && dev.MAC != was.Own {
		if err := setMAC(ctx, e.Kernel, dev.Index, was.Own); err != nil {
			e.Event("%s keeps the guest's MAC: %v", dev.Name, err)
		}
	}
	if !dev.Up && was.Up {
		return e.Kernel.SetUp(ctx, dev.Index, true)
	}
	return nil
}

// putBackName renames a VF's network device that is a new one, because its driver was
// bound again: without udev it has the first name that was free. One that somebody has
// renamed is let be, and one whose name is another's by now: nothing here goes by it.
func (v *VF) putBackName(ctx context.Context, e *Env, dev link.Link) {
	was := v.Baseline
	if was.Netdev == "" || dev.Name == was.Netdev || dev.Index == was.Index {
		return
	}
	if err := e.Kernel.SetName(ctx, dev.Index, was.Netdev); err != nil {
		e.Event("the network device of %s was %s and is now %s: %v", v.name(), was.Netdev, dev.Name, err)
		return
	}
	e.Event("%s is %s again", dev.Name, was.Netdev)
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
			return v.MAC == have || v.Baseline.Own == have || v.Freed && have == NoMAC
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

const NoMAC = "00:00:00:00:00:00"
