package step

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
)

// FDB enters the guest's MAC in the forwarding table of a physical function that its bridge
// stands on. A card with virtual functions delivers what they send by that table, and sends
// what it does not know out of its port: they reach a guest behind the bridge by it alone.
// The entry is shared by guests with one MAC, and removed with the last one if we made it.
type FDB struct {
	PF    string `json:"pf"`
	Index int    `json:"index"`
	MAC   string `json:"mac"`

	// Made is noted before it acts: by us, for this domain or another.
	Made bool `json:"made,omitempty"`
}

func (*FDB) Type() string { return "fdb" }

func (f *FDB) Key() string { return fmt.Sprintf("fdb %d %s", f.Index, f.MAC) }

func (f *FDB) Resource() (name string, shared bool) {
	return fmt.Sprintf("fdb/%d/%s", f.Index, f.MAC), true
}

// Until is the moment when the guest is gone: virtual functions are to find it elsewhere.
func (*FDB) Until() Op { return Stopped }

// Revocable: a bridge can be given another card.
func (*FDB) Revocable() {}

func (f *FDB) Does() string {
	return fmt.Sprintf("enter %s in the forwarding table of %s, for its virtual functions", f.MAC, f.PF)
}

func (f *FDB) Holds() string { return fmt.Sprintf("%s in the forwarding table of %s", f.MAC, f.PF) }

func (f *FDB) Undoes() string {
	return fmt.Sprintf("take %s out of the forwarding table of %s if we entered it and no other guest has it", f.MAC, f.PF)
}

func (f *FDB) Check() error { return checkNames(f.PF) }

// Same compares by card and MAC.
func (f *FDB) Same(k Kind) (is, made bool) {
	o, ok := k.(*FDB)
	return ok && o.Index == f.Index && o.MAC == f.MAC, ok && o.Made
}

func (f *FDB) Observe(ctx context.Context, k Kernel, o *Observed) error {
	pf, err := k.ByIndex(ctx, f.Index)
	if errors.Is(err, link.ErrNotFound) {
		o.Difference = "gone"
		return nil
	}
	if err != nil {
		return err
	}
	o.Device = &pf
	entries, err := k.SelfEntries(ctx, f.Index)
	if err == nil && !slices.Contains(entries, f.MAC) {
		o.Difference = "it is not there"
	}
	return err
}

// Do enters the MAC, of a guest that runs as well: somebody may have taken it out, or the
// card's driver was loaded anew.
func (f *FDB) Do(ctx context.Context, e *Env) error {
	pf, err := e.Kernel.ByName(ctx, f.PF)
	if err != nil {
		return err
	}
	if pf.Index != f.Index {
		return changedMeanwhile(f.PF)
	}
	if err := e.Lock(ctx, LinkLock(pf.Index)); err != nil {
		return err
	}
	sharing, err := e.Sharing()
	if err != nil {
		return err
	}
	entries, err := e.Kernel.SelfEntries(ctx, pf.Index)
	if err != nil {
		return err
	}
	if f.MAC == pf.MAC || slices.Contains(entries, f.MAC) {
		f.Made = sharing.Made
		return e.Save(journal.Done)
	}
	f.Made = true
	if err := e.Save(journal.Intended); err != nil {
		return err
	}
	err = e.Kernel.AddSelfEntry(ctx, pf.Index, f.MAC)
	switch {
	case errors.Is(err, link.ErrExists): // entered at this moment, by somebody else
		f.Made = sharing.Made
	case errors.Is(err, link.ErrTableFull):
		return fmt.Errorf("%s: %w; guests on its virtual functions would not reach this one: leave fdb out, or use another card", f.PF, err)
	case err != nil:
		return err
	default:
		e.Event("entered %s in the forwarding table of %s", f.MAC, f.PF)
	}
	return e.Save(journal.Done)
}

// Undo takes out what we entered, if no other guest has it.
func (f *FDB) Undo(ctx context.Context, e *Env) error {
	if err := e.Lock(ctx, LinkLock(f.Index)); err != nil {
		return err
	}
	sharing, err := e.Sharing()
	if err != nil || !f.Made || sharing.Others {
		return err
	}
	if pf, err := e.Kernel.ByName(ctx, f.PF); err == nil && pf.Index != f.Index {
		return nil // its driver was loaded anew, and has forgotten it
	}
	err = e.Kernel.RemoveSelfEntry(ctx, f.Index, f.MAC)
	if errors.Is(err, link.ErrNotFound) {
		return nil
	}
	if err == nil {
		e.Event("took %s out of the forwarding table of %s", f.MAC, f.PF)
	}
	return err
}
