package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"libvirt-direct/internal/journal"
)

// Mark is the alias (ip link … alias) of the devices that we make, so that people
// see whose they are and gc finds them when the journal is lost. A hook-owned NIC's
// device has the domain's UUID behind it.
const Mark = "libvirt-direct"

// undoTime bounds undoing, which must still happen when an operation's own deadline
// has passed.
const undoTime = 5 * time.Second

// applier runs steps for one domain and keeps its journal. The domain's lock is held.
type applier struct {
	kernel  Kernel
	dir     *journal.Dir
	journal *journal.Journal
	steps   []Step // the journal's entries, decoded
	op      Op     // the operation whose plan is applied; "" while only undoing
	libvirt LibvirtState
	notes   []string
	claimed []string // keys of what claim has claimed

	// openStation connects to the 802.1Qbg station, when a step first needs it.
	openStation func(context.Context) (Station, error)
	station     Station
	// openSwitch names the host's Open vSwitch, when a step first needs it.
	openSwitch func() Switch
	ovs        Switch
}

// load reads a domain's journal; one that cannot be trusted is set aside, and the
// error says where it lies then.
func load(dir *journal.Dir, uuid, name string) (*applier, error) {
	a, err := look(dir, uuid, name)
	if errors.Is(err, journal.ErrCorrupt) {
		aside, asideErr := dir.SetAside(uuid)
		if asideErr != nil {
			return nil, errors.Join(err, asideErr)
		}
		return nil, fmt.Errorf("%w; nothing of it was done, it is now %s; look at `libvirt-direct gc --dry-run`", err, aside)
	}
	return a, err
}

// look is load without setting anything aside.
func look(dir *journal.Dir, uuid, name string) (*applier, error) {
	a := &applier{dir: dir}
	var err error
	if a.journal, a.steps, err = readSteps(dir, uuid); err != nil {
		return nil, err
	}
	if a.journal == nil {
		a.journal = dir.New(uuid, name)
	}
	return a, nil
}

func (a *applier) note(format string, args ...any) {
	a.notes = append(a.notes, fmt.Sprintf(format, args...))
}

// index is where the journal has the entry of a key, -1 where it has none.
func (a *applier) index(key string) int {
	return slices.IndexFunc(a.steps, func(s Step) bool { return s.key() == key })
}

// acted reports whether the journal has more of a key than its claim.
func (a *applier) acted(key string) bool {
	i := a.index(key)
	return i >= 0 && a.journal.Entries[i].Phase != journal.Planned
}

// made reports whether the domain itself has made something shared that is found there: at
// reconnect, or in a life that could not be undone.
func (a *applier) made(thing sharedKind) bool {
	if !a.acted(thing.key()) {
		return false
	}
	same, made := thing.same(a.steps[a.index(thing.key())])
	return same && made
}

// intend writes a step to the journal before it acts; the returned function marks it
// done.
func (a *applier) intend(s Step) (done func() error, err error) {
	if err := a.put(s, journal.Intended); err != nil {
		return nil, err
	}
	return func() error { return a.put(s, journal.Done) }, nil
}

// put writes how far a step has come that is claimed.
func (a *applier) put(s Step, phase journal.Phase) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	i := a.index(s.key())
	if i < 0 {
		return fmt.Errorf("%s is not claimed", s.key()) // a mistake of ours: nothing acts without a claim
	}
	e := &a.journal.Entries[i]
	e.Phase, e.Step, e.Error, e.Expires = phase, data, "", 0
	a.steps[i] = s
	return a.dir.Save(a.journal)
}

// rewrite saves the journal if there is one.
func (a *applier) rewrite() error {
	if len(a.journal.Entries) == 0 {
		return nil
	}
	return a.dir.Save(a.journal)
}

// forget takes an entry out of the journal, without writing it.
func (a *applier) forget(key string) {
	if i := a.index(key); i >= 0 {
		a.steps = slices.Delete(a.steps, i, i+1)
		a.journal.Entries = slices.Delete(a.journal.Entries, i, i+1)
	}
}

// drop takes a step out of the journal.
func (a *applier) drop(key string) error {
	a.forget(key)
	return a.dir.Save(a.journal)
}

// apply runs steps in order, all of them claimed. When one fails, what this call has
// claimed is undone, last first, and the failing step's error is returned.
func (a *applier) apply(ctx context.Context, domain string, steps []Step) error {
	for _, s := range steps {
		if err := s.kind().do(ctx, a, s); err != nil {
			undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
			defer cancel()
			err = &NICError{Domain: domain, NIC: "NIC " + s.NIC, Err: err}
			return errors.Join(err, a.undoAll(undo, func(key string, _ Step) bool { return slices.Contains(a.claimed, key) }))
		}
	}
	return nil
}

// undoAll undoes entries of the journal, last first. What cannot be undone stays in the
// journal with the reason, and the others are undone all the same.
func (a *applier) undoAll(ctx context.Context, which func(key string, s Step) bool) error {
	var errs []error
	for _, s := range slices.Backward(slices.Clone(a.steps)) {
		if which(s.key(), s) {
			errs = append(errs, a.undo(ctx, s.key()))
		}
	}
	return errors.Join(errs...)
}

// everything is for undoAll.
func everything(string, Step) bool { return true }

// undo undoes one entry, if it is still the domain's to undo.
func (a *applier) undo(ctx context.Context, key string) error {
	i := a.index(key)
	if i < 0 {
		return nil
	}
	e, s := a.journal.Entries[i], a.steps[i]
	var err error
	if k, ok := s.kind().(settlingKind); ok {
		err = k.settle(ctx, a)
	}
	switch {
	case err != nil:
	case e.Phase == journal.Planned: // nothing was done
		return a.drop(key)
	default:
		err = a.undoClaim(ctx, e, s)
	}
	if i = a.index(key); err != nil && i >= 0 {
		a.journal.Entries[i].Error = OneLine(err)
		if errors.Is(err, errLater) {
			a.note("%v", err)
			err = nil
		}
		return errors.Join(err, a.dir.Save(a.journal))
	}
	return err
}

func (a *applier) undoClaim(ctx context.Context, e journal.Entry, s Step) error {
	if !e.Shared {
		unlock, err := a.dir.Lock(ctx, e.Resource)
		if err != nil {
			return err
		}
		defer unlock()
		beaten, err := a.beaten(e)
		if err != nil {
			return err
		}
		if beaten {
			a.note("left %s alone: it is another guest's now", s.subject())
			return a.drop(s.key())
		}
	}
	return s.kind().undo(ctx, a, s)
}

// lockLink takes the lock of a lower device, under which what stands on it is shared
// out between domains.
func (a *applier) lockLink(ctx context.Context, index int) (func(), error) {
	return a.dir.Lock(ctx, linkLock(index))
}

func linkLock(index int) string { return "link-" + strconv.Itoa(index) }

// quiet ends what must not answer for the guest any more, which is gone.
func (a *applier) quiet(ctx context.Context) error {
	var errs []error
	for _, s := range slices.Backward(slices.Clone(a.steps)) {
		if k, ok := s.kind().(quietKind); ok && a.acted(s.key()) {
			errs = append(errs, k.quiet(ctx, a, s))
		}
	}
	return errors.Join(errs...)
}
