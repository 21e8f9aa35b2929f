package hooks

import (
	"context"
	"errors"
	"fmt"

	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
)

// VLAN makes a VLAN sub-interface, or shares the one that is there. It is held as
// long as any domain's journal names it, and removed with the last one if we made
// it.
type VLAN struct {
	Name   string `json:"name"`
	Parent string `json:"parent"`
	ID     int    `json:"id"`

	// What Apply notes before it acts.
	ParentIndex int  `json:"parent_index,omitempty"`
	Index       int  `json:"index,omitempty"`
	Made        bool `json:"made,omitempty"` // by us, for this domain or another
}

func (v *VLAN) key() string { return "vlan " + v.Name }

func (v *VLAN) resource() (name string, shared bool) {
	return fmt.Sprintf("vlan/%d/%d", v.ParentIndex, v.ID), true
}

func (v *VLAN) does() string {
	return fmt.Sprintf("make or share VLAN sub-interface %s (VLAN %d of %s)", v.Name, v.ID, v.Parent)
}

func (v *VLAN) holds() string {
	text := fmt.Sprintf("VLAN sub-interface %s (VLAN %d of %s)", v.Name, v.ID, v.Parent)
	if v.Made {
		return text + ", made by us"
	}
	return text + ", not made by us"
}

func (v *VLAN) undoes() string {
	return fmt.Sprintf("remove %s if we made it and no other guest uses it", v.Name)
}

func (v *VLAN) index() int { return v.Index }

func (v *VLAN) check() error {
	if v.ID < 1 || v.ID > 4094 {
		return fmt.Errorf("VLAN %d", v.ID)
	}
	return checkNames(v.Name, v.Parent)
}

func (v *VLAN) compare(ctx context.Context, k Kernel, h *Held) error {
	return h.compareDevice(ctx, k, v.Index, func(l link.Link, differs differ) {
		differs("name", v.Name, l.Name)
		differs("VLAN", v.ID, l.VLANID)
		differs("up", true, l.Up)
	})
}

func (v *VLAN) same(s Step) (is, made bool) {
	return s.VLAN != nil && s.VLAN.Index == v.Index, s.VLAN != nil && s.VLAN.Made
}

func (*VLAN) do(ctx context.Context, a *applier, s Step) error {
	v := *s.VLAN
	s.VLAN = &v
	parent, err := a.kernel.ByName(ctx, v.Parent)
	if err != nil {
		return err
	}
	if v.ParentIndex != parent.Index {
		return fmt.Errorf("%w: %s has changed since this moment; try again", ErrWrongDevice, v.Parent)
	}
	unlock, err := a.lockLink(ctx, parent.Index)
	if err != nil {
		return err
	}
	defer unlock()
	have, err := a.kernel.ByName(ctx, v.Name)
	switch {
	case errors.Is(err, link.ErrNotFound):
		return a.makeVLAN(ctx, s, parent)
	case err != nil:
		return err
	case have.Kind != "vlan" || have.VLANID != v.ID || have.Parent != parent.Index:
		return fmt.Errorf("%w: %s is not VLAN %d of %s", ErrWrongDevice, v.Name, v.ID, v.Parent)
	}
	v.Index = have.Index
	v.Made = have.Alias == Mark
	if have.Alias == "" { // whoever made it may have been killed before he marked it
		h, err := a.others(&v)
		if err != nil {
			return err
		}
		v.Made = h == heldMade || a.made(&v)
	}
	if err := a.put(s, journal.Done); err != nil {
		return err
	}
	// Whoever made it may have been killed before it was ready.
	return a.readyVLAN(ctx, v, parent)
}

func (a *applier) makeVLAN(ctx context.Context, s Step, parent link.Link) error {
	v := s.VLAN
	var err error
	if v.Index, err = link.FreeIndex(); err != nil {
		return err
	}
	v.Made = true
	done, err := a.intend(s)
	if err != nil {
		return err
	}
	err = a.kernel.AddVLAN(ctx, link.VLAN{Name: v.Name, Index: v.Index, Parent: parent.Index, ID: v.ID})
	switch {
	case errors.Is(err, link.ErrExists):
		return fmt.Errorf("VLAN %d of %s is there under another name (ip -d link show type vlan): name that as source: %w", v.ID, v.Parent, err)
	case errors.Is(err, link.ErrNotSupported):
		return fmt.Errorf("%w; load the kernel module 8021q", err)
	case err != nil:
		return err
	}
	if err := a.readyVLAN(ctx, *v, parent); err != nil {
		return err
	}
	a.note("made %s", v.Name)
	return done()
}

// readyVLAN brings a sub-interface that we made into the state in which guests can
// use it. Its parent must be up for that, and stays so.
func (a *applier) readyVLAN(ctx context.Context, v VLAN, parent link.Link) error {
	if !v.Made {
		return nil
	}
	if err := a.kernel.SetAlias(ctx, v.Index, Mark); err != nil {
		return err
	}
	if err := a.kernel.DisableIPv6(ctx, v.Name); err != nil {
		return err
	}
	if !parent.Up {
		if err := a.kernel.SetUp(ctx, parent.Index, true); err != nil {
			return err
		}
	}
	return a.kernel.SetUp(ctx, v.Index, true)
}

func (*VLAN) undo(ctx context.Context, a *applier, s Step) error {
	v := s.VLAN
	unlock, err := a.lockLink(ctx, v.ParentIndex)
	if err != nil {
		return err
	}
	defer unlock()
	if !v.Made {
		return a.drop(s.key())
	}
	have, err := a.kernel.ByIndex(ctx, v.Index)
	if errors.Is(err, link.ErrNotFound) {
		return a.drop(s.key())
	}
	if err != nil {
		return err
	}
	if have.Kind != "vlan" || have.VLANID != v.ID {
		return a.drop(s.key())
	}
	h, err := a.others(v)
	if err != nil {
		return err
	}
	if h != unheld {
		if err := a.markVLAN(ctx, have); err != nil {
			return err
		}
		return a.drop(s.key())
	}
	if have.Alias != "" && have.Alias != Mark { // somebody, the helper for instance, wants to keep it
		a.note("left %s: it is %s", have.Name, have.Alias)
		return a.drop(s.key())
	}
	// With it the kernel would remove what stands on it in a container, too. What cannot
	// be told is left to gc.
	uses, err := a.kernel.UppersEverywhere(ctx, have.Name)
	if err != nil {
		return err
	}
	if len(uses) > 0 {
		if err := a.markVLAN(ctx, have); err != nil {
			return err
		}
		a.note("left %s: %s", have.Name, uses[0])
		return a.drop(s.key())
	}
	if err := a.kernel.Delete(ctx, v.Index); err != nil && !errors.Is(err, link.ErrNotFound) {
		return err
	}
	a.note("removed %s", v.Name)
	return a.drop(s.key())
}

// markVLAN marks a sub-interface that we made, and that is left to others, where we were
// killed before that was done: gc is to find it.
func (a *applier) markVLAN(ctx context.Context, have link.Link) error {
	if have.Alias != "" {
		return nil
	}
	return a.kernel.SetAlias(ctx, have.Index, Mark)
}
