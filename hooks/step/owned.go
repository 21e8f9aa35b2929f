package step

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
)

// What the kinds have in common that make the device of a hook-owned NIC. QEMU holds a
// descriptor of it, so that it is not made again while the guest runs.

// adopt notes the device of a guest that runs already.
func (e *Env) adopt(ctx context.Context, what, name string, index *int) error {
	have, err := e.Kernel.ByName(ctx, name)
	if err != nil {
		return fmt.Errorf("the guest's device is lost, restart the guest: %w", err)
	}
	if e.Acted() {
		return nil
	}
	if whose, ours := strings.CutPrefix(have.Alias, Alias+" "); ours && whose != e.Owner {
		return Hint(ErrInUse, "%s was made for domain %s; stop one of the two", name, whose) // whose end removes it
	}
	*index = have.Index
	e.Event("adopted %s %s", what, name)
	return e.Save(journal.Done)
}

// clearLeftover removes a device of that name if it is this domain's own, left by a
// run whose journal was lost. The domain is not running, or it would not start.
func (e *Env) clearLeftover(ctx context.Context, name, kind string) error {
	have, err := e.Kernel.ByName(ctx, name)
	switch {
	case errors.Is(err, link.ErrNotFound):
		return nil
	case err != nil:
		return err
	case have.Kind != kind || have.Alias != e.own():
		return fmt.Errorf("%w: %s is there and not ours (kind %q); remove or rename it", ErrWrongDevice, name, have.Kind)
	}
	e.Event("removed %s, left by an earlier run", name)
	return e.Kernel.Delete(ctx, have.Index)
}

// remove removes the device, if it is what the journal has of it.
func (e *Env) remove(ctx context.Context, what, name, kind string, index int) error {
	have, err := e.Kernel.ByIndex(ctx, index)
	if errors.Is(err, link.ErrNotFound) || err == nil && have.Kind != kind {
		return nil
	}
	if err == nil {
		err = Ignore(e.Kernel.Delete(ctx, index), link.ErrNotFound)
	}
	if err != nil {
		return err
	}
	e.Event("removed %s %s", what, name)
	return nil
}
