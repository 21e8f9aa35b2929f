package hooktest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing/synctest"
	"time"
)

// Program is what is under test. Each call is a process of its own: it has its own
// connections, and is stopped, failed or killed at their gates.
type Program struct {
	// Hook is one call of the hook by libvirt. It returns what the hook prints.
	Hook func(ctx context.Context, p *Process, c Call) (stdout string, err error)
	// Collect is one run of gc, which asks alive whether libvirt has a domain.
	Collect func(ctx context.Context, p *Process, alive func(ctx context.Context, uuid string) (bool, error)) error
	// Trace has the story tell of each boundary that a program comes to.
	Trace bool
}

// Call is one call of the hook.
type Call struct{ Domain, UUID, Op, XML string }

// Process is a program at work on the host.
type Process struct {
	Kernel  *Kernel
	Disk    *Disk
	OVS     *OVS
	Station *Station
	// Libvirt is where libvirt keeps its state.
	Libvirt LibvirtState

	w      *World
	id     int
	name   string
	domain *Domain // whose hook it is, nil for another's
	// mortal is a program of ours, which can be killed, and whose calls can fail.
	mortal bool

	wake   chan verdict
	ended  chan struct{}
	killed bool
	// A process that has slept comes to its next boundary by itself.
	mu     sync.Mutex
	parked bool
	at     Point
	done   bool

	faulted bool // a call of its failed by the tape's will
	blind   bool // one that was not the journal's
}

type verdict struct {
	die bool
	err error
}

// World is a host, and the story that is played on it.
type World struct {
	Kernel  *Kernel
	Disk    *Disk
	OVS     *OVS
	Station *Station
	Libvirt Folder
	Domains []*Domain

	program   Program
	boot      time.Time
	tape      *Tape
	old       bool // libvirt before 11
	installed bool
	calm      bool                // nothing fails and nobody is killed any more
	kill      func(*Process) bool // who is killed all the same, nil for nobody
	killed    func()              // called then
	procs     []*Process
	turn      *Process
	hostdevs  map[int]*Domain
	tool      map[int]string // VFs that another tool has, and their settings
	residue   map[int]bool   // VFs that libvirt itself leaves otherwise than it found them
	before    map[string]string
	story     []string
	bad       *Violation
}

// Violation is an invariant that does not hold.
type Violation struct {
	// Invariant is its short name: "kept", "refused", "distinct" …
	Invariant string
	What      string
	// Story says what happened until then, a line for each event.
	Story []string
}

func (v *Violation) Error() string {
	return fmt.Sprintf("%s: %s\n  %s", v.Invariant, v.What, strings.Join(v.Story, "\n  "))
}

// errInjected is what a call fails with by the tape's will.
var errInjected = fmt.Errorf("injected: %w", syscall.EIO)

// errKilled is what a program that was killed returns.
var errKilled = errors.New("killed")

func (w *World) tell(format string, args ...any) {
	w.story = append(w.story, fmt.Sprintf(format, args...))
}

func (w *World) violated(invariant, format string, args ...any) {
	if w.bad == nil {
		w.bad = &Violation{Invariant: invariant, What: fmt.Sprintf(format, args...)}
		w.tell("VIOLATED %s: %s", invariant, w.bad.What)
		w.bad.Story = slices.Clone(w.story)
	}
}

// spawn starts a process, which comes to its first boundary at once.
func (w *World) spawn(name string, d *Domain, mortal bool, run func(p *Process)) *Process {
	p := &Process{
		w: w, id: len(w.procs), name: name, domain: d, mortal: mortal,
		wake: make(chan verdict), ended: make(chan struct{}),
	}
	journal := func(at Point) error {
		at.Journal = true
		return p.gate(at)
	}
	p.Kernel, p.Disk, p.OVS, p.Station = w.Kernel.With(p.gate), w.Disk.With(journal), w.OVS.With(p.gate), w.Station.With(p.gate)
	p.Libvirt = LibvirtState{w.Libvirt, p.gate}
	w.procs = append(w.procs, p)
	go func() {
		defer func() {
			p.Disk.LetGo()
			p.mu.Lock()
			p.done = true
			p.mu.Unlock()
			close(p.ended)
		}()
		_ = p.gate(Point{Op: "begin"})
		run(p)
	}()
	return p
}

// gate is a boundary: the process waits there until it is its turn.
func (p *Process) gate(at Point) error {
	if p.killed {
		return errKilled
	}
	p.mu.Lock()
	p.parked, p.at = true, at
	p.mu.Unlock()
	v := <-p.wake
	if v.die {
		p.killed = true
		p.Disk.LetGo()
		runtime.Goexit()
	}
	return v.err
}

// Clock is how long the host has been running.
func (p *Process) Clock() time.Duration { return time.Since(p.w.boot) }

// pause lets others go on.
func (p *Process) pause() { _ = p.gate(Point{Op: "pause"}) }

// play lets the processes go on, one at a time, until all have ended or an invariant is
// broken.
func (w *World) play() {
	for idle := 0; ; {
		synctest.Wait()
		w.check()
		var parked []*Process
		running := 0
		for _, p := range w.procs {
			p.mu.Lock()
			if p.parked {
				parked = append(parked, p)
			}
			if !p.done {
				running++
			}
			p.mu.Unlock()
		}
		switch {
		case running == 0:
			return
		case w.bad != nil:
			for _, p := range parked {
				w.letGo(p, verdict{die: true})
				synctest.Wait()
			}
			time.Sleep(time.Minute) // who waits for a lock gives up
			continue
		case len(parked) == 0:
			if idle++; idle > 60_000 {
				w.violated("ends", "nobody goes on any more")
			}
			time.Sleep(time.Millisecond)
			continue
		}
		idle = 0
		// Whose turn it was goes on where the tape is dull.
		if i := slices.Index(parked, w.turn); i > 0 {
			parked[0], parked[i] = parked[i], parked[0]
		}
		p := parked[w.tape.Next(len(parked))]
		w.turn = p
		if w.program.Trace && p.mortal {
			w.tell("  %s: %s %s%s", p.name, p.at.Op, p.at.What, after(p.at))
		}
		w.letGo(p, w.fate(p))
		time.Sleep(20 * time.Microsecond)
	}
}

func (w *World) letGo(p *Process, v verdict) {
	p.mu.Lock()
	p.parked = false
	p.mu.Unlock()
	p.wake <- v
}

// fate is what becomes of a process at its boundary.
func (w *World) fate(p *Process) verdict {
	if w.kill != nil && w.kill(p) {
		w.killed()
		return verdict{die: true}
	}
	if w.calm || !p.mortal || p.at.Op == "begin" {
		return verdict{}
	}
	if w.tape.Rarely(100) {
		w.tell("%s is killed at: %s %s%s", p.name, p.at.Op, p.at.What, after(p.at))
		if w.hiding() { // a guest that ends before this is resumed leaves its VF as it was
			for n := range w.Kernel.VFs {
				w.residue[n] = true
			}
		}
		return verdict{die: true}
	}
	if !p.at.After && w.tape.Rarely(128) {
		w.tell("%s: %s %s fails", p.name, p.at.Op, p.at.What)
		p.faulted, p.blind = true, p.blind || !p.at.Journal
		return verdict{err: errInjected}
	}
	return verdict{}
}

func after(p Point) string {
	if p.After {
		return ", done"
	}
	return ""
}

// run runs a program as a process and waits for it.
func (w *World) run(p *Process, name string, d *Domain, f func(p *Process) error) (*Process, error) {
	err := errKilled
	child := w.spawn(name, d, true, func(p *Process) { err = f(p) })
	<-child.ended
	if child.killed {
		err = errKilled
	}
	_ = p.gate(Point{Op: "go on after", What: name})
	return child, err
}

// hook is one call of the hook for a domain. A host on which it is not installed yet
// calls nothing.
func (w *World) hook(p *Process, d *Domain, op string, xml string) (string, error) {
	if !w.installed {
		return "", nil
	}
	var out string
	d.inHook = true
	child, err := w.run(p, d.Name+"."+op, d, func(p *Process) (err error) {
		out, err = w.program.Hook(context.Background(), p, Call{Domain: d.Name, UUID: d.UUID, Op: op, XML: xml})
		return err
	})
	d.inHook, d.called = false, child
	d.excused = d.excused || child.killed || child.faulted
	if err != nil {
		w.tell("%s.%s: %v", d.Name, op, err)
	} else {
		w.tell("%s.%s", d.Name, op)
	}
	return out, err
}

// alive answers gc as libvirt does: not while a hook of the domain runs.
func (w *World) alive(p *Process) func(ctx context.Context, uuid string) (bool, error) {
	return func(ctx context.Context, uuid string) (bool, error) {
		for {
			if err := p.gate(Point{Op: "ask libvirt for", What: uuid}); err != nil {
				return false, err
			}
			d := w.byUUID(uuid)
			if d == nil {
				return false, nil
			}
			if !d.inHook {
				return d.State != Shut, nil
			}
			select {
			case <-ctx.Done():
				return false, errors.Join(ctx.Err(), p.gate(Point{Op: "give up on", What: uuid}))
			case <-time.After(time.Millisecond):
			}
		}
	}
}

func (w *World) byUUID(uuid string) *Domain {
	for _, d := range w.Domains {
		if d.UUID == uuid {
			return d
		}
	}
	return nil
}
