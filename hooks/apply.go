package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"libvirt-direct/internal/link"
	"libvirt-direct/internal/state"
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
	dir     *state.Dir
	journal *state.Journal
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
func load(dir *state.Dir, uuid, name string) (*applier, error) {
	a, err := look(dir, uuid, name)
	if errors.Is(err, state.ErrCorrupt) {
		aside, asideErr := dir.SetAside(uuid)
		if asideErr != nil {
			return nil, errors.Join(err, asideErr)
		}
		return nil, fmt.Errorf("%w; nothing of it was done, it is now %s; look at `libvirt-direct gc --dry-run`", err, aside)
	}
	return a, err
}

// look is load without setting anything aside.
func look(dir *state.Dir, uuid, name string) (*applier, error) {
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
	return i >= 0 && a.journal.Entries[i].Phase != state.Planned
}

// made reports whether the domain itself has made something shared that is found there: at
// reconnect, or in a life that could not be undone.
func (a *applier) made(key string, is func(Step) (same, made bool)) bool {
	if !a.acted(key) {
		return false
	}
	same, made := is(a.steps[a.index(key)])
	return same && made
}

// intend writes a step to the journal before it acts; the returned function marks it
// done.
func (a *applier) intend(s Step) (done func() error, err error) {
	if err := a.put(s, state.Intended); err != nil {
		return nil, err
	}
	return func() error { return a.put(s, state.Done) }, nil
}

// put writes how far a step has come that is claimed.
func (a *applier) put(s Step, phase state.Phase) error {
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
		if err := a.do(ctx, s); err != nil {
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
	if s.VF != nil {
		if err := a.settleSaved(ctx, s.VF); err != nil {
			a.note("%s: %v", s.VF.name(), err)
		}
	}
	if e.Phase == state.Planned { // nothing was done
		return a.drop(key)
	}
	err := a.undoClaim(ctx, e, s)
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

func (a *applier) undoClaim(ctx context.Context, e state.Entry, s Step) error {
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
	return a.undoStep(ctx, s)
}

func (a *applier) do(ctx context.Context, s Step) error {
	switch {
	case s.VLAN != nil:
		return a.doVLAN(ctx, s)
	case s.AltName != nil:
		return a.doAltName(ctx, s)
	case s.Macvtap != nil:
		return a.doMacvtap(ctx, s)
	case s.AllMulti != nil:
		return a.doAllMulti(ctx, s)
	case s.BridgePort != nil:
		return a.doBridgePort(ctx, s)
	case s.EVB != nil:
		return a.doEVB(ctx, s)
	case s.VSI != nil:
		return a.doVSI(ctx, s)
	case s.VF != nil:
		return a.doVF(ctx, s)
	case s.Port != nil:
		return a.doPort(ctx, s)
	case s.Tap != nil:
		return a.doTap(ctx, s)
	case s.OVSPort != nil:
		return a.doOVSPort(ctx, s)
	}
	return nil
}

func (a *applier) undoStep(ctx context.Context, s Step) error {
	switch {
	case s.VLAN != nil:
		return a.undoVLAN(ctx, s)
	case s.AltName != nil:
		return a.undoAltName(ctx, s)
	case s.Macvtap != nil:
		return a.undoMacvtap(ctx, s)
	case s.VSI != nil:
		return a.undoVSI(ctx, s)
	case s.VF != nil:
		return a.undoVF(ctx, s)
	case s.Port != nil:
		return a.undoPort(ctx, s)
	case s.Tap != nil:
		return a.undoTap(ctx, s)
	case s.OVSPort != nil:
		return a.undoOVSPort(ctx, s)
	case s.SavedVF != nil:
		return a.undoSavedVF(ctx, s)
	}
	return nil
}

// lockLink takes the lock of a lower device, under which what stands on it is shared
// out between domains.
func (a *applier) lockLink(ctx context.Context, index int) (func(), error) {
	return a.dir.Lock(ctx, linkLock(index))
}

func linkLock(index int) string { return "link-" + strconv.Itoa(index) }

// held is how other domains hold something shared.
type held int

const (
	unheld held = iota
	heldForeign
	heldMade // and one of us made it
)

func (v *VLAN) resource() string {
	r, _ := Step{VLAN: v}.resource()
	return r
}

func (v *VLAN) same(s Step) (is, made bool) {
	return s.VLAN != nil && s.VLAN.Index == v.Index, s.VLAN != nil && s.VLAN.Made
}

func (a *applier) doVLAN(ctx context.Context, s Step) error {
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
		h, err := a.others(v.resource(), v.same)
		if err != nil {
			return err
		}
		v.Made = h == heldMade || a.made(s.key(), v.same)
	}
	if err := a.put(s, state.Done); err != nil {
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

func (a *applier) undoVLAN(ctx context.Context, s Step) error {
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
	h, err := a.others(v.resource(), v.same)
	if err != nil {
		return err
	}
	if h != unheld || have.Kind != "vlan" || have.VLANID != v.ID {
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
		if have.Alias == "" { // we were killed before it was marked: gc is to find it
			if err := a.kernel.SetAlias(ctx, v.Index, Mark); err != nil {
				return err
			}
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

func (n *AltName) resource() string {
	r, _ := Step{AltName: n}.resource()
	return r
}

func (n *AltName) same(s Step) (is, made bool) {
	return s.AltName != nil && s.AltName.Index == n.Index && s.AltName.Name == n.Name, s.AltName != nil && s.AltName.Made
}

func (a *applier) doAltName(ctx context.Context, s Step) error {
	n := *s.AltName
	s.AltName = &n
	dev, err := a.kernel.ByName(ctx, n.Device)
	if err != nil {
		return err
	}
	n.Index = dev.Index
	unlock, err := a.lockLink(ctx, dev.Index)
	if err != nil {
		return err
	}
	defer unlock()
	have, err := a.kernel.ByName(ctx, n.Name)
	if err == nil && have.Index != dev.Index {
		return fmt.Errorf("%w: %s is %s, not %s", ErrWrongDevice, n.Name, have.Name, n.Device)
	}
	if err == nil {
		h, err := a.others(n.resource(), n.same)
		if err != nil {
			return err
		}
		n.Made = h == heldMade || a.made(s.key(), n.same)
		return a.put(s, state.Done)
	}
	if !errors.Is(err, link.ErrNotFound) {
		return err
	}
	n.Made = true
	done, err := a.intend(s)
	if err != nil {
		return err
	}
	if err := a.kernel.AddAltName(ctx, dev.Index, n.Name); err != nil {
		return err
	}
	a.note("%s is also called %s", n.Device, n.Name)
	return done()
}

func (a *applier) undoAltName(ctx context.Context, s Step) error {
	n := s.AltName
	unlock, err := a.lockLink(ctx, n.Index)
	if err != nil {
		return err
	}
	defer unlock()
	if !n.Made {
		return a.drop(s.key())
	}
	h, err := a.others(n.resource(), n.same)
	if err != nil {
		return err
	}
	have, err := a.kernel.ByName(ctx, n.Name)
	if err != nil && !errors.Is(err, link.ErrNotFound) {
		return err
	}
	if err == nil && h == unheld && have.Index == n.Index && have.Name != n.Name {
		if err := a.kernel.RemoveAltName(ctx, n.Index, n.Name); err != nil {
			return err
		}
		a.note("took the name %s from %s", n.Name, n.Device)
	}
	return a.drop(s.key())
}

func (a *applier) doMacvtap(ctx context.Context, s Step) error {
	m := *s.Macvtap
	s.Macvtap = &m
	lower, err := a.kernel.ByName(ctx, m.Lower)
	if err != nil {
		return err
	}
	alias := Mark + " " + a.journal.UUID
	if err := a.clearLeftover(ctx, m.Name, "macvtap", alias); err != nil {
		return err
	}
	// Another namespace's macvtap can take the node between the choice of the index
	// and its use; then another index does.
	for attempt := 1; ; attempt++ {
		if m.Index, err = link.FreeIndex(); err != nil {
			return err
		}
		done, err := a.intend(s)
		if err != nil {
			return err
		}
		err = a.makeMacvtap(ctx, m, lower, alias)
		if errors.Is(err, link.ErrNodeTaken) && attempt < 3 {
			if err := a.kernel.Delete(ctx, m.Index); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		a.note("made macvtap %s on %s (%s)", m.Name, m.Lower, m.Mode)
		return done()
	}
}

// clearLeftover removes a device of that name if it is this domain's own, left by a
// run whose journal was lost. The domain is not running, or it would not start.
func (a *applier) clearLeftover(ctx context.Context, name, kind, alias string) error {
	have, err := a.kernel.ByName(ctx, name)
	switch {
	case errors.Is(err, link.ErrNotFound):
		return nil
	case err != nil:
		return err
	case have.Kind != kind || have.Alias != alias:
		return fmt.Errorf("%w: %s is there and not ours (kind %q); remove or rename it", ErrWrongDevice, name, have.Kind)
	}
	a.note("removed %s, left by an earlier run", name)
	return a.kernel.Delete(ctx, have.Index)
}

func (a *applier) makeMacvtap(ctx context.Context, m Macvtap, lower link.Link, alias string) error {
	k := a.kernel
	if m.MTU > lower.MTU && lower.MTU > 0 {
		return fmt.Errorf("%w: MTU %d is larger than %d of %s", ErrUnsuitable, m.MTU, lower.MTU, m.Lower)
	}
	err := k.AddMacvtap(ctx, link.Macvtap{
		Name: m.Name, Index: m.Index, Lower: lower.Index, Mode: m.Mode, MAC: m.MAC, MTU: m.MTU, Queues: m.Queues,
	})
	if err != nil {
		if uppers, uerr := k.Uppers(ctx, m.Lower); uerr == nil && len(uppers) > 0 {
			return fmt.Errorf("%w: %w (on %s stands %s already)", ErrNotFree, err, m.Lower, uppers[0])
		}
		return err
	}
	if err := k.SetAlias(ctx, m.Index, alias); err != nil {
		return err
	}
	if err := k.DisableIPv6(ctx, m.Name); err != nil {
		return err
	}
	if m.Mode == "passthrough" { // it was made with the lower device's MAC
		if err := a.guestMAC(ctx, m, lower); err != nil {
			return err
		}
	}
	if m.AllMulti {
		if err := k.SetAllMulticast(ctx, m.Index, true); err != nil {
			return err
		}
	}
	made, err := k.ByIndex(ctx, m.Index)
	if err != nil {
		return err
	}
	if made.MAC != m.MAC || made.Mode != m.Mode {
		return fmt.Errorf("%w: %s came out with MAC %s and mode %s", ErrWrongDevice, m.Name, made.MAC, made.Mode)
	}
	if _, err := k.TapNode(ctx, made); err != nil {
		return err
	}
	if !lower.Up { // as libvirt does for the NICs that it makes
		if err := k.SetUp(ctx, lower.Index, true); err != nil {
			return err
		}
	}
	return k.SetUp(ctx, m.Index, true)
}

func (a *applier) undoMacvtap(ctx context.Context, s Step) error {
	m := s.Macvtap
	have, err := a.kernel.ByIndex(ctx, m.Index)
	if err != nil && !errors.Is(err, link.ErrNotFound) {
		return err
	}
	if err == nil && have.Kind == "macvtap" {
		if err := a.kernel.Delete(ctx, m.Index); err != nil && !errors.Is(err, link.ErrNotFound) {
			return err
		}
		a.note("removed macvtap %s", m.Name)
	}
	return a.drop(s.key())
}

// quiet takes the hook-owned devices down and their VSIs back: the guest is gone, and
// nothing must answer for its MAC any more.
func (a *applier) quiet(ctx context.Context) error {
	errs := []error{a.leavePorts(ctx)}
	for _, s := range a.steps {
		if !a.acted(s.key()) {
			continue
		}
		if s.VSI != nil {
			errs = append(errs, a.leave(ctx, s))
		}
		kind, _, index := s.device()
		if kind == "" {
			continue
		}
		if err := a.kernel.SetUp(ctx, index, false); err != nil && !errors.Is(err, link.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (a *applier) doAllMulti(ctx context.Context, s Step) error {
	dev, err := a.kernel.ByName(ctx, s.AllMulti.Device)
	if err != nil {
		return err
	}
	if dev.Kind != "macvtap" {
		return fmt.Errorf("%w: %s is no macvtap", ErrWrongDevice, dev.Name)
	}
	a.note("%s receives all multicast", dev.Name)
	return a.kernel.SetAllMulticast(ctx, dev.Index, true)
}
