package step

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

	// Planned is the index of the device for which it was planned, 0 where that is a VLAN
	// still to be made.
	Planned int `json:"-"`
}

func (*AltName) Type() string { return "altname" }

func (n *AltName) Key() string { return "altname " + n.Name }

func (n *AltName) Resource() (name string, shared bool) { return "altname/" + n.Name, true }

func (*AltName) Until() Op { return Release }

func (n *AltName) Does() string { return fmt.Sprintf("let %s also be called %s", n.Device, n.Name) }

func (n *AltName) Holds() string { return fmt.Sprintf("%s, also called %s", n.Device, n.Name) }

func (n *AltName) Undoes() string {
	return fmt.Sprintf("take the name %s from %s when no other guest uses it", n.Name, n.Device)
}

func (n *AltName) Check() error { return checkNames(n.Device, n.Name) }

func (n *AltName) Observe(ctx context.Context, k Kernel, o *Observed) error {
	return o.device(ctx, k, n.Index, func(l link.Link, differs differ) {
		differs("called "+n.Name, true, l.Called(n.Name))
	})
}

// Same compares by device and name.
func (n *AltName) Same(k Kind) (is, made bool) {
	o, ok := k.(*AltName)
	return ok && o.Index == n.Index && o.Name == n.Name, ok && o.Made
}

func (n *AltName) Do(ctx context.Context, e *Env) error {
	dev, err := e.Kernel.ByName(ctx, n.Device)
	if err != nil {
		return err
	}
	if n.Planned != 0 && n.Planned != dev.Index {
		return changedMeanwhile(n.Device)
	}
	n.Index = dev.Index
	if err := e.Lock(ctx, LinkLock(dev.Index)); err != nil {
		return err
	}
	have, err := e.Kernel.ByName(ctx, n.Name)
	if err == nil && have.Index != dev.Index {
		return fmt.Errorf("%w: %s is %s, not %s", ErrWrongDevice, n.Name, have.Name, n.Device)
	}
	if err == nil {
		sharing, err := e.Sharing()
		if err != nil {
			return err
		}
		n.Made = sharing.Made
		return e.Save(journal.Done)
	}
	if !errors.Is(err, link.ErrNotFound) {
		return err
	}
	n.Made = true
	if err := e.Save(journal.Intended); err != nil {
		return err
	}
	if err := e.Kernel.AddAltName(ctx, dev.Index, n.Name); err != nil {
		return err
	}
	e.Event("%s is also called %s", n.Device, n.Name)
	return e.Save(journal.Done)
}

func (n *AltName) Undo(ctx context.Context, e *Env) error {
	if err := e.Lock(ctx, LinkLock(n.Index)); err != nil {
		return err
	}
	if !n.Made {
		return nil
	}
	sharing, err := e.Sharing()
	if err != nil {
		return err
	}
	have, err := e.Kernel.ByName(ctx, n.Name)
	if err != nil && !errors.Is(err, link.ErrNotFound) {
		return err
	}
	if err == nil && !sharing.Others && have.Index == n.Index && have.Name != n.Name {
		if err := e.Kernel.RemoveAltName(ctx, n.Index, n.Name); err != nil {
			return err
		}
		e.Event("took the name %s from %s", n.Name, n.Device)
	}
	return nil
}
