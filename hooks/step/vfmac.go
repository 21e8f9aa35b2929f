package step

import (
	"context"
	"errors"
	"time"

	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/poll"
)

// giveMAC gives a VF's network device the guest's MAC, before a macvtap in passthrough mode
// is made on it, which has its. A VF may not change one that its PF has given it, unless it
// is trusted; some drivers say so, and others do as if. Then the PF's is taken away.
func giveMAC(ctx context.Context, e *Env, v *VF, pf link.Link) error {
	dev, there, err := netdevOf(ctx, e.Kernel, v.VFPlace)
	if err != nil || !there {
		return err
	}
	if dev.MAC == v.MAC {
		now, err := e.Kernel.VF(ctx, pf, v.Number)
		if err != nil || now.MAC == nil || *now.MAC == v.MAC {
			return err
		}
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
		taken, err := hasMAC(ctx, e.Kernel, v, pf)
		if taken || err != nil {
			return err
		}
	}
	if err := freeMAC(ctx, e, v, pf); err != nil {
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
func hasMAC(ctx context.Context, k Kernel, v *VF, pf link.Link) (bool, error) {
	wait, cancel := context.WithTimeout(ctx, macTime)
	defer cancel()
	err := poll.Until(wait, macTime/10, func() (bool, error) {
		now, err := k.VF(ctx, pf, v.Number)
		return now.MAC == nil || *now.MAC == NoMAC || *now.MAC == v.MAC, err
	})
	if ctx.Err() == nil && errors.Is(err, poll.ErrGaveUp) {
		return false, nil
	}
	return err == nil, err
}

// freeMAC takes the MAC away that a PF has given a VF. That is noted before, for the
// driver does not tell a MAC that is given from one that the VF has chosen.
func freeMAC(ctx context.Context, e *Env, v *VF, pf link.Link) error {
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
