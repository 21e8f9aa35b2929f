// Package hooks is what each libvirt hook operation does: it surveys the host, has package
// plan decide, and claims, does and undoes the steps in order (session.go), so that whatever
// fails, or kills the process, leaves a journal by which everything is put back.
package hooks

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"libvirt-direct/hooks/plan"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
	"libvirt-direct/xmlfilter"
)

// Call is one call of the hook program by libvirt: its arguments and what it reads
// and writes (libvirt's docs/hooks.rst).
type Call struct {
	Domain string  // argv[1], the domain's name, for messages only
	Op     step.Op // argv[2]
	Stdin  io.Reader
	Stdout io.Writer
}

// maxXML bounds what is parsed, and maxRead what libvirt gives a hook to read: a domain that
// has nothing for us may be of any size that libvirt takes.
const (
	maxXML  = 16 << 20
	maxRead = 8 * maxXML
)

// readXML reads what libvirt says of a domain or a network.
func readXML(r io.Reader, of string) ([]byte, error) {
	doc, err := io.ReadAll(io.LimitReader(r, maxRead+1))
	if err != nil {
		return nil, fmt.Errorf("read the %s XML: %w", of, err)
	}
	if len(doc) > maxRead {
		return nil, tooLong(maxRead)
	}
	return doc, nil
}

func tooLong(most int) error {
	return fmt.Errorf("%w: more than %d MiB", xmlfilter.ErrSyntax, most>>20)
}

// parse reads a domain.
func parse(doc []byte) (*xmlfilter.Domain, error) {
	if len(doc) > maxXML {
		return nil, tooLong(maxXML)
	}
	return xmlfilter.Parse(doc)
}

// Hook is the hook program without its process: all that it touches is given to it.
type Hook struct {
	// Config reads the host's configuration. It is called only for a domain that
	// concerns us.
	Config func() (*config.Config, error)
	// Kernel connects to the kernel, likewise.
	Kernel func() (step.Kernel, func(), error)
	// Station connects to the host's 802.1Qbg station, for the NICs that need one.
	Station func(context.Context) (step.Station, func(), error)
	// OVS names the host's Open vSwitch, for the NICs that are on it.
	OVS func() step.Switch
	// Journal is the journal directory. It is made when there is something to hold.
	Journal *journal.Dir
	// Libvirt is where the daemon keeps its state.
	Libvirt LibvirtState
	Log     *slog.Logger
	// Privileged is false in a session daemon's hook, which only filters.
	Privileged bool
}

// Run does what one call asks for. An error is one line for a person; the caller
// prints it and exits non-zero, except for step.Reconnect, where Run logs it and returns
// nil: libvirt would kill the running guest.
func (h *Hook) Run(ctx context.Context, c Call) error {
	switch c.Op {
	case step.Prepare, step.Start, step.Stopped, step.Release, step.Migrate, step.Restore, step.Reconnect:
	default: // started has nothing to do; others are not known
		return nil
	}
	if !h.Privileged && c.Op != step.Migrate && c.Op != step.Restore {
		return nil
	}
	err := h.run(ctx, c)
	if err != nil && c.Op == step.Reconnect {
		h.Log.Warn("domain "+c.Domain+" goes on, but: "+OneLine(err), "op", string(c.Op), "domain", c.Domain)
		return nil
	}
	return err
}

func (h *Hook) run(ctx context.Context, c Call) error {
	doc, err := readXML(c.Stdin, "domain")
	if err != nil {
		return err
	}
	if !plan.MayConcern(doc) {
		var refused error
		if d := nameable(doc); d != nil {
			refused = h.foreignDevices(ctx, c, d)
		}
		if refused == nil {
			h.foreign(ctx, c, doc)
		}
		return refused
	}
	d, err := parse(doc)
	if c.Op == step.Stopped || c.Op == step.Release {
		// The journal decides; settings that were broken meanwhile must not stop it.
		err = step.Ignore(err, xmlfilter.ErrSettings)
	}
	if err != nil {
		err = fmt.Errorf("domain %q: %w", c.Domain, err)
		// libvirt understands what it has written itself. The filters also see what a person
		// has written.
		if plan.MaySay(doc) || c.Op == step.Migrate || c.Op == step.Restore {
			return err
		}
		h.withoutUs(c, err)
		h.foreign(ctx, c, doc)
		return nil
	}
	switch c.Op {
	case step.Migrate, step.Restore:
		return h.filter(ctx, c, d, doc)
	case step.Stopped, step.Release:
		// Whatever our records are like, and whoever this domain is.
		err = h.othersFiles(ctx, c, d)
		// The journal decides, not the XML: the domain may have been edited since.
		held, heldErr := h.holds(d.UUID)
		if err = errors.Join(err, heldErr); held {
			err = errors.Join(err, h.operate(ctx, c, d, false))
		}
		return err
	}
	if !plan.Concerns(d) {
		if err := h.foreignDevices(ctx, c, d); err != nil {
			return err
		}
		if held, err := h.holds(d.UUID); err != nil || !held || c.Op == step.Reconnect {
			return err
		}
	}
	if plan.Plain(d) && c.Op == step.Reconnect {
		held, err := h.holds(d.UUID)
		if err == nil && !held {
			held, err = h.needsUs(ctx, c, d)
		}
		if err == nil && !held {
			return nil
		}
	}
	if plan.Plain(d) && (c.Op == step.Prepare || c.Op == step.Start) {
		return h.plain(ctx, c, d)
	}
	return h.operate(ctx, c, d, false)
}

// nameable is a domain that has nothing for us, and could name a device of ours; else nil, also
// where it cannot be read.
func nameable(doc []byte) *xmlfilter.Domain {
	if !plan.MayNameDevice(doc) {
		return nil
	}
	d, err := parse(doc)
	if err != nil {
		return nil
	}
	return d
}

// othersFiles keeps what libvirt has saved of other guests' devices from this domain's end,
// or gives it back.
func (h *Hook) othersFiles(ctx context.Context, c Call, d *xmlfilter.Domain) error {
	if !slices.ContainsFunc(d.NICs, func(n xmlfilter.NIC) bool { return mayBeUndone(&n) }) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, config.DefaultDeadline)
	defer cancel()
	k, closeKernel, err := h.Kernel()
	if err != nil {
		return err
	}
	defer closeKernel()
	a := session{dir: h.Journal}
	a.on(k, h.Libvirt, h.Station, h.OVS)
	defer func() { h.log(c, a.events) }()
	saved := a.savedFiles()
	if c.Op == step.Stopped {
		return saved.stopped(ctx, d)
	}
	return saved.release(ctx, d)
}

// foreign does an operation on a domain that has nothing for us. There is something to
// do only where the journal says that it once had. No error stops such a domain: it is
// logged.
func (h *Hook) foreign(ctx context.Context, c Call, doc []byte) {
	if c.Op == step.Migrate || c.Op == step.Restore {
		return
	}
	uuid := xmlfilter.UUID(doc)
	if !journal.IsUUID(uuid) {
		return // only who means us has to write what we understand
	}
	held, err := h.holds(uuid)
	if err == nil && held {
		if c.Op == step.Prepare || c.Op == step.Start {
			h = h.brief()
		}
		err = h.operate(ctx, c, &xmlfilter.Domain{Name: c.Domain, UUID: uuid}, false)
	}
	if err != nil {
		h.Log.Warn(fmt.Sprintf("%s %q: %s", c.Op, c.Domain, OneLine(err)), "op", string(c.Op), "domain", c.Domain)
	}
}

// plainTime bounds how long the start of a plain guest waits for others: a lock, a switch.
const plainTime = 50 * time.Millisecond

// plain does prepare and start for a plain guest. Where nothing has to be made for it no
// state of the host refuses or delays it: what we know of it is then not complete, and
// that is logged. What the plan refuses libvirt would as well, or, with another guest's
// device, after it has changed that: what the kernel shows is looked at first, without
// waiting for anybody, and however long a busy host takes for it.
func (h *Hook) plain(ctx context.Context, c Call, d *xmlfilter.Domain) error {
	ctx, cancel := context.WithTimeout(ctx, config.DefaultDeadline)
	defer cancel()
	if !h.complete(ctx, d) {
		return h.operate(ctx, c, d, false)
	}
	idle, err := h.preview(ctx, c.Op, d)
	held := false
	if err == nil {
		held, err = h.holds(d.UUID)
	}
	switch {
	case err != nil || idle && !held:
	case held && c.Op == step.Prepare: // what an earlier life has left goes first
		err = h.brief().operate(ctx, c, d, true)
	default:
		brief, cancel := context.WithTimeout(ctx, plainTime)
		defer cancel()
		err = h.operate(brief, c, d, true)
	}
	var refused *planError
	if err == nil || errors.As(err, &refused) {
		return err
	}
	h.withoutUs(c, err)
	return nil
}

func (h *Hook) withoutUs(c Call, err error) {
	h.Log.Warn(fmt.Sprintf("%s %q goes on without us: %s", c.Op, c.Domain, OneLine(err)), "op", string(c.Op), "domain", c.Domain)
}

// complete reports whether all devices that a plain guest's NICs name are there, as far as
// the kernel can be asked, and are not ours, so that they could go with another guest.
func (h *Hook) complete(ctx context.Context, d *xmlfilter.Domain) bool {
	k, closeKernel, err := h.Kernel()
	if err != nil {
		return true
	}
	defer closeKernel()
	for i := range d.NICs {
		n := &d.NICs[i]
		if n.Type != "direct" || n.Source.Network != "" {
			continue
		}
		l, err := k.ByName(ctx, n.Source.Dev)
		if errors.Is(err, link.ErrNotFound) || err == nil && (l.Alias == step.Alias || l.Name != n.Source.Dev && ourName(h.Journal, n.Source.Dev)) {
			return false
		}
	}
	return true
}

// ourName reports whether an alternative name is claimed by a domain, and can go with it.
func ourName(dir *journal.Dir, name string) bool {
	resource, _ := (&step.AltName{Name: name}).Resource()
	claims, err := claimsTo(dir, resource)
	return err == nil && len(claims.All)+len(claims.Unreadable) > 0
}

// preview plans for a plain guest without waiting for anybody, so that what the kernel
// shows refuses it whatever else is wrong. It is idle where there is nothing to do, and so
// nothing to write down.
func (h *Hook) preview(ctx context.Context, op step.Op, d *xmlfilter.Domain) (idle bool, err error) {
	cfg, cfgErr := h.Config()
	if cfgErr != nil {
		if cfg, err = config.Parse("", nil); err != nil {
			return false, err
		}
	}
	k, closeKernel, err := h.Kernel()
	if err != nil {
		return false, err
	}
	defer closeKernel()
	host, err := Survey(ctx, k, cfg, h.records(), d)
	if err != nil {
		return false, cmp.Or(shownTaken(&host, d), err)
	}
	steps, err := plan.For(op, d, cfg, host)
	if err != nil {
		return false, &planError{err}
	}
	return len(steps) == 0 && cfgErr == nil, nil
}

// needsUs reports whether there is anything to do for a plain guest that runs.
func (h *Hook) needsUs(ctx context.Context, c Call, d *xmlfilter.Domain) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, config.DefaultDeadline)
	defer cancel()
	idle, err := h.preview(ctx, c.Op, d)
	return !idle, err
}

// shownTaken refuses what the kernel shows in other hands, of as much as was looked at.
func shownTaken(h *plan.Snapshot, d *xmlfilter.Domain) error {
	for i := range d.NICs {
		n := &d.NICs[i]
		vf, looked := h.VFs[cmp.Or(n.Source.PCI, n.Source.Dev)]
		if !looked || vf.Used == "" || vf.Mine || vf.Bound {
			continue
		}
		if err := h.Available(vf, true); err != nil {
			return &planError{&plan.NICError{Domain: d.Name, NIC: n.String(), Err: err}}
		}
	}
	return nil
}

// planError is what the plan has refused.
type planError struct{ error }

func (e *planError) Unwrap() error { return e.error }

// holds reports whether there is a journal for a domain.
func (h *Hook) holds(uuid string) (bool, error) {
	j, err := h.Journal.Load(uuid)
	return j != nil || err != nil, step.Ignore(err, journal.ErrCorrupt, journal.ErrNewer)
}

// filter prints the domain as this host understands it, or nothing when that is what
// it says already. It allocates nothing: no stopped or release would follow.
func (h *Hook) filter(ctx context.Context, c Call, d *xmlfilter.Domain, doc []byte) error {
	if !plan.Concerns(d) {
		return nil
	}
	changes, err := h.changes(ctx, d, plan.OriginOf(c.Op))
	var refused *plan.NICError
	if err != nil && plan.Plain(d) && !errors.As(err, &refused) {
		h.withoutUs(c, err)
		return nil
	}
	if err != nil {
		return err
	}
	out, err := d.Rewrite(changes)
	if err != nil || bytes.Equal(out, doc) {
		return err
	}
	if _, err := c.Stdout.Write(out); err != nil {
		return fmt.Errorf("write the domain XML: %w", err)
	}
	h.log(c, changed(d, changes))
	return nil
}

// changes are what a domain is to say otherwise on this host.
func (h *Hook) changes(ctx context.Context, d *xmlfilter.Domain, from plan.Origin) ([]xmlfilter.Change, error) {
	cfg, err := h.Config()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(cfg.Deadline))
	defer cancel()
	k, closeKernel, err := h.Kernel()
	if err != nil {
		return nil, err
	}
	defer closeKernel()
	return h.remap(ctx, k, cfg, d, from)
}

// remap finds out what a domain that comes from elsewhere is to say here, and keeps the
// virtual functions that it chooses for the start that follows.
func (h *Hook) remap(ctx context.Context, k step.Kernel, cfg *config.Config, d *xmlfilter.Domain, from plan.Origin) (changes []xmlfilter.Change, err error) {
	host, err := Survey(ctx, k, cfg, h.records(), d)
	if err != nil {
		return nil, err
	}
	changes, reserve, err := plan.Remap(d, cfg, host, from)
	if err != nil || len(reserve) == 0 || !h.Privileged || d.UUID == "" {
		return changes, err
	}
	// Again, with nobody else choosing at the same time.
	a, unlock, err := h.open(ctx, d.UUID, d.Name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return changes, a.withClaims(ctx, func() error {
		if host, err = Survey(ctx, k, cfg, h.records(), d); err != nil {
			return err
		}
		if changes, reserve, err = plan.Remap(d, cfg, host, from); err != nil {
			return err
		}
		a.journal.Started = false // an earlier life's word, where that has left a debt
		a.dropReservations(reserve)
		return a.claim(reserve, a.dir.Clock()+reservationTime)
	})
}

func (h *Hook) records() Records { return Records{Journal: h.Journal, Libvirt: h.Libvirt} }

// open locks a domain and reads its journal.
func (h *Hook) open(ctx context.Context, uuid, name string) (a *session, unlock func(), err error) {
	if err := h.Journal.Make(); err != nil {
		return nil, nil, err
	}
	unlock, err = h.Journal.Lock(ctx, domainLock(uuid))
	if err != nil {
		return nil, nil, err
	}
	if a, err = openSession(h.Journal, uuid, name); err != nil {
		unlock()
		return nil, nil, err
	}
	return a, unlock, nil
}

func domainLock(uuid string) string { return "domain-" + uuid }

func changed(d *xmlfilter.Domain, changes []xmlfilter.Change) []string {
	var notes []string
	for _, c := range changes {
		if to := cmp.Or(c.SourceDev, c.SourceBridge, c.Ethernet); to != "" {
			n := &d.NICs[c.NIC]
			notes = append(notes, fmt.Sprintf("%s: %s is %s here", n, cmp.Or(n.Source.Dev, n.Source.Bridge), to))
		}
	}
	return notes
}

// operate does the operations that touch the host. A domain for which nothing is to be
// made goes on without a configuration that cannot be read.
func (h *Hook) operate(ctx context.Context, c Call, d *xmlfilter.Domain, unconfigured bool) error {
	// A configuration that cannot be read stops a start, but never the undoing.
	cfg, cfgErr := h.Config()
	deadline := config.DefaultDeadline
	if cfgErr == nil {
		deadline = time.Duration(cfg.Deadline)
	}
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	a, unlock, err := h.open(ctx, d.UUID, d.Name)
	if err != nil {
		return err
	}
	defer unlock()
	k, closeKernel, err := h.Kernel()
	if err != nil {
		return err
	}
	defer closeKernel()
	a.on(k, h.Libvirt, h.Station, h.OVS)
	defer a.close()
	defer func() { h.log(c, a.events) }()

	switch c.Op {
	case step.Stopped:
		// Until libvirt has put back what it has changed, nobody takes it for free.
		a.journal.Started = false
		return errors.Join(a.save(), a.undoAll(ctx, until(step.Stopped)))
	case step.Release:
		a.journal.Started = true // it is over: what stays keeps nobody waiting
		return a.undoAll(ctx, everything)
	case step.Prepare:
		a.finish(ctx)
	}
	if cfgErr != nil {
		if !unconfigured {
			return cfgErr
		}
		a.event("warning: taken as not configured: %v", cfgErr)
		if cfg, err = config.Parse("", nil); err != nil {
			return err
		}
	}
	a.op = c.Op
	rec := h.records()
	if c.Op == step.Start || c.Op == step.Reconnect {
		rec.AskSwitch(ctx, cfg, d, h.OVS)
	}
	for attempt := 1; ; attempt++ {
		steps, err := a.plan(ctx, d, cfg, rec)
		if c.Op == step.Reconnect {
			return errors.Join(err, a.repair(ctx, steps, rec.SwitchErr == nil && err == nil))
		}
		if err != nil {
			return err
		}
		err = a.apply(ctx, d.Name, steps)
		// Who knows nothing of our claims can take what was chosen: another will do.
		if !errors.Is(err, step.ErrNotFree) && !errors.Is(err, step.ErrInUse) && !errors.Is(err, link.ErrNotFound) || attempt == attempts || !slices.ContainsFunc(steps, chosen) {
			return err
		}
		a.event("chose again: %s", OneLine(err))
	}
}

// attempts is how often a free choice is made for one start.
const attempts = 3

func chosen(s step.Step) bool {
	k, ok := s.Kind.(step.Choice)
	return ok && k.IsChosen()
}

func (h *Hook) log(c Call, notes []string) {
	if len(notes) > 0 {
		h.Log.Info(fmt.Sprintf("%s %q: %s", c.Op, c.Domain, strings.Join(notes, "; ")), "op", string(c.Op), "domain", c.Domain)
	}
}

// OneLine is an error as it is shown to a person: one line, whatever it is made of.
func OneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// LeftOver reports whether a program's path is that of a copy that a package manager
// or an editor has left in qemu.d: libvirt runs every executable file there, whatever
// its name.
func LeftOver(program string) bool {
	name := filepath.Base(program)
	if strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~") {
		return true
	}
	switch filepath.Ext(name) {
	case ".dpkg-old", ".dpkg-dist", ".dpkg-new", ".dpkg-tmp", ".dpkg-bak", ".ucf-old", ".ucf-dist", ".ucf-new",
		".rpmsave", ".rpmnew", ".rpmorig", ".bak", ".orig", ".old", ".swp":
		return true
	}
	return false
}
