package step

import (
	"context"
	"errors"
	"time"

	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
)

// giveMAC gives a VF's network device the guest's MAC, before a macvtap in passthrough mode
// is made on it, which has its. A VF may not change one that its PF has given it, unless it
// is trusted; some drivers say so, and others do as if. Then the PF's is taken away.
func (v *VF) giveMAC(ctx context.Context, e *Env, pf link.Link) error {
	dev, there, err := v.netdev(ctx, e.Kernel)
	if err != nil || !there || dev.MAC == v.MAC {
		return err
	}
	fixed := setMAC(ctx, e.Kernel, dev.Index, v.MAC)
	if Ignore(fixed, link.ErrMACFixed) != nil {
		return fixed
	}
	if fixed == nil {
		// When it comes up its driver asks the PF.
		if err := e.Kernel.SetUp(ctx, dev.Index, true); err != nil {
			return err
		}
		taken, err := v.hasMAC(ctx, e.Kernel, pf)
		if taken || err != nil {
			return err
		}
	}
	if err := v.freeMAC(ctx, e, pf); err != nil {
		return errors.Join(fixed, err)
	}
	return setMAC(ctx, e.Kernel, dev.Index, v.MAC)
}

// setMAC sets the MAC of a VF's network device. Some drivers take none while it is up.
func setMAC(ctx context.Context, k Kernel, index int, mac string) error {
	err := k.SetMAC(ctx, index, mac)
	if !errors.Is(err, link.ErrBusy) {
		return err
	}
	if err := k.SetUp(ctx, index, false); err != nil {
		return err
	}
	return errors.Join(k.SetMAC(ctx, index, mac), k.SetUp(ctx, index, true))
}

// macTime is how long a PF that works asynchronously has to show a VF's new MAC.
const macTime = time.Second

// hasMAC reports whether a PF shows the VF with the guest's MAC, or with none.
func (v *VF) hasMAC(ctx context.Context, k Kernel, pf link.Link) (bool, error) {
	for end := time.Now().Add(macTime); ; {
		now, err := k.VF(ctx, pf, v.Number)
		if err != nil || now.MAC == nil || *now.MAC == NoMAC || *now.MAC == v.MAC {
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
func (v *VF) freeMAC(ctx context.Context, e *Env, pf link.Link) error {
	v.Freed = true
	if err := e.Save(journal.Intended); err != nil {
		return err
	}
	none := NoMAC
	if _, err := e.Kernel.SetVF(ctx, pf, v.Number, link.VFSettings{MAC: &none}); err != nil {
		return err
	}
	e.Event("took the MAC away that %s has given VF %d, for the guest's", pf.Name, v.Number)
	return nil
}
