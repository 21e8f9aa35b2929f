package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
	"libvirt-direct/vdp/vdpnl"
)

// stopTimeout bounds a graceful stop that de-associates.
const stopTimeout = 5 * time.Second

// A Daemon is one vdpd. All its state belongs to the goroutine of Run.
type Daemon struct {
	cfg   Config
	log   *slog.Logger
	nl    *endpoint
	ports []*port
	work  chan func(now time.Time)
	dirty bool

	links    *linkTable
	evidence *evidence
	wire     func(*linkInfo) (wire, error) // opens an uplink's socket

	control  *controlSocket
	watchers map[*watcher]watcher
}

// New takes lldpad's place: it checks that nobody else has it, reads the state
// file, opens the endpoint and the control socket, and writes the pid file. The
// caller must call Run.
func New(c Config, log *slog.Logger) (*Daemon, error) {
	if len(c.Uplinks) == 0 {
		return nil, fmt.Errorf("%w: no uplink", ErrConfig)
	}
	if err := checkRival(c.PidFile); err != nil {
		return nil, err
	}
	nl, err := listen()
	if err != nil {
		return nil, err
	}
	d := &Daemon{
		cfg: c, log: log, nl: nl, work: make(chan func(time.Time), 64), watchers: make(map[*watcher]watcher),
		links: newLinkTable(), wire: openWire,
	}
	d.evidence = newEvidence(d)
	if d.control, err = listenControl(c.ControlSocket, c.ControlGroup, d); err == nil {
		if err = d.load(); err != nil {
			d.control.l.Close()
		}
	}
	if err != nil {
		nl.close()
		return nil, err
	}
	return d, nil
}

func (d *Daemon) load() error {
	// The control socket, which a group may reach, is in the same folder.
	if err := os.MkdirAll(filepath.Dir(d.cfg.StateFile), 0o755); err != nil {
		return err
	}
	s, err := readState(d.cfg.StateFile)
	if err != nil {
		return err
	}
	for _, u := range d.cfg.Uplinks {
		d.ports = append(d.ports, newPort(u, s.Uplinks[u.Name], d.log))
		delete(s.Uplinks, u.Name)
	}
	for name, u := range s.Uplinks {
		d.log.Warn("VSIs of an uplink that is no longer configured are forgotten", "uplink", name, "vsis", len(u.VSIs))
	}
	d.evidence.restored(time.Now())
	return writePid(d.cfg.PidFile)
}

// Run works until stop is done, which is not an error, or something without
// which there is no sense in going on fails.
func (d *Daemon) Run(stop context.Context) error {
	// The sources outlast stop: de-associating needs the switch's answers.
	ctx, cancel := context.WithCancel(context.WithoutCancel(stop))
	defer cancel()
	failed := make(chan error, 3)
	go func() { failed <- d.control.serve(ctx) }()
	go func() {
		failed <- d.nl.serve(ctx, func(b []byte) (replies [][]byte) {
			d.do(ctx, func(now time.Time) { replies = d.request(now, b) })
			return replies
		})
	}()
	go func() {
		failed <- watchLinks(ctx, d.log, func(steps []linkStep) {
			d.do(ctx, func(now time.Time) { d.linkSteps(ctx, now, steps) })
		})
	}()
	states, wrote, idle := make(chan state, 1), make(chan struct{}, 1), true
	go d.keepState(states, wrote)
	defer func() {
		if !idle {
			<-wrote
		}
		states <- d.state()
		close(states)
		<-wrote
		d.shut()
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-stop.Done():
			if d.cfg.Deassociate {
				d.deassociateAll()
			}
			return nil
		case err := <-failed:
			return err
		case f := <-d.work:
			f(time.Now())
		case <-wrote:
			idle = true
		case <-timer.C:
			now := time.Now()
			d.tick(now)
			d.reopen(ctx, now)
			d.evidence.judge(ctx, now)
		}
		timer.Reset(d.wait(time.Now()))
		if d.dirty && idle {
			d.dirty, idle = false, false
			states <- d.state()
		}
	}
}

// do runs f in Run's goroutine and waits for it.
func (d *Daemon) do(ctx context.Context, f func(now time.Time)) {
	done := make(chan struct{})
	select {
	case d.work <- func(now time.Time) { defer close(done); f(now) }:
	case <-ctx.Done():
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}

func (d *Daemon) tick(now time.Time) {
	for _, p := range d.ports {
		if p.st != nil {
			d.apply(now, p, p.st.Tick(now))
		}
	}
}

// wait returns how long there is nothing to do.
func (d *Daemon) wait(now time.Time) time.Duration {
	w := time.Minute
	for _, p := range d.ports {
		if p.st == nil {
			continue
		}
		if t := p.st.Next(); !t.IsZero() {
			w = min(w, t.Sub(now))
		}
	}
	if t := d.nextLook(); !t.IsZero() {
		w = min(w, t.Sub(now))
	}
	return max(w, 0)
}

// apply sends frames and records events.
func (d *Daemon) apply(now time.Time, p *port, out vdp.Output) {
	for _, f := range out.Frames {
		if p.send == nil {
			break
		}
		if err := p.send(f); err != nil {
			p.log.Warn("frame not sent", "err", err)
			break
		}
		count(&p.sent, f)
	}
	for i := range out.Events {
		e := &out.Events[i]
		dirty, indicate := p.event(now, e)
		d.dirty = d.dirty || dirty
		d.evidence.event(now, p, e)
		d.publish(p, e)
		if indicate != nil {
			// Whoever asked for the VSI may be gone; we restore it anyway.
			_ = d.nl.send(vdpnl.Deassociated(*indicate, d.nl.pid, int32(p.ifindex), p.cfg.Name, &e.VSI), indicate.Pid)
		}
	}
}

// request answers a datagram from libvirt.
func (d *Daemon) request(now time.Time, b []byte) (replies [][]byte) {
	for len(b) > 0 {
		r, rest, err := vdpnl.Parse(b)
		if err != nil && rest == nil && r.Header == (vdpnl.Header{}) {
			return replies // nothing that could be answered
		}
		b = rest
		p := d.port(r.Ifname, int(r.Ifindex))
		switch {
		case errors.Is(err, vdpnl.ErrUnknownType):
			replies = append(replies, vdpnl.Ack(r.Header, d.nl.pid, unix.EOPNOTSUPP))
		case err != nil:
			d.log.Warn("netlink request refused", "pid", r.Pid, "err", err)
			replies = append(replies, vdpnl.Ack(r.Header, d.nl.pid, unix.EINVAL))
		case p == nil:
			replies = append(replies, vdpnl.Ack(r.Header, d.nl.pid, unix.ENODEV))
		case r.Set != nil:
			out, errno := p.set(now, r.Header, r.Set)
			p.log.Info("request", "vsi", r.Set.VSI.ID, "mode", r.Set.Mode, "errno", int(errno))
			if errno == 0 && r.Set.Mode != vdp.DeAssociate {
				d.evidence.asked(now, p, r.Set.VSI.ID, control.OwnerLibvirt)
			}
			d.dirty = true
			d.apply(now, p, out)
			replies = append(replies, vdpnl.Ack(r.Header, d.nl.pid, errno))
		default:
			replies = append(replies, vdpnl.Status(r.Header, d.nl.pid, int32(p.ifindex), p.ports(now)))
		}
	}
	return replies
}

func (d *Daemon) frame(now time.Time, p *port, f []byte) {
	count(&p.received, f)
	out, err := p.st.Handle(now, f)
	if err != nil {
		p.log.Debug("frame ignored", "err", err)
	}
	d.apply(now, p, out)
}

// state returns what is to be saved.
func (d *Daemon) state() state {
	s := state{Version: stateVersion, Uplinks: make(map[string]uplinkState)}
	for _, p := range d.ports {
		s.Uplinks[p.cfg.Name] = uplinkState{Edition: p.edition, VSIs: p.sorted()}
	}
	return s
}

// keepState writes what it receives to the state file. It has a goroutine of
// its own because a disk may take longer than the switch waits for an
// acknowledgement.
func (d *Daemon) keepState(states <-chan state, wrote chan<- struct{}) {
	for s := range states {
		if err := s.write(d.cfg.StateFile); err != nil {
			d.log.Error("state not saved: a restart will not know the current VSIs", "err", err)
		}
		wrote <- struct{}{}
	}
}

// deassociateAll takes all VSIs back and waits for the switch to confirm.
func (d *Daemon) deassociateAll() {
	now := time.Now()
	for _, p := range d.ports {
		if p.st == nil {
			continue
		}
		for _, v := range p.st.VSIs() {
			if out, err := p.st.DeAssociate(now, v.VSI.ID); err == nil {
				d.apply(now, p, out)
			}
		}
	}
	left := func() (n int) {
		for _, p := range d.ports {
			if p.st != nil {
				n += len(p.st.VSIs())
			}
		}
		return n
	}
	deadline := time.NewTimer(stopTimeout)
	defer deadline.Stop()
	for left() > 0 {
		select {
		case f := <-d.work:
			f(time.Now())
		case <-time.After(d.wait(time.Now())):
			d.tick(time.Now())
		case <-deadline.C:
			d.log.Warn("stopping before the switch confirmed all", "vsis", left())
			return
		}
	}
}

func (d *Daemon) shut() {
	for _, p := range d.ports {
		if p.close != nil {
			p.close()
		}
	}
	if err := removePid(d.cfg.PidFile); err != nil {
		d.log.Warn("pid file not removed", "err", err)
	}
	d.control.l.Close()
	d.nl.close()
}
