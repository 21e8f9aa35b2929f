package lldpad

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/vdpnl"
)

// pingInterval is how often an Events looks whether lldpad is still the one
// that it is attached to.
const pingInterval = 2 * time.Second

// An Events is a source of what happens to VSIs, whoever asked for them in the
// 2012 edition, and in the draft those that this client asked for.
//
// It does not show everything. In the draft, lldpad tells nobody that the
// switch has fallen silent and that the VSI is gone; Query shows it, with the
// side effect described there. A reload of lldpad (SIGHUP), which makes it
// forget all VSIs as a restart does, goes unnoticed. In the 2012 edition no event
// says on which port it was; VSI ids are unique.
type Events struct {
	client *Client
	pid    uint32
	queue  *queue[report]
	cancel func()

	lost *queue[vdp.Event]
	done chan struct{}
	once sync.Once
}

// Events opens a source of events, which must be closed.
func (c *Client) Events(ctx context.Context) (*Events, error) {
	fail := func(err error) (*Events, error) { return nil, &OpError{Op: "wait for lldpad's events", Err: err} }
	pid, err := c.conn.ping(ctx)
	if err != nil {
		return fail(err)
	}
	e := &Events{client: c, pid: pid, done: make(chan struct{})}
	var cancel, cancelLost func()
	e.queue, cancel = c.conn.events.subscribe()
	e.lost, cancelLost = c.indications.subscribe()
	e.cancel = func() { cancel(); cancelLost() }
	if err := c.conn.attach(ctx, pid); err != nil {
		e.Close()
		return fail(err)
	}
	return e, nil
}

// Close ends the source. Next then fails with ErrClosed.
func (e *Events) Close() error {
	e.once.Do(func() { e.cancel(); close(e.done) })
	return nil
}

// readIndications takes what lldpad sends by itself off its socket all the time:
// lldpad waits while the socket is full.
func (c *Client) readIndications() {
	defer close(c.done)
	buf := make([]byte, maxReply)
	for {
		n, from, err := c.indicated.sock.Recvfrom(context.Background(), buf, 0)
		if err != nil {
			return
		}
		// Not from the kernel, and from no user without CAP_NET_ADMIN, who
		// could not send to a port id.
		if sa, ok := from.(*unix.SockaddrNetlink); !ok || sa.Pid == 0 {
			continue
		}
		r, _, err := vdpnl.Parse(buf[:n])
		if err == nil && r.Set != nil && r.Set.Mode == vdp.DeAssociate {
			c.indications.put(vdp.Event{Type: vdp.EventLost, VSI: r.Set.VSI, Err: vdp.ErrBridgeDeassociated})
		}
	}
}

// Next waits for the next event. After ErrRestarted, ErrOverflow or an end of
// the context it can be called again.
func (e *Events) Next(ctx context.Context) (vdp.Event, error) {
	ping := time.NewTicker(pingInterval)
	defer ping.Stop()
	for {
		select {
		case ev := <-e.lost.ch:
			return ev, nil
		case r := <-e.queue.ch:
			return eventOf(r), nil
		case <-e.lost.lost:
			return vdp.Event{}, ErrOverflow
		case <-e.queue.lost:
			return vdp.Event{}, ErrOverflow
		case <-ping.C:
			if err := e.checkDaemon(ctx); err != nil {
				return vdp.Event{}, err
			}
		case <-e.done:
			return vdp.Event{}, ErrClosed
		case <-ctx.Done():
			return vdp.Event{}, ctx.Err()
		}
	}
}

// checkDaemon attaches to a lldpad that has taken the other's place.
func (e *Events) checkDaemon(ctx context.Context) error {
	pid, err := e.client.conn.ping(ctx)
	switch {
	case err != nil && e.pid == 0:
		return nil // said already
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		e.pid = 0
		return ErrRestarted
	case pid == e.pid:
		return nil
	}
	if err := e.client.conn.attach(ctx, pid); err != nil {
		return nil // next time
	}
	told := e.pid == 0
	e.pid = pid
	if told {
		return nil
	}
	return ErrRestarted
}

// eventOf says what an event of the 2012 edition means.
func eventOf(r report) vdp.Event {
	ev := vdp.Event{Type: vdp.EventEstablished, VSI: r.vsi, Mode: r.mode, Err: r.err()}
	switch {
	case r.result&resultKeepalive != 0:
		ev.Type = vdp.EventLost
	case ev.Err != nil:
		ev.Type = vdp.EventFailed
	case r.mode == vdp.DeAssociate:
		ev.Type = vdp.EventRemoved
	}
	return ev
}
