package daemon

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
)

const (
	// maxClients bounds the connections to the control socket.
	maxClients = 64
	// maxPending is how many events may wait for a subscriber: more than a
	// full port loses at once.
	maxPending = 8192

	// idleTimeout bounds the time from one request of a client to the next,
	// and writeTimeout how long it may leave a line of an answer in the socket.
	idleTimeout  = 30 * time.Second
	writeTimeout = 5 * time.Second
	// resultTimeout bounds the wait for the switch. A VSI that has to be
	// de-associated before it is associated needs 25 s with the usual
	// exponents, if the switch is silent.
	resultTimeout = 30 * time.Second
)

// A controlSocket answers the clients of package control.
type controlSocket struct {
	d       *Daemon
	log     *slog.Logger
	l       *net.UnixListener
	gid     int // of the group that has access; -1 for none
	clients chan struct{}

	writeTimeout time.Duration
}

// listenControl opens the socket for root and a group, which may be empty.
func listenControl(path, group string, d *Daemon) (*controlSocket, error) {
	gid := -1
	if group != "" {
		g, err := user.LookupGroup(group)
		if err != nil {
			return nil, fmt.Errorf("%w: control_group: %w", ErrConfig, err)
		}
		if gid, err = strconv.Atoi(g.Gid); err != nil {
			return nil, fmt.Errorf("%w: control_group: %w", ErrConfig, err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	// A socket is left behind by a crash.
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, fmt.Errorf("%w: it listens on %s", ErrRival, path)
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	// Whoever connects before this is checked all the same, in allowed.
	if gid >= 0 {
		err = os.Chown(path, -1, gid)
	}
	if err == nil {
		err = os.Chmod(path, map[bool]os.FileMode{true: 0o660, false: 0o600}[gid >= 0])
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return &controlSocket{d: d, log: d.log, l: l, gid: gid, clients: make(chan struct{}, maxClients), writeTimeout: writeTimeout}, nil
}

// serve accepts clients until ctx is done, or the socket fails.
func (s *controlSocket) serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.l.Close() })
	defer stop()
	for {
		c, err := s.l.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ECONNABORTED):
			time.Sleep(100 * time.Millisecond)
			continue
		case err != nil:
			return fmt.Errorf("control socket: %w", err)
		}
		client := &client{s: s, c: c}
		select {
		case s.clients <- struct{}{}:
			go func() {
				defer func() { <-s.clients }()
				client.serve(ctx)
			}()
		default:
			client.refuse(control.ErrOverflow)
			c.Close()
		}
	}
}

// A client is one connection.
type client struct {
	s       *controlSocket
	c       *net.UnixConn
	pid     int32
	dropped bool
}

func (c *client) serve(ctx context.Context) {
	defer c.c.Close()
	stop := context.AfterFunc(ctx, func() { c.c.Close() })
	defer stop()
	var err error
	if c.pid, err = c.s.allowed(c.c); err != nil {
		c.s.log.Warn("control client refused", "err", err)
		c.refuse(control.ErrPermission)
		return
	}
	lines := bufio.NewScanner(c.c)
	lines.Buffer(nil, control.MaxRequest+1)
	for {
		if c.c.SetReadDeadline(time.Now().Add(idleTimeout)) != nil || !lines.Scan() {
			if errors.Is(lines.Err(), bufio.ErrTooLong) {
				c.refuse(fmt.Errorf("%w: longer than %d octets", control.ErrBadRequest, control.MaxRequest))
			}
			return
		}
		r, err := control.ParseRequest(lines.Bytes())
		if err != nil {
			c.refuse(err)
			return
		}
		if r.Op == control.OpSubscribe {
			c.subscribe(ctx)
			return
		}
		if r.Op == control.OpList {
			err = c.list(ctx, r.Uplink)
		} else {
			err = c.answer(ctx, &r)
		}
		if err != nil {
			return
		}
	}
}

// answer and list fail if the answer could not be sent.
func (c *client) answer(ctx context.Context, r *control.Request) error {
	reply, err := c.s.d.controlRequest(ctx, r)
	if err != nil {
		reply = control.Reply{Error: control.NewError(err)}
	}
	return c.write(reply)
}

func (c *client) list(ctx context.Context, uplink string) error {
	if err := c.s.d.knows(ctx, uplink); err != nil {
		return c.write(control.Reply{Error: control.NewError(err)})
	}
	return c.s.d.list(ctx, uplink, func(vsis []control.VSIStatus, more bool) error {
		return c.write(control.Reply{VSIs: vsis, More: more})
	})
}

// drop logs, once, that the connection ends because of its client.
func (c *client) drop(why string) {
	if !c.dropped {
		c.dropped = true
		c.s.log.Warn("control client dropped: "+why, "pid", c.pid)
	}
}

func (c *client) refuse(err error) {
	_ = c.write(control.Reply{Error: control.NewError(err)}) // the end is near anyway
}

func (c *client) write(r control.Reply) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return c.send(append(b, '\n'))
}

func (c *client) send(line []byte) error {
	err := c.c.SetWriteDeadline(time.Now().Add(c.s.writeTimeout))
	if err == nil {
		_, err = c.c.Write(line)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.drop("it does not read its answers")
	}
	return err
}

// subscribe sends events until the client goes away or does not keep up.
func (c *client) subscribe(ctx context.Context) {
	events := make(subscriber, maxPending)
	c.s.d.do(ctx, func(time.Time) { c.s.d.subscribe(events) })
	defer c.s.d.do(ctx, func(time.Time) { delete(c.s.d.subscribers, events) })
	if c.write(control.Reply{}) != nil {
		return
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_ = c.c.SetReadDeadline(time.Time{})
		var b [1]byte
		_, _ = c.c.Read(b[:]) // anything it says ends the subscription, too
	}()
	for {
		select {
		case e, ok := <-events:
			if !ok {
				c.drop("it does not read its events")
				c.refuse(control.ErrOverflow)
				return
			}
			if c.write(control.Reply{Event: e}) != nil {
				return
			}
		case <-gone:
			return
		}
	}
}

// A watcher is called in Run's goroutine with each event, after the port has
// taken note of it, until it returns false. It must not wait.
type watcher func(p *port, e *vdp.Event) bool

// A subscriber has room for the events that wait for it, which are shared. It
// is closed by Run's goroutine when there is none left.
type subscriber chan *control.Event

func (d *Daemon) subscribe(s subscriber) {
	if d.subscribers == nil {
		d.subscribers = make(map[subscriber]struct{})
	}
	d.subscribers[s] = struct{}{}
}

func (d *Daemon) publish(p *port, e *vdp.Event) {
	for key, w := range d.watchers {
		if !w(p, e) {
			delete(d.watchers, key)
		}
	}
	if len(d.subscribers) == 0 {
		return
	}
	out := controlEvent(p, e)
	for s := range d.subscribers {
		select {
		case s <- &out:
		default:
			delete(d.subscribers, s)
			close(s)
		}
	}
}

// knows refuses the name of an uplink that is not ours; an empty one is all.
func (d *Daemon) knows(ctx context.Context, uplink string) error {
	if uplink == "" || slices.ContainsFunc(d.cfg.Uplinks, func(u Uplink) bool { return u.Name == uplink }) {
		return nil
	}
	known := false // by another name than the configured one
	d.do(ctx, func(time.Time) { known = d.named(uplink) != nil })
	switch {
	case ctx.Err() != nil: // the closure may run yet
		return ctx.Err()
	case !known:
		return control.ErrUnknownUplink
	}
	return nil
}

func (d *Daemon) controlRequest(ctx context.Context, r *control.Request) (reply control.Reply, err error) {
	if err := d.knows(ctx, r.Uplink); err != nil {
		return reply, err
	}
	switch r.Op {
	case control.OpStatus:
		reply.Uplinks, err = d.status(ctx)
		return reply, err
	case control.OpShow:
		id, err := vdp.ParseUUID(r.ID)
		if err != nil {
			return reply, err
		}
		d.do(ctx, func(time.Time) { reply.VSIs = d.show(r.Uplink, id) })
		if ctx.Err() == nil && len(reply.VSIs) == 0 {
			return reply, vdp.ErrUnknownVSI
		}
		return reply, ctx.Err()
	}
	m, err := vdp.ParseMode(r.Op)
	if err != nil {
		return reply, err
	}
	v, err := d.change(ctx, r, m)
	if err == nil && m != vdp.DeAssociate {
		w := control.FromVDP(&v)
		reply.VSI = &w
	}
	return reply, err
}

// change asks the switch for a mode, and waits for what comes of it.
func (d *Daemon) change(ctx context.Context, r *control.Request, m vdp.Mode) (vdp.VSI, error) {
	var (
		v   vdp.VSI
		err error
	)
	if m == vdp.DeAssociate {
		v.ID, err = vdp.ParseUUID(r.ID)
	} else {
		v, err = r.VSI.VDP()
	}
	if err != nil {
		return v, err
	}
	a, err := d.ask(ctx, r.Uplink, m, v, cmp.Or(r.Owner, control.OwnerHand))
	if err != nil {
		return v, err
	}
	return d.await(ctx, a)
}

// An outcome is what came of a request: the VSI as the switch has granted it, or why not.
// A VSI that was to go, and is gone, is neither.
type outcome struct {
	vsi vdp.VSI
	err error
}

// asked is a request that a station has taken.
type asked struct {
	outcome chan outcome // has room for the only one that is sent
	key     *watcher     // who sends it, among Daemon.watchers
}

// ask passes a request to the station of the port that it is for. An error is the station's,
// which has not taken it then, or ctx's.
func (d *Daemon) ask(ctx context.Context, uplink string, m vdp.Mode, v vdp.VSI, owner control.Owner) (asked, error) {
	a := asked{outcome: make(chan outcome, 1), key: new(watcher)}
	var refused error
	d.do(ctx, func(now time.Time) {
		on := d.holder(uplink, v.ID, m)
		if on == nil {
			refused = vdp.ErrUnknownVSI
			return
		}
		d.watchers[a.key] = watchFor(v.ID, on, m, a.outcome) // before the request: its answer may be immediate
		out, done, err := on.ask(now, m, v)
		if refused = err; err != nil || done {
			delete(d.watchers, a.key)
		}
		if err == nil && m != vdp.DeAssociate {
			d.evidence.asked(now, on, v.ID, owner)
		}
		if done {
			a.outcome <- outcome{}
		}
		on.log.Info("control request", "vsi", v.ID, "mode", m, "err", err)
		d.apply(now, on, out)
	})
	if ctx.Err() != nil { // the closure may run yet: refused must not be read
		return a, ctx.Err()
	}
	return a, refused
}

// watchFor returns a watcher that waits for the end of a request for a mode of a VSI on a
// port. It sends one outcome, which to must have room for, and watches no longer.
func watchFor(id vdp.ID, on *port, m vdp.Mode, to chan<- outcome) watcher {
	return func(p *port, e *vdp.Event) bool {
		if p != on || e.VSI.ID != id {
			return true
		}
		end, ended := outcomeOf(p, e, m)
		if ended {
			to <- end
		}
		return !ended
	}
}

// outcomeOf says whether an event ends the request for a mode of its VSI, and how.
func outcomeOf(p *port, e *vdp.Event, m vdp.Mode) (end outcome, ended bool) {
	leaves := m == vdp.DeAssociate
	switch e.Type {
	case vdp.EventEstablished:
		return outcome{vsi: e.VSI}, !leaves
	case vdp.EventFailed:
		return outcome{err: e.Err}, !leaves
	case vdp.EventRemoved:
		if _, again := p.st.VSI(e.VSI.ID); again {
			return outcome{}, false // made way for what was asked for now
		}
		if leaves {
			return outcome{}, true
		}
		return outcome{err: vdp.ErrUnknownVSI}, true
	}
	return outcome{}, false
}

// await waits for what comes of a request, for at most resultTimeout. The station goes on
// with one that nobody awaits any more.
func (d *Daemon) await(ctx context.Context, a asked) (vdp.VSI, error) {
	timer := time.NewTimer(resultTimeout)
	defer timer.Stop()
	select {
	case end := <-a.outcome:
		d.saver.written(ctx)
		return end.vsi, end.err
	case <-timer.C:
		d.do(ctx, func(time.Time) { delete(d.watchers, a.key) })
		return vdp.VSI{}, control.ErrTimeout
	case <-ctx.Done():
		return vdp.VSI{}, ctx.Err()
	}
}

// holder finds the port of a request: by name, or the one that has the VSI.
func (d *Daemon) holder(uplink string, id vdp.ID, m vdp.Mode) *port {
	named := d.named(uplink)
	for _, p := range d.ports {
		if uplink != "" && p != named {
			continue
		}
		if m != vdp.DeAssociate || p.has(id) {
			return p
		}
	}
	return nil
}
