package hooks

import (
	"context"
	"errors"
	"fmt"

	"libvirt-direct/internal/link"
	"libvirt-direct/internal/state"
)

func (n *AltName) resource() string {
	r, _ := Step{AltName: n}.resource()
	return r
}

func (n *AltName) same(s Step) (is, made bool) {
	return s.AltName != nil && s.AltName.Index == n.Index && s.AltName.Name == n.Name, s.AltName != nil && s.AltName.Made
}

func (a *applier) doAltName(ctx context.Context, s Step) error {
	n := *s.AltName
	s.AltName = &n
	dev, err := a.kernel.ByName(ctx, n.Device)
	if err != nil {
		return err
	}
	n.Index = dev.Index
	unlock, err := a.lockLink(ctx, dev.Index)
	if err != nil {
		return err
	}
	defer unlock()
	have, err := a.kernel.ByName(ctx, n.Name)
	if err == nil && have.Index != dev.Index {
		return fmt.Errorf("%w: %s is %s, not %s", ErrWrongDevice, n.Name, have.Name, n.Device)
	}
	if err == nil {
		h, err := a.others(n.resource(), n.same)
		if err != nil {
			return err
		}
		n.Made = h == heldMade || a.made(s.key(), n.same)
		return a.put(s, state.Done)
	}
	if !errors.Is(err, link.ErrNotFound) {
		return err
	}
	n.Made = true
	done, err := a.intend(s)
	if err != nil {
		return err
	}
	if err := a.kernel.AddAltName(ctx, dev.Index, n.Name); err != nil {
		return err
	}
	a.note("%s is also called %s", n.Device, n.Name)
	return done()
}

func (a *applier) undoAltName(ctx context.Context, s Step) error {
	n := s.AltName
	unlock, err := a.lockLink(ctx, n.Index)
	if err != nil {
		return err
	}
	defer unlock()
	if !n.Made {
		return a.drop(s.key())
	}
	h, err := a.others(n.resource(), n.same)
	if err != nil {
		return err
	}
	have, err := a.kernel.ByName(ctx, n.Name)
	if err != nil && !errors.Is(err, link.ErrNotFound) {
		return err
	}
	if err == nil && h == unheld && have.Index == n.Index && have.Name != n.Name {
		if err := a.kernel.RemoveAltName(ctx, n.Index, n.Name); err != nil {
			return err
		}
		a.note("took the name %s from %s", n.Name, n.Device)
	}
	return a.drop(s.key())
}
