package hooks

import (
	"context"
	"errors"
	"fmt"

	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
)

// AltName gives a device one more name, so that libvirt finds the uplink's device by
// the name that the domain uses. It is shared like a VLAN.
type AltName struct {
	Device string `json:"device"`
	Name   string `json:"name"`

	Index int  `json:"index,omitempty"`
	Made  bool `json:"made,omitempty"`
}

func (n *AltName) key() string { return "altname " + n.Name }

func (n *AltName) resource() (name string, shared bool) { return "altname/" + n.Name, true }

func (n *AltName) does() string { return fmt.Sprintf("let %s also be called %s", n.Device, n.Name) }

func (n *AltName) holds() string { return fmt.Sprintf("%s, also called %s", n.Device, n.Name) }

func (n *AltName) undoes() string {
	return fmt.Sprintf("take the name %s from %s when no other guest uses it", n.Name, n.Device)
}

func (n *AltName) check() error { return checkNames(n.Device, n.Name) }

func (n *AltName) compare(ctx context.Context, k Kernel, h *Held) error {
	return h.compareDevice(ctx, k, n.Index, func(l link.Link, differs differ) {
		differs("called "+n.Name, true, l.Called(n.Name))
	})
}

func (n *AltName) same(s Step) (is, made bool) {
	return s.AltName != nil && s.AltName.Index == n.Index && s.AltName.Name == n.Name, s.AltName != nil && s.AltName.Made
}

func (*AltName) do(ctx context.Context, a *applier, s Step) error {
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
		h, err := a.others(&n)
		if err != nil {
			return err
		}
		n.Made = h == heldMade || a.made(&n)
		return a.put(s, journal.Done)
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

func (*AltName) undo(ctx context.Context, a *applier, s Step) error {
	n := s.AltName
	unlock, err := a.lockLink(ctx, n.Index)
	if err != nil {
		return err
	}
	defer unlock()
	if !n.Made {
		return a.drop(s.key())
	}
	h, err := a.others(n)
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
