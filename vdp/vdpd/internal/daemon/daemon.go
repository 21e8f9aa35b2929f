package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
	"libvirt-direct/vdp/vdpd/internal/uplink"
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
	saver *saver

	links    *linkTable
	evidence *evidence
	wire     func(*linkInfo) (wire, error) // opens an uplink's sockets

	deadlines deadlines
	reopenAt  map[*port]time.Time // when to open an interface again, after a failure

	control     *controlSocket
	watchers    map[*watcher]watcher // one for each request that waits for the switch
	subscribers map[subscriber]struct{}
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
	if err := d.open(); err != nil {
		nl.close()
		return nil, err
	}
	return d, nil
}

// open reads the state before it touches anything: a file that is a newer
// vdpd's, or cannot be understood, has to be left as it is, with all beside it.
func (d *Daemon) open() error {
	s, err := readState(d.cfg.StateFile)
	if err != nil {
		return err
	}
	if d.control, err = listenControl(d.cfg.ControlSocket, d.cfg.ControlGroup, d); err != nil {
		return err
	}
	if err := d.takeOver(s); err != nil {
		d.control.l.Close()
		return err
	}
	return nil
}

// takeOver makes the ports with what the last vdpd has left of them.
func (d *Daemon) takeOver(last state) error {
	// The control socket, which a group may reach, is in the same folder.
	if err := os.MkdirAll(filepath.Dir(d.cfg.StateFile), 0o755); err != nil {
		return err
	}
	ours := make(state)
	for _, u := range d.cfg.Uplinks {
		ours[u.Name] = cmp.Or(last[u.Name], new(uplinkState))
		delete(last, u.Name)
	}
	d.saver = newSaver(d.cfg.StateFile, ours, d.log)
	for _, u := range d.cfg.Uplinks {
		p := newPort(u, *ours[u.Name], d.log)
		p.saver = d.saver
		d.ports = append(d.ports, p)
	}
	d.evidence.restored(time.Now())
	for name, u := range last {
		d.log.Warn("VSIs of an uplink that is no longer configured are forgotten", "uplink", name, "vsis", len(u.vsis))
	}
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
			d.saver.written(ctx)
			return replies
		})
	}()
	go func() {
		failed <- watchLinks(ctx, d.log, func(steps []linkStep) {
			d.do(ctx, func(now time.Time) { d.linkSteps(ctx, now, steps) })
		})
	}()
	go d.saver.run()
	defer func() {
		d.saver.close()
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
		case <-timer.C:
			now := time.Now()
			d.tick(now)
			d.reopen(ctx, now)
			d.evidence.judge(ctx, now)
		}
		timer.Reset(d.wait(time.Now()))
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

// tick does what is due.
func (d *Daemon) tick(now time.Time) {
	for at, p := d.deadlines.next(); p != nil && !now.Before(at); at, p = d.deadlines.next() {
		d.apply(now, p, p.tick(now))
		if again, next := d.deadlines.next(); next == p && !now.Before(again) {
			d.deadlines.set(p, now.Add(1)) // it has had its turn
		}
	}
}

// wait returns how long there is nothing to do.
func (d *Daemon) wait(now time.Time) time.Duration {
	w := time.Minute
	if at, p := d.deadlines.next(); p != nil {
		w = min(w, at.Sub(now))
	}
	if t := d.nextLook(); !t.IsZero() {
		w = min(w, t.Sub(now))
	}
	return max(w, 0)
}

// apply sends frames, records events and takes note of when the port is due
// next. It follows whatever was done with the port.
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
	noEVB := sync.OnceValue(func() error { return p.explain(now, vdp.ErrNoEVB) }) // all VSIs may end of it
	for i := range out.Events {
		e := &out.Events[i]
		if errors.Is(e.Err, vdp.ErrNoEVB) {
			e.Err = noEVB()
		} else if errors.Is(e.Err, vdp.ErrNoAnswer) {
			e.Err = p.explain(now, e.Err)
		}
		indicate := p.event(now, e)
		d.evidence.event(now, p, e)
		d.publish(p, e)
		if indicate != nil {
			// Whoever asked for the VSI may be gone; we restore it anyway.
			_ = d.nl.send(vdpnl.Deassociated(*indicate, d.nl.pid, int32(p.ifindex), p.cfg.Name, &e.VSI), indicate.Pid)
		}
	}
	d.deadlines.set(p, p.next())
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
			d.apply(now, p, out)
			replies = append(replies, vdpnl.Ack(r.Header, d.nl.pid, errno))
		default:
			p.results.expire(now)
			replies = append(replies, vdpnl.Status(r.Header, d.nl.pid, int32(p.ifindex), p.results.ports())...)
		}
	}
	return replies
}

// frames handles what has passed a port. Vfs are the addresses of its VFs.
func (d *Daemon) frames(now time.Time, p *port, f uplink.Frames, vfs []vdp.MAC) {
	for _, sent := range f.Sent {
		p.st.Sent(now, sent)
	}
	if f.Missed {
		p.st.Missed(now)
	}
	for _, arrived := range f.Arrived {
		count(&p.received, arrived)
		if slices.Contains(vfs, source(arrived)) {
			p.log.Debug("frame ignored", "err", errOwnVF)
			continue
		}
		d.frame(now, p, arrived)
	}
}

// source is the source address of a frame, zero if it has none.
func source(frame []byte) (m vdp.MAC) {
	if len(frame) >= 2*len(m) {
		m = vdp.MAC(frame[len(m):])
	}
	return m
}

func (d *Daemon) frame(now time.Time, p *port, f []byte) {
	out, err := p.st.Handle(now, f)
	if errors.Is(err, vdp.ErrEcho) {
		p.echoes++
	}
	if err != nil {
		p.log.Debug("frame ignored", "err", err)
	}
	if foreign := errors.Is(err, vdp.ErrForeign); err == nil || foreign {
		p.heard.take(now, f, foreign)
	}
	d.apply(now, p, out)
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
				vsis, _ := p.st.Count()
				n += vsis
			}
		}
		return n
	}
	deadline, timer := time.NewTimer(stopTimeout), time.NewTimer(0)
	defer deadline.Stop()
	defer timer.Stop()
	// Not after each frame: it takes a look at every VSI.
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for more := left() > 0; more; timer.Reset(d.wait(time.Now())) {
		select {
		case f := <-d.work:
			f(time.Now())
		case <-timer.C:
			d.tick(time.Now())
		case <-look.C:
			more = left() > 0
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
