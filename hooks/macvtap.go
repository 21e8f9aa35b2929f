package hooks

import (
	"context"
	"errors"
	"fmt"

	"libvirt-direct/internal/link"
)

func (a *applier) doMacvtap(ctx context.Context, s Step) error {
	m := *s.Macvtap
	s.Macvtap = &m
	lower, err := a.kernel.ByName(ctx, m.Lower)
	if err != nil {
		return err
	}
	alias := Mark + " " + a.journal.UUID
	if err := a.clearLeftover(ctx, m.Name, "macvtap", alias); err != nil {
		return err
	}
	// Another namespace's macvtap can take the node between the choice of the index
	// and its use; then another index does.
	for attempt := 1; ; attempt++ {
		if m.Index, err = link.FreeIndex(); err != nil {
			return err
		}
		done, err := a.intend(s)
		if err != nil {
			return err
		}
		err = a.makeMacvtap(ctx, m, lower, alias)
		if errors.Is(err, link.ErrNodeTaken) && attempt < 3 {
			if err := a.kernel.Delete(ctx, m.Index); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		a.note("made macvtap %s on %s (%s)", m.Name, m.Lower, m.Mode)
		return done()
	}
}

// clearLeftover removes a device of that name if it is this domain's own, left by a
// run whose journal was lost. The domain is not running, or it would not start.
func (a *applier) clearLeftover(ctx context.Context, name, kind, alias string) error {
	have, err := a.kernel.ByName(ctx, name)
	switch {
	case errors.Is(err, link.ErrNotFound):
		return nil
	case err != nil:
		return err
	case have.Kind != kind || have.Alias != alias:
		return fmt.Errorf("%w: %s is there and not ours (kind %q); remove or rename it", ErrWrongDevice, name, have.Kind)
	}
	a.note("removed %s, left by an earlier run", name)
	return a.kernel.Delete(ctx, have.Index)
}

func (a *applier) makeMacvtap(ctx context.Context, m Macvtap, lower link.Link, alias string) error {
	k := a.kernel
	if m.MTU > lower.MTU && lower.MTU > 0 {
		return fmt.Errorf("%w: MTU %d is larger than %d of %s", ErrUnsuitable, m.MTU, lower.MTU, m.Lower)
	}
	err := k.AddMacvtap(ctx, link.Macvtap{
		Name: m.Name, Index: m.Index, Lower: lower.Index, Mode: m.Mode, MAC: m.MAC, MTU: m.MTU, Queues: m.Queues,
	})
	if err != nil {
		if uppers, uerr := k.Uppers(ctx, m.Lower); uerr == nil && len(uppers) > 0 {
			return fmt.Errorf("%w: %w (on %s stands %s already)", ErrNotFree, err, m.Lower, uppers[0])
		}
		return err
	}
	if err := k.SetAlias(ctx, m.Index, alias); err != nil {
		return err
	}
	if err := k.DisableIPv6(ctx, m.Name); err != nil {
		return err
	}
	if m.Mode == "passthrough" { // it was made with the lower device's MAC
		if err := a.guestMAC(ctx, m, lower); err != nil {
			return err
		}
	}
	if m.AllMulti {
		if err := k.SetAllMulticast(ctx, m.Index, true); err != nil {
			return err
		}
	}
	made, err := k.ByIndex(ctx, m.Index)
	if err != nil {
		return err
	}
	if m.Mode == "passthrough" && made.MAC != m.MAC {
		return remedy(ErrNotFree, "%s has been given the MAC %s at this moment, by somebody else", m.Lower, made.MAC)
	}
	if made.MAC != m.MAC || made.Mode != m.Mode {
		return fmt.Errorf("%w: %s came out with MAC %s and mode %s", ErrWrongDevice, m.Name, made.MAC, made.Mode)
	}
	if _, err := k.TapNode(ctx, made); err != nil {
		return err
	}
	if !lower.Up { // as libvirt does for the NICs that it makes
		if err := k.SetUp(ctx, lower.Index, true); err != nil {
			return err
		}
	}
	return k.SetUp(ctx, m.Index, true)
}

func (a *applier) undoMacvtap(ctx context.Context, s Step) error {
	m := s.Macvtap
	have, err := a.kernel.ByIndex(ctx, m.Index)
	if err != nil && !errors.Is(err, link.ErrNotFound) {
		return err
	}
	if err == nil && have.Kind == "macvtap" {
		if err := a.kernel.Delete(ctx, m.Index); err != nil && !errors.Is(err, link.ErrNotFound) {
			return err
		}
		a.note("removed macvtap %s", m.Name)
	}
	return a.drop(s.key())
}

func (a *applier) doAllMulti(ctx context.Context, s Step) error {
	dev, err := a.kernel.ByName(ctx, s.AllMulti.Device)
	if err != nil {
		return err
	}
	if dev.Kind != "macvtap" {
		return fmt.Errorf("%w: %s is no macvtap", ErrWrongDevice, dev.Name)
	}
	a.note("%s receives all multicast", dev.Name)
	return a.kernel.SetAllMulticast(ctx, dev.Index, true)
}
