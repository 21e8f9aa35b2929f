package step

import (
	"context"
	"fmt"
	"strconv"

	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
)

// Tap makes the tap device of a hook-owned NIC, down as a macvtap.
type Tap struct {
	Name   string `json:"name"`
	MTU    int    `json:"mtu,omitempty"`
	Queues int    `json:"queues,omitempty"`

	Index int `json:"index,omitempty"`
}

func (*Tap) Type() string { return "tap" }

func (t *Tap) Key() string { return "tap " + t.Name }

func (t *Tap) Resource() (name string, shared bool) { return "link/" + t.Name, false }

func (*Tap) Until() Op { return Release }

func (t *Tap) Does() string {
	text := "make tap " + t.Name
	if t.MTU > 0 {
		text += ", MTU " + strconv.Itoa(t.MTU)
	}
	if t.Queues > 1 {
		text += fmt.Sprintf(", %d queues", t.Queues)
	}
	return text
}

func (t *Tap) Holds() string { return fmt.Sprintf("tap %s (hook-owned)", t.Name) }

func (t *Tap) Undoes() string { return "remove tap " + t.Name }

func (t *Tap) Ifindex() int { return t.Index }

func (t *Tap) Check() error { return checkNames(t.Name) }

func (t *Tap) Observe(ctx context.Context, k Kernel, o *Observed) error {
	return o.silent(ctx, k, t.Index, func(l link.Link, differs differ) {
		differs("name", t.Name, l.Name)
	})
}

func (t *Tap) Do(ctx context.Context, e *Env) error {
	if e.Op == Reconnect {
		return e.adopt(ctx, "tap", t.Name, &t.Index)
	}
	err := e.clearLeftover(ctx, t.Name, "tun")
	if err != nil {
		return err
	}
	if t.Index, err = link.FreeIndex(); err != nil {
		return err
	}
	if err := e.Save(journal.Intended); err != nil {
		return err
	}
	if err := e.Kernel.AddTap(ctx, link.Tap{Name: t.Name, Index: t.Index, Queues: t.Queues}); err != nil {
		return err
	}
	if err := e.Kernel.SetAlias(ctx, t.Index, e.own()); err != nil {
		return err
	}
	if err := e.Kernel.Silence(ctx, t.Index); err != nil {
		return err
	}
	if t.MTU > 0 {
		if err := e.Kernel.SetMTU(ctx, t.Index, t.MTU); err != nil {
			return err
		}
	}
	e.Event("made tap %s", t.Name)
	return e.Save(journal.Done)
}

func (t *Tap) Undo(ctx context.Context, e *Env) error {
	return e.remove(ctx, "tap", t.Name, "tun", t.Index)
}
