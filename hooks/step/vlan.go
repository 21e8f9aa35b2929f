package step

import (
	"context"
	"errors"
	"fmt"
	"strings"

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

	// What Do notes before it acts. The parent has no index while it is to be made, by
	// another step before this one.
	ParentIndex int  `json:"parent_index,omitempty"`
	Index       int  `json:"index,omitempty"`
	Made        bool `json:"made,omitempty"` // by us, for this domain or another
}

func (*VLAN) Type() string { return "vlan" }

func (v *VLAN) Key() string { return "vlan " + v.Name }

func (v *VLAN) Resource() (name string, shared bool) {
	if v.ParentIndex == 0 { // nothing can be on it, and the claim is renewed with the index
		return fmt.Sprintf("vlan/%s/%d", v.Parent, v.ID), true
	}
	return fmt.Sprintf("vlan/%d/%d", v.ParentIndex, v.ID), true
}

func (*VLAN) Until() Op { return Release }

func (v *VLAN) Does() string {
	return fmt.Sprintf("make or share VLAN sub-interface %s (VLAN %d of %s)", v.Name, v.ID, v.Parent)
}

func (v *VLAN) Holds() string {
	text := fmt.Sprintf("VLAN sub-interface %s (VLAN %d of %s)", v.Name, v.ID, v.Parent)
	if v.Made {
		return text + ", made by us"
	}
	return text + ", not made by us"
}

func (v *VLAN) Undoes() string {
	return fmt.Sprintf("remove %s if we made it and no other guest uses it", v.Name)
}

func (v *VLAN) Ifindex() int { return v.Index }

func (v *VLAN) Check() error {
	if v.ID < 1 || v.ID > 4094 {
		return fmt.Errorf("VLAN %d", v.ID)
	}
	return checkNames(v.Name, v.Parent)
}

func (v *VLAN) Observe(ctx context.Context, k Kernel, o *Observed) error {
	look := o.device
	if v.Made {
		look = o.silent
	}
	return look(ctx, k, v.Index, func(l link.Link, differs differ) {
		differs("name", v.Name, l.Name)
		differs("VLAN", v.ID, l.VLANID)
		differs("up", true, l.Up)
	})
}

// Same compares by device.
func (v *VLAN) Same(k Kind) (is, made bool) {
	o, ok := k.(*VLAN)
	return ok && o.Index == v.Index, ok && o.Made
}

func (v *VLAN) Do(ctx context.Context, e *Env) error {
	parent, err := e.Kernel.ByName(ctx, v.Parent)
	if err != nil {
		return err
	}
	if v.ParentIndex == 0 {
		v.ParentIndex = parent.Index
	}
	if v.ParentIndex != parent.Index {
		return changedMeanwhile(v.Parent)
	}
	if err := e.Lock(ctx, LinkLock(parent.Index)); err != nil {
		return err
	}
	have, err := e.Kernel.ByName(ctx, v.Name)
	if errors.Is(err, link.ErrNotFound) {
		err = v.make(ctx, e, parent)
		if !errors.Is(err, link.ErrExists) {
			return err
		}
		return v.share(ctx, e, parent, err)
	}
	if err != nil {
		return err
	}
	if have.Kind != "vlan" || have.VLANID != v.ID || have.Parent != parent.Index {
		return fmt.Errorf("%w: %s is not VLAN %d of %s", ErrWrongDevice, v.Name, v.ID, v.Parent)
	}
	if err := v.note(e, have); err != nil {
		return err
	}
	return v.have(ctx, e, parent)
}

// note notes a sub-interface that is there.
func (v *VLAN) note(e *Env, have link.Link) error {
	v.Index = have.Index
	v.Made = have.Alias == Alias
	if have.Alias == "" { // whoever made it may have been killed before he marked it
		sharing, err := e.Sharing()
		if err != nil {
			return err
		}
		v.Made = sharing.Made
	}
	return nil
}

// have takes part in a sub-interface that is there.
func (v *VLAN) have(ctx context.Context, e *Env, parent link.Link) error {
	if err := e.Save(journal.Done); err != nil {
		return err
	}
	// Whoever made it may have been killed before it was ready.
	return v.ready(ctx, e, parent)
}

// share takes part in a sub-interface that one of us has made and that has another name
// since: udev renames by a rule for the MAC that it has from its parent, say. Somebody else's
// can be gone, or be another device, when the guest is moved: that one a person names.
func (v *VLAN) share(ctx context.Context, e *Env, parent link.Link, exists error) error {
	all, err := e.Kernel.All(ctx)
	if err != nil {
		return err
	}
	for _, l := range all {
		if l.Kind != "vlan" || l.VLANID != v.ID || l.Parent != parent.Index || l.ParentElsewhere {
			continue
		}
		if err := v.note(e, l); err != nil {
			return err
		}
		if !v.Made && !strings.HasPrefix(l.Alias, Alias) { // the helper's has more behind it
			exists = fmt.Errorf("VLAN %d of %s is there under the name %s: name that as source: %w", v.ID, v.Parent, l.Name, exists)
			break
		}
		if err := v.have(ctx, e, parent); err != nil {
			return err
		}
		return v.answer(ctx, e)
	}
	v.Index, v.Made = 0, false
	return exists
}

// answer has the kernel find the sub-interface by the name in the domain's XML, by which
// libvirt is about to look for it. Who has renamed it could do so again: it keeps both.
func (v *VLAN) answer(ctx context.Context, e *Env) error {
	l, err := e.Kernel.ByIndex(ctx, v.Index)
	if err != nil || l.Called(v.Name) {
		return err
	}
	e.Event("%s has been renamed %s by another program of this host: see libvirt-direct check", v.Name, l.Name)
	return e.Kernel.AddAltName(ctx, l.Index, v.Name)
}

func (v *VLAN) make(ctx context.Context, e *Env, parent link.Link) error {
	var err error
	if v.Index, err = link.FreeIndex(); err != nil {
		return err
	}
	v.Made = true
	if err := e.Save(journal.Intended); err != nil {
		return err
	}
	err = e.Kernel.AddVLAN(ctx, link.VLAN{Name: v.Name, Index: v.Index, Parent: parent.Index, ID: v.ID})
	if errors.Is(err, link.ErrNotSupported) {
		return fmt.Errorf("%w; load the kernel module 8021q", err)
	}
	if err != nil {
		return err
	}
	if err := v.ready(ctx, e, parent); err != nil {
		return err
	}
	if err := v.answer(ctx, e); err != nil {
		return err
	}
	e.Event("made %s", v.Name)
	return e.Save(journal.Done)
}

// ready brings a sub-interface that we made into the state in which guests can
// use it. Its parent must be up for that, and stays so.
func (v *VLAN) ready(ctx context.Context, e *Env, parent link.Link) error {
	if !v.Made {
		return nil
	}
	if err := e.Kernel.SetAlias(ctx, v.Index, Alias); err != nil {
		return err
	}
	if err := e.Kernel.Silence(ctx, v.Index); err != nil {
		return err
	}
	if !parent.Up {
		if err := e.Kernel.SetUp(ctx, parent.Index, true); err != nil {
			return err
		}
	}
	return e.Kernel.SetUp(ctx, v.Index, true)
}

func (v *VLAN) Undo(ctx context.Context, e *Env) error {
	if err := e.Lock(ctx, LinkLock(v.ParentIndex)); err != nil {
		return err
	}
	if !v.Made {
		return nil
	}
	have, err := e.Kernel.ByIndex(ctx, v.Index)
	if errors.Is(err, link.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if have.Kind != "vlan" || have.VLANID != v.ID {
		return nil
	}
	sharing, err := e.Sharing()
	if err != nil {
		return err
	}
	if sharing.Others {
		return v.mark(ctx, e, have)
	}
	if have.Alias != "" && have.Alias != Alias { // somebody, the helper for instance, wants to keep it
		e.Event("left %s: it is %s", have.Name, have.Alias)
		return nil
	}
	// With it the kernel would remove what stands on it in a container, too. What cannot
	// be told is left to gc.
	uses, err := e.Kernel.UppersEverywhere(ctx, have.Name)
	if err != nil {
		return err
	}
	if len(uses) > 0 {
		if err := v.mark(ctx, e, have); err != nil {
			return err
		}
		e.Event("left %s: %s", have.Name, uses[0])
		return nil
	}
	if err := e.Kernel.Delete(ctx, v.Index); err != nil && !errors.Is(err, link.ErrNotFound) {
		return err
	}
	e.Event("removed %s", v.Name)
	return nil
}

// mark marks a sub-interface that we made, and that is left to others, where we were
// killed before that was done: gc is to find it.
func (v *VLAN) mark(ctx context.Context, e *Env, have link.Link) error {
	if have.Alias != "" {
		return nil
	}
	return e.Kernel.SetAlias(ctx, have.Index, Alias)
}
