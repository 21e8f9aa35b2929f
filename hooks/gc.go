package hooks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"libvirt-direct/helper/tapname"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
)

// Collector finishes or undoes what domains have left that are not running any more:
// because the hook was killed, or libvirt, or the whole of both.
type Collector struct {
	Kernel step.Kernel
	// Station connects to the host's 802.1Qbg station, for dead domains' VSIs.
	Station func(context.Context) (step.Station, func(), error)
	// OVS names the host's Open vSwitch. Without it stale ports are not looked for, and
	// a journal with a port is left as it is.
	OVS func() step.Switch
	Dir *journal.Dir
	// Libvirt is where the daemon keeps its state.
	Libvirt LibvirtState
	// Alive reports whether libvirt has the domain running or starting. An error
	// leaves that domain's things alone.
	Alive func(ctx context.Context, uuid, name string) (bool, error)
	// Taps lists the host's TAP devices, for those that the helper's users have left. If it
	// is nil they are not looked for.
	Taps func(context.Context) ([]tapname.Device, error)
	// DryRun only says what would be done.
	DryRun bool
}

// Run goes over all journals, then over the devices with our mark that no journal
// names. It returns a line for each thing done; errors of single domains are joined,
// and the others are gone on with.
func (c *Collector) Run(ctx context.Context) (done []string, err error) {
	uuids, err := c.Dir.Domains()
	if err != nil {
		return nil, err
	}
	var errs []error
	if !c.DryRun {
		errs = append(errs, c.Dir.Sweep())
	}
	for _, uuid := range uuids {
		lines, err := c.domain(ctx, uuid)
		done = append(done, lines...)
		errs = append(errs, err)
	}
	if !c.DryRun {
		errs = append(errs, c.staleHints(ctx))
	}
	lines, err := c.hidden(ctx)
	done, errs = append(done, lines...), append(errs, err)
	lines, err = c.helperTaps(ctx) // before the ports of them
	done, errs = append(done, lines...), append(errs, err)
	lines, err = c.strayPorts(ctx)
	done, errs = append(done, lines...), append(errs, err)
	lines, err = c.strays(ctx)
	return append(done, lines...), errors.Join(append(errs, err)...)
}

func (c *Collector) domain(ctx context.Context, uuid string) ([]string, error) {
	j, err := c.Dir.Load(uuid)
	if step.Ignore(err, journal.ErrCorrupt) != nil || err == nil && j == nil {
		return nil, err
	}
	name := ""
	if j != nil {
		name = j.Name
	}
	// libvirt is asked without a lock: it does not answer for a domain whose hook it runs,
	// and that hook can be waiting for the lock.
	alive, err := c.alive(ctx, uuid, name)
	who := fmt.Sprintf("domain %q (%s): ", name, uuid)
	if errors.Is(err, errBusy) && !c.DryRun {
		return []string{who + "left alone, libvirt is starting or stopping it"}, nil
	}
	if err != nil || alive {
		return nil, step.Ignore(err, errBusy)
	}
	unlock, err := c.lock(ctx, domainLock(uuid))
	if err != nil {
		return nil, err
	}
	defer unlock()
	read := openSession
	if c.DryRun {
		read = peekSession
	}
	a, err := read(c.Dir, uuid, name)
	if err != nil {
		return nil, err
	}
	if j == nil || a.journal.Serial != j.Serial { // a hook was at work since libvirt was asked
		return nil, nil
	}
	a.on(c.Kernel, c.Libvirt, c.Station, c.OVS)
	defer a.close()
	reserved := func(e journal.Entry) bool { return e.Expires != 0 && !c.Dir.Expired(e) }
	switch {
	case c.DryRun:
		for i := len(a.steps) - 1; i >= 0; i-- {
			if text := a.steps[i].Undoes(); text != "" && !reserved(a.journal.Entries[i]) {
				a.event("would %s", text)
			}
		}
	case len(a.steps) == 0: // an older release's, of which nothing was taken over
		err = c.Dir.Save(a.journal)
	default:
		err = a.undoAll(ctx, func(key string, _ step.Step) bool { return !reserved(a.journal.Entries[a.index(key)]) })
	}
	for i := range a.events {
		a.events[i] = who + a.events[i]
	}
	if !c.DryRun && err == nil && len(a.events) == 0 && len(a.steps) == 0 {
		a.events = []string{who + "nothing was left but the journal"}
	}
	return a.events, err
}

// hidden gives back files of libvirt's that were hidden from the end of domains which have
// ended.
func (c *Collector) hidden(ctx context.Context) (done []string, err error) {
	a := session{dir: c.Dir}
	a.on(c.Kernel, c.Libvirt, c.Station, c.OVS)
	saved := a.savedFiles()
	files, err := saved.hidden(func(hiddenFile) bool { return true })
	errs := []error{err}
	for _, f := range files {
		alive, err := c.alive(ctx, f.UUID, "")
		switch {
		case err != nil || alive:
			err = step.Ignore(err, errBusy)
		case c.DryRun:
			done = append(done, fmt.Sprintf("would give libvirt %s back", f.File))
		default:
			if err = saved.allBack(ctx, []hiddenFile{f}, func(hiddenFile) bool { return true }); err == nil && !saved.stillHidden(f) {
				done = append(done, fmt.Sprintf("gave libvirt %s back, hidden from the end of domain %s", f.File, f.UUID))
			}
		}
		errs = append(errs, err)
	}
	return done, errors.Join(errs...)
}

// staleHints removes what says that a domain may claim something, and it does not.
func (c *Collector) staleHints(ctx context.Context) error {
	stale, err := c.Dir.StaleHints()
	errs := []error{err}
	for _, h := range stale {
		unlock, err := c.Dir.Lock(ctx, domainLock(h.UUID))
		if err == nil {
			err = c.Dir.RemoveHint(h)
			unlock()
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// lock takes a lock. Looking needs none: a start at work can be seen half-way.
func (c *Collector) lock(ctx context.Context, name string) (func(), error) {
	if c.DryRun {
		return func() {}, nil
	}
	return c.Dir.Lock(ctx, name)
}

// answerTime bounds a question to libvirt, which does not answer for a domain whose hook
// it is running.
const answerTime = time.Second

var errBusy = errors.New("libvirt is busy with the domain")

func (c *Collector) alive(ctx context.Context, uuid, name string) (bool, error) {
	brief, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	alive, err := c.Alive(brief, uuid, name)
	if err != nil && brief.Err() != nil && ctx.Err() == nil {
		err = errBusy
	}
	return alive, err
}

// strays removes devices that carry our mark and that no journal names, as after
// /run was cleared.
func (c *Collector) strays(ctx context.Context) ([]string, error) {
	links, err := c.Kernel.All(ctx)
	if err != nil {
		return nil, err
	}
	// What stands on a VLAN goes before it, and a VLAN in a VLAN before that.
	slices.SortStableFunc(links, func(a, b link.Link) int {
		return cmp.Or(strings.Compare(a.Kind, b.Kind), depth(links, b)-depth(links, a))
	})
	var done []string
	var errs []error
	for _, l := range links {
		uuid, marked := strings.CutPrefix(l.Alias, step.Alias)
		if !marked {
			continue
		}
		gone, err := c.stray(ctx, l, strings.TrimSpace(uuid))
		if err != nil {
			errs = append(errs, err)
		} else if gone && c.DryRun {
			done = append(done, fmt.Sprintf("would remove %s %s, which no journal names", l.Kind, l.Name))
		} else if gone {
			done = append(done, fmt.Sprintf("removed %s %s, which no journal named", l.Kind, l.Name))
		}
	}
	return done, errors.Join(errs...)
}

// depth is how many VLANs a VLAN stands on.
func depth(links []link.Link, l link.Link) int {
	n := 0
	for l.Kind == "vlan" && n < maxVLANs {
		i := slices.IndexFunc(links, func(o link.Link) bool { return o.Index == l.Parent && !l.ParentElsewhere })
		if i < 0 {
			break
		}
		l = links[i]
		n++
	}
	return n
}

func (c *Collector) stray(ctx context.Context, l link.Link, uuid string) (gone bool, err error) {
	unlock, err := c.lock(ctx, step.LinkLock(l.Parent))
	if err != nil {
		return false, err
	}
	defer unlock()
	if named, err := c.named(l.Index); err != nil || named {
		return false, err
	}
	switch {
	case (l.Kind == "macvtap" || l.Kind == "tun") && uuid != "":
		if alive, err := c.alive(ctx, uuid, ""); err != nil || alive {
			return false, step.Ignore(err, errBusy)
		}
	case l.Kind == "vlan" && uuid == "":
		if uses, err := c.Kernel.UppersEverywhere(ctx, l.Name); err != nil || len(uses) > 0 {
			return false, err
		}
	default:
		return false, nil
	}
	if c.DryRun {
		return true, nil
	}
	return true, c.Kernel.Delete(ctx, l.Index)
}

// named reports whether a journal names a device. One that cannot be read could.
func (c *Collector) named(index int) (bool, error) {
	uuids, err := c.Dir.Domains()
	if err != nil {
		return false, err
	}
	for _, u := range uuids {
		_, steps, err := readSteps(c.Dir, u)
		if err != nil {
			return true, nil
		}
		for _, s := range steps {
			if k, ok := s.Kind.(step.Device); ok && k.Ifindex() == index {
				return true, nil
			}
		}
	}
	return false, nil
}
