package hooks

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"libvirt-direct/internal/link"
)

// Tap makes the tap device of a hook-owned NIC.
type Tap struct {
	Name   string `json:"name"`
	MTU    int    `json:"mtu,omitempty"`
	Queues int    `json:"queues,omitempty"`

	Index int `json:"index,omitempty"`
}

func (t *Tap) key() string { return "tap " + t.Name }

func (t *Tap) resource() (name string, shared bool) { return "link/" + t.Name, false }

func (t *Tap) does() string {
	text := "make tap " + t.Name
	if t.MTU > 0 {
		text += ", MTU " + strconv.Itoa(t.MTU)
	}
	if t.Queues > 1 {
		text += fmt.Sprintf(", %d queues", t.Queues)
	}
	return text
}

func (t *Tap) holds() string { return fmt.Sprintf("tap %s (hook-owned)", t.Name) }

func (t *Tap) undoes() string { return "remove tap " + t.Name }

func (t *Tap) index() int { return t.Index }

func (t *Tap) device() (what, name string) { return "tap", t.Name }

func (t *Tap) found(s Step, index int) Step {
	there := *t
	there.Index, s.Tap = index, &there
	return s
}

func (t *Tap) quiet(ctx context.Context, a *applier, _ Step) error { return a.downNow(ctx, t.Index) }

func (t *Tap) quiets() (text string, last bool) { return "take " + t.Name + " down", false }

func (t *Tap) check() error { return checkNames(t.Name) }

func (t *Tap) compare(ctx context.Context, k Kernel, h *Held) error {
	return h.compareDevice(ctx, k, t.Index, func(l link.Link, differs differ) {
		differs("name", t.Name, l.Name)
		differs("up", true, l.Up)
	})
}

func (*Tap) do(ctx context.Context, a *applier, s Step) error {
	t := *s.Tap
	s.Tap = &t
	alias := Mark + " " + a.journal.UUID
	if err := a.clearLeftover(ctx, t.Name, "tun", alias); err != nil {
		return err
	}
	var err error
	if t.Index, err = link.FreeIndex(); err != nil {
		return err
	}
	done, err := a.intend(s)
	if err != nil {
		return err
	}
	if err := a.kernel.AddTap(ctx, link.Tap{Name: t.Name, Index: t.Index, Queues: t.Queues}); err != nil {
		return err
	}
	if err := a.kernel.SetAlias(ctx, t.Index, alias); err != nil {
		return err
	}
	if err := a.kernel.DisableIPv6(ctx, t.Name); err != nil {
		return err
	}
	if t.MTU > 0 {
		if err := a.kernel.SetMTU(ctx, t.Index, t.MTU); err != nil {
			return err
		}
	}
	if err := a.kernel.SetUp(ctx, t.Index, true); err != nil {
		return err
	}
	a.note("made tap %s", t.Name)
	return done()
}

func (*Tap) undo(ctx context.Context, a *applier, s Step) error {
	have, err := a.kernel.ByIndex(ctx, s.Tap.Index)
	if err != nil && !errors.Is(err, link.ErrNotFound) {
		return err
	}
	if err == nil && have.Kind == "tun" {
		if err := a.kernel.Delete(ctx, s.Tap.Index); err != nil && !errors.Is(err, link.ErrNotFound) {
			return err
		}
		a.note("removed tap %s", s.Tap.Name)
	}
	return a.drop(s.key())
}
