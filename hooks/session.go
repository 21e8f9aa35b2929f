package hooks

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"libvirt-direct/hooks/plan"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
	"libvirt-direct/xmlfilter"
)

// This file is the one place that knows in which order steps are claimed, done and undone,
// and what is left when a process is killed between. It knows no kind of step.

// undoTime bounds undoing, which must still happen when an operation's own deadline
// has passed.
const undoTime = 5 * time.Second

// finishTime bounds how long a start waits for what an earlier life has left.
const finishTime = 2 * time.Second

// claimsLock is held from the look at who has what to the writing of a claim. It is the
// last of the locks: the domain's, one resource's, this.
const claimsLock = "claims"

// reservationTime is how long what migrate or restore has chosen is kept for the start
// that follows at once, if it follows.
const reservationTime = 2 * time.Minute

// session does steps for one domain and keeps its journal. The domain's lock is held.
type session struct {
	host    step.Host
	dir     *journal.Dir
	journal *journal.Journal
	steps   []step.Step // the journal's entries, decoded
	op      step.Op     // the operation whose plan is applied; "" while only undoing
	libvirt LibvirtState
	events  []string
	claimed []string // keys of what claim has claimed
	ends    []func() // of connections
}

// openSession reads a domain's journal; one that cannot be trusted is set aside, and the
// error says where it lies then.
func openSession(dir *journal.Dir, uuid, name string) (*session, error) {
	a, err := peekSession(dir, uuid, name)
	if errors.Is(err, journal.ErrCorrupt) {
		aside, asideErr := dir.SetAside(uuid)
		if asideErr != nil {
			return nil, errors.Join(err, asideErr)
		}
		return nil, fmt.Errorf("%w; nothing of it was done, it is now %s; look at `libvirt-direct gc --dry-run`", err, aside)
	}
	return a, err
}

// peekSession is openSession without setting anything aside.
func peekSession(dir *journal.Dir, uuid, name string) (*session, error) {
	a := &session{dir: dir}
	var err error
	if a.journal, a.steps, err = readSteps(dir, uuid); err != nil {
		return nil, err
	}
	if a.journal == nil {
		a.journal = dir.New(uuid, name)
	}
	return a, nil
}

// on sets the host on which steps are done. The connections that steps first need are
// ended by close.
func (a *session) on(k step.Kernel, libvirt LibvirtState, station func(context.Context) (step.Station, func(), error), sw func() step.Switch) {
	a.libvirt = libvirt
	a.host = step.Host{Kernel: k, Libvirt: libvirt}
	var st step.Station
	a.host.Station = func(ctx context.Context) (step.Station, error) {
		if st != nil {
			return st, nil
		}
		opened, end, err := station(ctx)
		if err != nil {
			return nil, err
		}
		st, a.ends = opened, append(a.ends, end)
		return st, nil
	}
	if sw == nil {
		return
	}
	var db step.Switch
	a.host.Switch = func() step.Switch {
		if db == nil {
			db = sw()
			a.ends = append(a.ends, db.Close)
		}
		return db
	}
}

// close ends the connections that steps have needed.
func (a *session) close() {
	for _, end := range a.ends {
		end()
	}
}

func (a *session) event(format string, args ...any) {
	a.events = append(a.events, fmt.Sprintf(format, args...))
}

// index is where the journal has the entry of a key, -1 where it has none.
func (a *session) index(key string) int {
	return slices.IndexFunc(a.steps, func(s step.Step) bool { return s.Key() == key })
}

// put writes how far a step has come that is claimed.
func (a *session) put(s step.Step, phase journal.Phase) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	i := a.index(s.Key())
	if i < 0 {
		return fmt.Errorf("%s is not claimed", s.Key()) // a mistake of ours: nothing acts without a claim
	}
	e := &a.journal.Entries[i]
	e.Phase, e.Step, e.Error, e.Expires = phase, data, "", 0
	if e.Shared { // it may have been claimed before what it is on was there
		e.Resource, _ = s.Resource()
	}
	a.steps[i] = s
	return a.dir.Save(a.journal)
}

// save writes the journal if there is one.
func (a *session) save() error {
	if len(a.journal.Entries) == 0 {
		return nil
	}
	return a.dir.Save(a.journal)
}

// forget takes an entry out of the journal, without writing it.
func (a *session) forget(key string) {
	if i := a.index(key); i >= 0 {
		a.steps = slices.Delete(a.steps, i, i+1)
		a.journal.Entries = slices.Delete(a.journal.Entries, i, i+1)
	}
}

// drop takes a step out of the journal.
func (a *session) drop(key string) error {
	a.forget(key)
	return a.dir.Save(a.journal)
}

// withClaims runs f under the claims lock.
func (a *session) withClaims(ctx context.Context, f func() error) error {
	unlock, err := a.dir.Lock(ctx, claimsLock)
	if err != nil {
		return err
	}
	defer unlock()
	return f()
}

// claim writes, in one change of the journal, that the domain has what the steps are
// about, before anything is done for them. It is called under the claims lock, with
// steps that were planned from what was seen under it.
//
// What a stale claim stands on is taken over with that claim's debt: what the VF was
// before stays owed, as an entry that is intended, and is put back before anything is set. With end not
// zero the claims are reservations.
func (a *session) claim(steps []step.Step, end time.Duration) error {
	for _, s := range steps {
		resource, _ := s.Resource()
		if resource == "" {
			continue
		}
		if err := a.claimStep(s, end); err != nil {
			return err
		}
	}
	if len(a.journal.Entries) == 0 && a.journal.Version == 0 {
		return nil // there was no journal, and nothing asks for one
	}
	return a.dir.Save(a.journal)
}

func (a *session) claimStep(s step.Step, end time.Duration) error {
	if i := a.index(s.Key()); i >= 0 && a.dir.Expired(a.journal.Entries[i]) {
		a.forget(s.Key()) // somebody else can have had it since
	}
	if i := a.index(s.Key()); i >= 0 {
		e := &a.journal.Entries[i]
		if e.Phase != journal.Planned || e.Expires == 0 {
			return nil // the guest's already, or left by its last life: doing it again finds it
		}
		text, err := json.Marshal(s)
		if err != nil {
			return err
		}
		e.Step, e.Expires, a.steps[i] = text, end, s
		a.claimed = append(a.claimed, s.Key())
		return nil
	}
	e, s, err := a.newEntry(s)
	if err != nil {
		return err
	}
	if e.Phase != journal.Planned && end != 0 {
		return nil // a debt is not reserved: the start will find it as it is
	}
	e.Expires = end
	if e.Step, err = json.Marshal(s); err != nil {
		return err
	}
	a.steps, a.journal.Entries = append(a.steps, s), append(a.journal.Entries, e)
	a.claimed = append(a.claimed, s.Key())
	return nil
}

// newEntry is the entry of a step that the journal does not have, and the step as it is
// where something is taken over.
func (a *session) newEntry(s step.Step) (journal.Entry, step.Step, error) {
	resource, shared := s.Resource()
	e := journal.Entry{Resource: resource, Shared: shared, Phase: journal.Planned}
	if shared {
		return e, s, nil
	}
	claims, err := claimsTo(a.dir, resource)
	if err != nil {
		return e, s, err
	}
	e.Gen = claims.Highest() + 1
	holder, held := claims.Holder(a.journal.UUID)
	heir, is := s.Kind.(step.Heir)
	if !held || !is {
		return e, s, nil
	}
	var was step.Kind
	if holder.Phase != journal.Planned {
		of, err := step.Decode(holder.Step)
		if err != nil {
			err = fmt.Errorf("%w: domain %s: %w", journal.ErrCorrupt, holder.UUID, err)
			return e, s, &plan.NICError{Domain: a.journal.Name, NIC: "NIC " + s.NIC, Err: err}
		}
		was = of.Kind
	}
	if s.Kind, e.Phase, err = heir.TakeOver(was, holder); err != nil {
		return e, s, &plan.NICError{Domain: a.journal.Name, NIC: "NIC " + s.NIC, Err: err}
	}
	return e, s, nil
}

// dropReservations forgets what was reserved and is not planned now, and reservations
// that have ended.
func (a *session) dropReservations(planned []step.Step) {
	for i := len(a.steps) - 1; i >= 0; i-- {
		key := a.steps[i].Key()
		if a.journal.Entries[i].Expires != 0 && !slices.ContainsFunc(planned, func(s step.Step) bool { return s.Key() == key }) {
			a.forget(key)
		}
	}
}

// plan decides what the operation does, and claims it, with nobody else deciding at the
// same time. At reconnect it returns the steps of NICs beside the error of others.
func (a *session) plan(ctx context.Context, d *xmlfilter.Domain, cfg *config.Config, rec Records) (steps []step.Step, err error) {
	a.claimed = nil
	err = a.withClaims(ctx, func() error {
		host, err := Survey(ctx, a.host.Kernel, cfg, rec, d)
		if err != nil {
			return err
		}
		host.Running = a.op == step.Reconnect
		steps, err = plan.For(a.op, d, cfg, host)
		if err != nil {
			err = &planError{err}
		}
		if err != nil && !host.Running {
			return err
		}
		switch a.op {
		case step.Prepare:
			a.journal.Started = false // what an earlier life has left can say otherwise
			a.dropReservations(steps)
		case step.Reconnect:
			again, startErr := plan.For(step.Start, d, cfg, host)
			steps, err = append(steps, again...), cmp.Or(err, startErr)
			fallthrough
		case step.Start:
			a.journal.Started = true
		}
		return errors.Join(err, a.claim(steps, 0))
	})
	return steps, err
}

// apply does steps in order, all of them claimed. When one fails, what this call has
// claimed is undone, last first, and the failing step's error is returned.
func (a *session) apply(ctx context.Context, domain string, steps []step.Step) error {
	for _, s := range steps {
		if err := a.do(ctx, s); err != nil {
			undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
			defer cancel()
			err = &plan.NICError{Domain: domain, NIC: "NIC " + s.NIC, Err: err}
			return errors.Join(err, a.undoAll(undo, func(key string, _ step.Step) bool { return slices.Contains(a.claimed, key) }))
		}
	}
	return nil
}

// repair takes up what a running guest has and the journal does not know, and sets
// again what can be set again. What is planned no more, where all was planned, is undone if
// that can be while the guest runs.
func (a *session) repair(ctx context.Context, steps []step.Step, all bool) error {
	var errs []error
	for _, s := range steps {
		errs = append(errs, a.do(ctx, s))
	}
	if !all {
		return errors.Join(errs...)
	}
	return errors.Join(append(errs, a.undoAll(ctx, func(key string, s step.Step) bool {
		_, revocable := s.Kind.(step.Revocable)
		return revocable && !slices.ContainsFunc(steps, func(o step.Step) bool { return o.Key() == key })
	}))...)
}

// finish undoes what a run has left that was killed, or could not be undone. The domain is
// not running now. What still cannot be is no reason not to start: it stays in the journal.
func (a *session) finish(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, finishTime)
	defer cancel()
	reserved := func(key string) bool { return a.journal.Entries[a.index(key)].Expires != 0 }
	if err := a.undoAll(ctx, func(key string, _ step.Step) bool { return !reserved(key) }); err != nil {
		a.event("left by an earlier start: %s", OneLine(err))
	}
}

// everything is for undoAll, as is until.
func everything(string, step.Step) bool { return true }

func until(op step.Op) func(string, step.Step) bool {
	return func(_ string, s step.Step) bool { return s.Until() == op }
}

// undoAll undoes entries of the journal, last first. What cannot be undone stays in the
// journal with the reason, and the others are undone all the same.
func (a *session) undoAll(ctx context.Context, which func(key string, s step.Step) bool) error {
	var errs []error
	for _, s := range slices.Backward(slices.Clone(a.steps)) {
		if which(s.Key(), s) {
			errs = append(errs, a.undo(ctx, s.Key()))
		}
	}
	return errors.Join(errs...)
}

// undo undoes one entry, if it is still the domain's to undo.
func (a *session) undo(ctx context.Context, key string) error {
	i := a.index(key)
	if i < 0 {
		return nil
	}
	e, s := a.journal.Entries[i], a.steps[i]
	env, unlock := a.env(s)
	defer unlock()
	var err error
	if k, ok := s.Kind.(step.Settler); ok {
		err = k.Settle(ctx, env)
	}
	if err == nil && e.Phase != journal.Planned {
		err = a.undoClaim(ctx, e, s, env)
	}
	if err == nil {
		return a.drop(key)
	}
	if i = a.index(key); i < 0 {
		return err
	}
	a.journal.Entries[i].Error = OneLine(err)
	if errors.Is(err, step.ErrLater) {
		a.event("%v", err)
		err = nil
	}
	return errors.Join(err, a.dir.Save(a.journal))
}

// undoClaim undoes what was done for a claim, unless that is beaten by now.
func (a *session) undoClaim(ctx context.Context, e journal.Entry, s step.Step, env *step.Env) error {
	if !e.Shared {
		if err := env.Lock(ctx, e.Resource); err != nil {
			return err
		}
		beaten, err := a.beaten(e)
		if err != nil {
			return err
		}
		if beaten {
			a.event("left %s alone: it is another guest's now", step.SubjectOf(s.Kind))
			return nil
		}
	}
	return s.Undo(ctx, env)
}

func (a *session) do(ctx context.Context, s step.Step) error {
	env, unlock := a.env(s)
	defer unlock()
	return s.Do(ctx, env)
}

// env is what a step may use. The locks that it takes are held until unlock: an entry that
// is undone keeps others away until it is out of the journal.
func (a *session) env(s step.Step) (env *step.Env, unlock func()) {
	r := &record{session: a, step: s}
	return &step.Env{Host: a.host, Record: r, Owner: a.journal.UUID, Op: a.op}, func() {
		for _, unlock := range r.locks {
			unlock()
		}
	}
}

// record is the part of a session that a step sees.
type record struct {
	*session
	step  step.Step
	locks []func()
}

// Was is step.Record.Was.
func (r *record) Was() (step.Kind, journal.Phase) {
	i := r.index(r.step.Key())
	if i < 0 {
		return nil, journal.Planned
	}
	return r.steps[i].Kind, r.journal.Entries[i].Phase
}

// Save is step.Record.Save.
func (r *record) Save(phase journal.Phase) error { return r.put(r.step, phase) }

// Lock is step.Record.Lock.
func (r *record) Lock(ctx context.Context, name string) error {
	unlock, err := r.dir.Lock(ctx, name)
	if err == nil {
		r.locks = append(r.locks, unlock)
	}
	return err
}

// Event is step.Record.Event.
func (r *record) Event(format string, args ...any) { r.event(format, args...) }

// SettleSaved is step.Record.SettleSaved.
func (r *record) SettleSaved(ctx context.Context, pf string, number int, dev link.Link) error {
	return r.savedFiles().settle(ctx, r.journal.UUID, step.SavedFile("qemu", pf, number), dev)
}

// Sharing is step.Record.Sharing. A journal of which it is only known that it claims the
// resource counts as holding it: it is better to leave a device than to take it from
// under a guest.
func (r *record) Sharing() (step.Sharing, error) {
	sharing := step.Sharing{}
	thing := r.step.Kind.(step.Sharer) // who is none does not ask
	if was, phase := r.Was(); was != nil && phase != journal.Planned {
		same, made := thing.Same(was)
		sharing.Made = same && made
	}
	resource, _ := thing.Resource()
	claims, err := claimsTo(r.dir, resource)
	if err != nil {
		return sharing, err
	}
	for _, u := range claims.Unreadable {
		if u != r.journal.UUID {
			r.event("the journal of domain %s cannot be read; taken as a user", u)
			sharing.Others = true
		}
	}
	for _, c := range claims.Others(r.journal.UUID) {
		s, err := step.Decode(c.Step)
		if err != nil {
			sharing.Others = true
			continue
		}
		same, made := thing.Same(s.Kind)
		sharing.Others = sharing.Others || same
		sharing.Made = sharing.Made || same && made
	}
	return sharing, nil
}

// readSteps loads a domain's journal and reads its steps; without one both are nil.
func readSteps(dir *journal.Dir, uuid string) (*journal.Journal, []step.Step, error) {
	j, err := dir.Load(uuid)
	if err != nil || j == nil {
		return nil, nil, err
	}
	steps, err := decodeSteps(j)
	return j, steps, err
}

// decodeSteps reads the steps of a journal. A step that it does not understand
// makes the whole journal one that cannot be trusted.
func decodeSteps(j *journal.Journal) ([]step.Step, error) {
	steps := make([]step.Step, len(j.Entries))
	for i, e := range j.Entries {
		var err error
		if steps[i], err = step.Decode(e.Step); err != nil {
			return nil, fmt.Errorf("%w: domain %s, step %d: %w", journal.ErrCorrupt, j.UUID, i, err)
		}
	}
	return steps, nil
}
