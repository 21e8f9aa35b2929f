package lldpad

import (
	"context"
	"errors"
	"fmt"
	"time"

	"libvirt-direct/vdp"
)

const (
	// requestTimeout bounds a request whose context has no deadline. lldpad
	// itself gives up after 15.75 s by default (vdp22sm.c), later if the switch
	// asks for more.
	requestTimeout = 20 * time.Second

	// eventTimeout is how long to wait for an event before asking.
	eventTimeout = time.Second

	// retryInterval is how often to repeat what lldpad is not ready for.
	retryInterval = 100 * time.Millisecond

	// settleTimeout is how long lldpad's VDP may need to learn from its EVB
	// that the port is on.
	settleTimeout = 3 * time.Second
)

// A Client talks to the lldpad of the network namespace in which it was
// opened, also when lldpad is restarted. It is safe for concurrent use.
type Client struct {
	conn    *conn
	netlink *netlinkConn

	// indicated receives the draft's de-associations by the switch.
	indicated   *netlinkConn
	indications fanout[vdp.Event]
	done        chan struct{} // closed when indicated is no longer read
}

// Open connects to lldpad, or fails with ErrNoDaemon, ErrNoReply, ErrImpostor
// or ErrPermission. The context bounds the opening only.
func Open(ctx context.Context) (*Client, error) { return open(ctx, controlAddr, 0) }

func open(ctx context.Context, addr string, uid uint32) (*Client, error) {
	c, err := newClient(addr, uid)
	if err == nil {
		if _, err = c.conn.ping(ctx); err != nil {
			c.Close()
		}
	}
	if err != nil {
		return nil, &OpError{Op: "open lldpad", Err: err}
	}
	return c, nil
}

func newClient(addr string, uid uint32) (*Client, error) {
	// All sockets now: the caller's thread may be in another network
	// namespace later.
	c := &Client{done: make(chan struct{})}
	var err error
	if c.netlink, err = openNetlink(); err != nil {
		return nil, err
	}
	if c.indicated, err = openNetlink(); err != nil {
		return nil, errors.Join(err, c.netlink.sock.Close())
	}
	if c.conn, err = openConn(addr, uid); err != nil {
		return nil, errors.Join(err, c.netlink.sock.Close(), c.indicated.sock.Close())
	}
	go c.readIndications()
	return c, nil
}

// Close ends the connection. VSIs stay as they are.
func (c *Client) Close() error {
	err := errors.Join(c.conn.close(), c.netlink.sock.Close(), c.indicated.sock.Close())
	<-c.done
	return err
}

// Associate asks the switch, through lldpad, to associate a VSI on a port and
// waits for the answer. It returns the VSI as it is in force: a VID that the
// switch chose is filled in (2012 edition). A VSI that is associated already
// is confirmed.
//
// The error is an *OpError. Nothing is sent unless the port is ready, which
// takes no time: ErrPortNotConfigured, ErrNeedsReload, ErrWaitingForSwitch and
// ErrNoLink come at once, as does ErrRejected or a *vdp.FormatError for a VSI
// that lldpad would not take. The switch's refusal is a *vdp.RefusedError, its
// silence vdp.ErrNoAnswer, after 3 s in the draft and 15.75 s and more in the
// 2012 edition. When the context ends first, the request goes on in lldpad:
// DeAssociate.
func (c *Client) Associate(ctx context.Context, port string, v vdp.VSI) (vdp.VSI, error) {
	return c.request(ctx, port, vdp.Associate, v)
}

// PreAssociate is Associate without association: the switch checks the VSI. It
// fails with vdp.ErrDowngrade for a VSI that is further already.
func (c *Client) PreAssociate(ctx context.Context, port string, v vdp.VSI) (vdp.VSI, error) {
	return c.request(ctx, port, vdp.PreAssociate, v)
}

// PreAssociateRR is PreAssociate with reservation of resources.
func (c *Client) PreAssociateRR(ctx context.Context, port string, v vdp.VSI) (vdp.VSI, error) {
	return c.request(ctx, port, vdp.PreAssociateRR, v)
}

// DeAssociate takes a VSI back, in any of its modes, and waits while lldpad is
// busy with it. It fails with vdp.ErrUnknownVSI if lldpad does not have it.
func (c *Client) DeAssociate(ctx context.Context, port string, v vdp.VSI) error {
	_, err := c.request(ctx, port, vdp.DeAssociate, v)
	return err
}

func (c *Client) request(ctx context.Context, port string, m vdp.Mode, v vdp.VSI) (vdp.VSI, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, requestTimeout)
		defer cancel()
	}
	v, err := c.requestEdition(ctx, port, m, v)
	if err != nil {
		return vdp.VSI{}, &OpError{Op: m.String(), Port: port, VSI: v.ID, Err: err}
	}
	return v, nil
}

func (c *Client) requestEdition(ctx context.Context, port string, m vdp.Mode, v vdp.VSI) (vdp.VSI, error) {
	r, err := c.inspect(ctx, port)
	if err == nil && (m != vdp.DeAssociate || r.engine == vdp.EditionAuto) {
		err = r.err
	}
	if err == nil {
		err = checkVSI(r.engine, &v)
	}
	if err != nil {
		return v, err
	}
	if r.engine == vdp.EditionDraft {
		return v, c.netlink.set(ctx, r.pid, c.indicated.port(), r.ifindex, port, m, &v)
	}
	return c.set2012(ctx, r.pid, port, m, v)
}

// set2012 sends a request of the 2012 edition and waits for its result.
func (c *Client) set2012(ctx context.Context, pid uint32, port string, m vdp.Mode, v vdp.VSI) (vdp.VSI, error) {
	// Events come to nobody who is not attached, and name no request.
	events, cancel := c.conn.events.subscribe()
	defer cancel()
	if err := c.conn.attach(ctx, pid); err != nil {
		return v, err
	}
	old, known, err := c.find2012(ctx, port, v.ID)
	switch {
	case err != nil:
		return v, err
	case m == vdp.DeAssociate && !known:
		return v, vdp.ErrUnknownVSI
	case m == vdp.DeAssociate:
		// lldpad wants the filters as they are in force, with the switch's VID.
		v.FilterFormat, v.Filters = old.vsi.FilterFormat, old.vsi.Filters
	case known && old.mode > m && !old.pending():
		return v, vdp.ErrDowngrade
	case known && conflict(&old.vsi, &v):
		return v, ErrConflict
	case known:
		v.Filters = old.vsi.Filters
	}
	for start := time.Now(); ; {
		_, err := c.conn.do(ctx, command{
			module: moduleVDP22, verb: verbSetTLV, port: port, tlv: uint32(m), args: vsiArgs(m, &v),
			op: uint32(opConfig | opArg | opArgValue | len(v.Filters)<<opFiltersShift),
		})
		if err == nil {
			return c.wait2012(ctx, port, m, v, events)
		}
		switch {
		case errors.Is(err, ErrPortNotConfigured):
			// The port is configured; VDP is told so with the next EVB TLV.
			err = ErrWaitingForSwitch
			if time.Since(start) > settleTimeout {
				return v, err
			}
		case m == vdp.DeAssociate && errors.Is(err, ErrRejected):
			// It has gone between the look and the request.
			if _, known, ferr := c.find2012(ctx, port, v.ID); ferr == nil && !known {
				return v, nil
			}
			return v, notApplicable(err)
		case m != vdp.DeAssociate || !errors.Is(err, ErrBusy):
			return v, notApplicable(err)
		}
		// An earlier request ends in an event, if by no other than a time-out.
		select {
		case <-events.ch:
		case <-time.After(retryInterval):
		case <-ctx.Done():
			return v, fmt.Errorf("%w: %w", err, ctx.Err())
		}
		if m != vdp.DeAssociate {
			continue
		}
		if _, known, err := c.find2012(ctx, port, v.ID); err != nil || !known {
			return v, err // what failed is forgotten
		}
	}
}

// notApplicable says what lldpad means by it: its engine on the port was
// started for the other role, and is not restarted when that changes.
func notApplicable(err error) error {
	var status *StatusError
	if errors.As(err, &status) && status.Status == statusNotApplicable {
		return fmt.Errorf("%w: it still is a bridge there", ErrNeedsReload)
	}
	return err
}

// conflict reports whether lldpad, which holds old, would refuse v.
func conflict(old, v *vdp.VSI) bool {
	if old.TypeID != v.TypeID || old.TypeVersion != v.TypeVersion || old.FilterFormat != v.FilterFormat ||
		len(old.Filters) != len(v.Filters) {
		return true
	}
	for i, f := range v.Filters {
		if f.VID == 0 {
			f.VID = old.Filters[i].VID
		}
		if f != old.Filters[i] {
			return true
		}
	}
	return false
}

func (c *Client) wait2012(ctx context.Context, port string, m vdp.Mode, v vdp.VSI, events *queue[report]) (vdp.VSI, error) {
	ask := time.NewTicker(eventTimeout)
	defer ask.Stop()
	for {
		select {
		case r := <-events.ch:
			// A failure is reported as a de-association.
			if r.vsi.ID != v.ID || r.mode != m && r.mode != vdp.DeAssociate || r.pending() {
				continue
			}
			switch err := r.err(); {
			case err != nil:
				return v, err
			case r.mode == m:
				v.Filters = r.vsi.Filters
				return v, nil
			}
			return v, vdp.ErrBridgeDeassociated
		case <-ask.C:
			// The event may have been lost.
			r, known, err := c.find2012(ctx, port, v.ID)
			switch {
			case err != nil:
				return v, err
			case known && (r.mode != m || r.pending()):
			case known && r.err() == nil:
				v.Filters = r.vsi.Filters
				return v, nil
			case known:
				return v, r.err()
			case m == vdp.DeAssociate:
				return v, nil
			case len(events.ch) == 0:
				return v, vdp.ErrNoAnswer // or a refusal, but lldpad has forgotten it
			}
		case <-ctx.Done():
			return v, fmt.Errorf("%w: %w", vdp.ErrNoAnswer, ctx.Err())
		}
	}
}

// list2012 returns the VSIs of one mode; with an id, that one only.
func (c *Client) list2012(ctx context.Context, port string, m vdp.Mode, id *vdp.ID) ([]report, error) {
	cmd := command{module: moduleVDP22, verb: verbGetTLV, op: opConfig | opLocal, port: port, tlv: uint32(m)}
	if id != nil {
		cmd.op |= opArg | opArgValue
		cmd.args = []arg{{"mode", modeWords[m]}, {"uuid", id.String()}}
	}
	body, err := c.conn.do(ctx, cmd)
	if err != nil {
		return nil, err
	}
	return parseVSIs(body)
}

// find2012 returns what lldpad has of a VSI.
func (c *Client) find2012(ctx context.Context, port string, id vdp.ID) (report, bool, error) {
	for m := vdp.Associate; m >= vdp.PreAssociate; m-- {
		reports, err := c.list2012(ctx, port, m, &id)
		if err != nil {
			return report{}, false, err
		}
		for _, r := range reports {
			if r.vsi.ID == id {
				return r, true, nil
			}
		}
	}
	return report{}, false, nil
}

// Query returns the VSIs that lldpad holds on a port. The manager ids are
// left out, because lldpad does not show them unambiguously, and in the draft
// everything but the id and the state; there Mode and Have are 0.
//
// An answer of lldpad has room for about 90 VSIs in the draft, and in the 2012
// edition for about 25 of each mode; it leaves out the others without saying
// so. In the draft it forgets what it has reported as failed or gone, so that
// whoever else waits for that misses it: a libvirt that is starting a domain
// then fails to.
func (c *Client) Query(ctx context.Context, port string) ([]vdp.VSIStatus, error) {
	v, err := c.query(ctx, port)
	if err != nil {
		return nil, &OpError{Op: "query", Port: port, Err: err}
	}
	return v, nil
}

func (c *Client) query(ctx context.Context, port string) ([]vdp.VSIStatus, error) {
	r, err := c.inspect(ctx, port)
	switch {
	case err != nil:
		return nil, err
	case r.engine == vdp.EditionAuto:
		return nil, r.err
	case r.engine == vdp.Edition2012:
		return c.query2012(ctx, port)
	}
	ports, err := c.netlink.status(ctx, r.pid, r.ifindex)
	if err != nil {
		return nil, err
	}
	var out []vdp.VSIStatus
	for _, p := range ports {
		s := vdp.VSIStatus{VSI: vdp.VSI{ID: p.ID}, State: vdp.StateRequesting}
		if p.Done {
			s.State, s.Status = vdp.StateEstablished, vdp.Status(p.Response)
			if s.Status.Reason() != vdp.ReasonSuccess {
				s.State = vdp.StateLost
				s.Err = &vdp.RefusedError{Edition: vdp.EditionDraft, Status: s.Status}
			}
		}
		out = append(out, s)
	}
	return out, nil
}

func (c *Client) query2012(ctx context.Context, port string) ([]vdp.VSIStatus, error) {
	var out []vdp.VSIStatus
	for m := vdp.PreAssociate; m <= vdp.DeAssociate; m++ {
		reports, err := c.list2012(ctx, port, m, nil)
		if err != nil {
			return nil, err
		}
		for _, r := range reports {
			s := vdp.VSIStatus{VSI: r.vsi, Mode: m, State: vdp.StateRequesting, Err: r.err()}
			switch {
			case s.Err != nil:
				s.State, s.Status = vdp.StateLost, vdp.Status(r.result)
			case m == vdp.DeAssociate:
				s.State = vdp.StateWithdrawing
			case !r.pending():
				s.State, s.Have, s.Status = vdp.StateEstablished, m, vdp.Status(r.result)
			}
			out = append(out, s)
		}
	}
	return out, nil
}
