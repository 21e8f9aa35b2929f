package hooks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"libvirt-direct/internal/config"
	"libvirt-direct/internal/state"
	"libvirt-direct/xmlfilter"
)

// Call is one call of the hook program by libvirt: its arguments and what it reads
// and writes (libvirt's docs/hooks.rst).
type Call struct {
	Domain string // argv[1], the domain's name, for messages only
	Op     Op     // argv[2]
	Stdin  io.Reader
	Stdout io.Writer
}

// maxXML bounds what libvirt gives a hook to read.
const maxXML = 16 << 20

// readXML reads what libvirt says of a domain or a network.
func readXML(r io.Reader, of string) ([]byte, error) {
	doc, err := io.ReadAll(io.LimitReader(r, maxXML+1))
	if err != nil {
		return nil, fmt.Errorf("read the %s XML: %w", of, err)
	}
	if len(doc) > maxXML {
		return nil, fmt.Errorf("%w: more than %d MiB", xmlfilter.ErrSyntax, maxXML>>20)
	}
	return doc, nil
}

// Hook is the hook program without its process: all that it touches is given to it.
type Hook struct {
	// Config reads the host's configuration. It is called only for a domain that
	// concerns us.
	Config func() (*config.Config, error)
	// Kernel connects to the kernel, likewise.
	Kernel func() (Kernel, func(), error)
	// Station connects to the host's 802.1Qbg station, for the NICs that need one.
	Station func(context.Context) (Station, func(), error)
	// OVS names the host's Open vSwitch, for the NICs that are on it.
	OVS func() Switch
	// Journal is the journal directory. It is made when there is something to hold.
	Journal *state.Dir
	// Libvirt is the folder in which the daemon keeps its state, /run/libvirt.
	Libvirt fs.FS
	Log     *slog.Logger
	// Privileged is false in a session daemon's hook, which only filters.
	Privileged bool
}

// Run does what one call asks for. An error is one line for a person; the caller
// prints it and exits non-zero, except for Reconnect, where Run logs it and returns
// nil: libvirt would kill the running guest.
func (h *Hook) Run(ctx context.Context, c Call) error {
	switch c.Op {
	case Prepare, Start, Stopped, Release, Migrate, Restore, Reconnect:
	default: // started has nothing to do; others are not known
		return nil
	}
	if !h.Privileged && c.Op != Migrate && c.Op != Restore {
		return nil
	}
	err := h.run(ctx, c)
	if err != nil && c.Op == Reconnect {
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
	d, err := xmlfilter.Parse(doc)
	if c.Op == Stopped || c.Op == Release {
		// The journal decides; words that were broken meanwhile must not stop it.
		err = ignore(err, xmlfilter.ErrWords)
	}
	if err != nil {
		return fmt.Errorf("domain %q: %w", c.Domain, err)
	}
	switch c.Op {
	case Migrate, Restore:
		return h.filter(ctx, c, d, doc)
	}
	concerned := concerns(d)
	if !concerned || c.Op == Stopped || c.Op == Release {
		// The journal decides, not the XML: the domain may have been edited since.
		if held, err := h.holds(d.UUID); err != nil || !held && (c.Op != Reconnect || !concerned) {
			return err
		}
	}
	return h.operate(ctx, c, d)
}

// concerns reports whether any of a domain's NICs is ours.
func concerns(d *xmlfilter.Domain) bool {
	return slices.ContainsFunc(d.NICs, func(n xmlfilter.NIC) bool { return ours(&n) })
}

// holds reports whether there is a journal for a domain.
func (h *Hook) holds(uuid string) (bool, error) {
	j, err := h.Journal.Load(uuid)
	return j != nil || err != nil, ignore(ignore(err, state.ErrCorrupt), state.ErrNewer)
}

func ignore(err, kind error) error {
	if errors.Is(err, kind) {
		return nil
	}
	return err
}

// filter prints the domain as this host understands it, or nothing when that is what
// it says already. It allocates nothing: no stopped or release would follow.
func (h *Hook) filter(ctx context.Context, c Call, d *xmlfilter.Domain, doc []byte) error {
	if !concerns(d) {
		return nil
	}
	cfg, err := h.Config()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(cfg.Deadline))
	defer cancel()
	k, closeKernel, err := h.Kernel()
	if err != nil {
		return err
	}
	defer closeKernel()
	host, err := h.survey(ctx, k, cfg, d, h.Journal)
	if err != nil {
		return err
	}
	changes, err := Rewrite(d, cfg, host, false)
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

// survey is Survey without the VFs that other domains or libvirt's networks have.
func (h *Hook) survey(ctx context.Context, k Kernel, cfg *config.Config, d *xmlfilter.Domain, dir *state.Dir) (Host, error) {
	host, err := Survey(ctx, k, cfg, d)
	if err != nil {
		return host, err
	}
	if err := host.readJournals(dir, d.UUID); err != nil {
		return host, err
	}
	host.LeavePools(h.Libvirt)
	return host, nil
}

func changed(d *xmlfilter.Domain, changes []xmlfilter.Change) []string {
	var notes []string
	for _, c := range changes {
		if to := first(c.SourceDev, c.SourceBridge, c.Ethernet); to != "" {
			n := &d.NICs[c.NIC]
			notes = append(notes, fmt.Sprintf("%s: %s is %s here", n, first(n.Source.Dev, n.Source.Bridge), to))
		}
	}
	return notes
}

// operate does the operations that touch the host.
func (h *Hook) operate(ctx context.Context, c Call, d *xmlfilter.Domain) error {
	// A configuration that cannot be read stops a start, but never the undoing.
	cfg, cfgErr := h.Config()
	deadline := config.DefaultDeadline
	if cfgErr == nil {
		deadline = time.Duration(cfg.Deadline)
	}
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	dir := h.Journal
	if err := dir.Make(); err != nil {
		return err
	}
	unlock, err := dir.Lock(ctx, "domain-"+d.UUID)
	if err != nil {
		return err
	}
	defer unlock()
	a, err := load(dir, d.UUID, d.Name)
	if err != nil {
		return err
	}
	k, closeKernel, err := h.Kernel()
	if err != nil {
		return err
	}
	defer closeKernel()
	a.kernel, a.libvirt = k, h.Libvirt
	defer a.withStation(h.Station)()
	defer a.withSwitch(h.OVS)()
	defer func() { h.log(c, a.notes) }()

	switch c.Op {
	case Stopped:
		return a.quiet(ctx)
	case Release:
		return a.undoFrom(ctx, 0)
	}
	if c.Op == Prepare && len(a.steps) > 0 {
		// Left by a run that was killed. The domain is not running now.
		if err := a.undoFrom(ctx, 0); err != nil {
			return err
		}
	}
	if cfgErr != nil {
		return cfgErr
	}
	a.op = c.Op
	host, err := h.survey(ctx, k, cfg, d, dir)
	if err != nil {
		return err
	}
	steps, err := Plan(c.Op, d, cfg, host)
	if err != nil {
		return err
	}
	if c.Op == Reconnect {
		return a.repair(ctx, d, cfg, host, steps)
	}
	return a.apply(ctx, d.Name, steps)
}

// repair takes up what a running guest has and the journal does not know, and sets
// again what can be set again.
func (a *applier) repair(ctx context.Context, d *xmlfilter.Domain, cfg *config.Config, host Host, steps []Step) error {
	again, err := Plan(Start, d, cfg, host)
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range append(steps, again...) {
		switch {
		case s.Macvtap != nil, s.Tap != nil:
			errs = append(errs, a.adopt(ctx, s))
			continue
		case s.EVB != nil: // libvirt's own association is long over
			continue
		}
		// A VLAN or a name that is there is shared, one that is missing is made.
		errs = append(errs, a.do(ctx, s))
	}
	return errors.Join(errs...)
}

// adopt notes a hook-owned device that is there. One that is gone cannot be made
// again: QEMU holds the old one's descriptor.
func (a *applier) adopt(ctx context.Context, s Step) error {
	kind, name, _ := s.device()
	have, err := a.kernel.ByName(ctx, name)
	if err != nil {
		return fmt.Errorf("the guest's device is lost, restart the guest: %w", err)
	}
	if a.holds(s.key()) {
		return nil
	}
	a.note("adopted %s %s", kind, name)
	return a.put(s.at(have.Index), state.Done)
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
