package step

import (
	"context"
	"fmt"

	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
)

// LinkUp takes the device of a hook-owned NIC up, when all else is there, until the guest
// is gone: from then on, and until then, nothing must answer for its MAC here.
type LinkUp struct {
	Device string `json:"device"`

	Index int `json:"index,omitempty"`
}

func (*LinkUp) Type() string { return "link_up" }

func (u *LinkUp) Key() string { return "up " + u.Device }

func (u *LinkUp) Resource() (name string, shared bool) { return "up/" + u.Device, false }

func (*LinkUp) Until() Op { return Stopped }

func (u *LinkUp) Does() string { return fmt.Sprintf("take %s up", u.Device) }

func (u *LinkUp) Holds() string { return u.Device + " is up" }

func (u *LinkUp) Undoes() string { return fmt.Sprintf("take %s down", u.Device) }

func (u *LinkUp) Check() error { return checkNames(u.Device) }

func (u *LinkUp) Observe(ctx context.Context, k Kernel, o *Observed) error {
	return o.device(ctx, k, u.Index, func(l link.Link, differs differ) {
		differs("up", true, l.Up)
	})
}

// Do takes the device up, of a guest that runs as well: it may have been taken down.
func (u *LinkUp) Do(ctx context.Context, e *Env) error {
	dev, err := e.Kernel.ByName(ctx, u.Device)
	if err != nil {
		return err
	}
	if dev.Alias != e.own() {
		return fmt.Errorf("%w: %s", ErrWrongDevice, u.Device)
	}
	u.Index = dev.Index
	if err := e.Save(journal.Intended); err != nil {
		return err
	}
	if err := e.Kernel.SetUp(ctx, u.Index, true); err != nil {
		return err
	}
	return e.Save(journal.Done)
}

// Undo takes it down, if it is still the domain's.
func (u *LinkUp) Undo(ctx context.Context, e *Env) error {
	dev, err := e.Kernel.ByIndex(ctx, u.Index)
	if err != nil || dev.Alias != e.own() {
		return Ignore(err, link.ErrNotFound)
	}
	return Ignore(e.Kernel.SetUp(ctx, u.Index, false), link.ErrNotFound)
}
