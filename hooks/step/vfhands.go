package step

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"libvirt-direct/internal/link"
)

// hands says in whose hands a virtual function is that a domain gives back: nobody's, or
// what stands on it or has taken its network device away. The guest's own macvtap, which
// can be there still, has its MAC.
func hands(ctx context.Context, e *Env, v *VF, dev link.Link, there bool) (string, error) {
	if !there {
		if v.Hostdev {
			return hostdevHands(ctx, e.Kernel, v)
		}
		return "its network device is gone from here", nil
	}
	uppers, err := e.Kernel.Uppers(ctx, dev.Name)
	if err != nil {
		return "", Ignore(err, link.ErrNotFound)
	}
	for _, u := range uppers {
		l, err := e.Kernel.ByName(ctx, u)
		if errors.Is(err, link.ErrNotFound) { // it has gone since it was listed
			continue
		}
		if err == nil && l.Alias == e.own() { // it could not be removed, and holds the MAC
			return "", fmt.Errorf("%s: %s stands on it still", v.name(), u)
		}
		if err == nil && l.Kind == "macvtap" && l.MAC == v.MAC {
			continue
		}
		return u + " stands on " + dev.Name, err
	}
	return "", nil
}

// hostdevHands is hands for a VF without a network device: the MAC tells.
func hostdevHands(ctx context.Context, k Kernel, v *VF) (string, error) {
	if v.Baseline == nil {
		return "", nil
	}
	pf, err := k.PF(ctx, v.VFPlace)
	if err != nil {
		return "", err
	}
	now, err := k.VF(ctx, pf, v.Number)
	if err != nil || now.MAC == nil {
		return "", err
	}
	known := []string{v.MAC, v.Baseline.Own, NoMAC}
	if was := v.Baseline.Settings.MAC; was != nil {
		known = append(known, *was)
	}
	if slices.Contains(known, *now.MAC) {
		return "", nil
	}
	return "it has the MAC " + *now.MAC, nil
}

// netdevOf returns a VF's network device, whatever it is called now; there is false where
// it has none here. A VF that is no more is an error matching link.ErrNotFound.
func netdevOf(ctx context.Context, k Kernel, p link.VFPlace) (dev link.Link, there bool, err error) {
	use, err := k.VFUseAt(ctx, p)
	if err != nil || use.Netdev == "" {
		return link.Link{}, false, err
	}
	dev, err = k.ByName(ctx, use.Netdev)
	return dev, err == nil, Ignore(err, link.ErrNotFound)
}

// NetdevOfVF is the network device of a PF's virtual function, "" where there is none.
func NetdevOfVF(ctx context.Context, k Kernel, pf string, number int) (string, error) {
	uses, err := k.VFUses(ctx, pf)
	if err != nil {
		return "", Ignore(err, link.ErrNotFound)
	}
	for _, use := range uses {
		if use.Number == number {
			return use.Netdev, nil
		}
	}
	return "", nil
}

// Settle does for a VF what libvirt could not: its file had been hidden from the end of
// another, whose release has not come yet.
func (v *VF) Settle(ctx context.Context, e *Env) error {
	dev, there, err := netdevOf(ctx, e.Kernel, v.VFPlace)
	if err != nil || !there || dev.MAC != v.MAC { // put back, as nearly always
		return Ignore(err, link.ErrNotFound)
	}
	return e.SettleSaved(ctx, v.PFName, v.Number, dev)
}
