package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	fastjson "github.com/segmentio/encoding/json"

	"libvirt-direct/vdp"
)

// requestTimeout bounds a request whose context has no deadline. vdpd itself
// gives up after 30 s.
const requestTimeout = 35 * time.Second

// maxReply is the longest line. vdpd puts some thousand VSIs into one, which
// with most filters have 4 KiB each.
const maxReply = 16 << 20

// A Client asks the vdpd that listens at a socket. It has no connection of its
// own and is safe for concurrent use. Its errors are *OpError.
type Client struct {
	path  string
	owner Owner
}

// NewClient returns a client; an empty path is DefaultPath.
func NewClient(path string) *Client {
	if path == "" {
		path = DefaultPath
	}
	return &Client{path: path}
}

// For returns a client whose VSIs are an owner's: OwnerHand or OwnerHook.
func (c *Client) For(o Owner) *Client { return &Client{path: c.path, owner: o} }

// Status returns the uplinks, in the order of vdpd's configuration.
func (c *Client) Status(ctx context.Context) ([]Uplink, error) {
	r, err := c.do(ctx, Request{Op: OpStatus})
	return r.Uplinks, err
}

// Ready returns nil if the switch on an uplink takes requests. Otherwise it
// says why not: ErrNoDaemon, ErrUnknownUplink, ErrNoInterface, vdp.ErrNoLink
// or vdp.ErrNoEVB. It does not wait.
func (c *Client) Ready(ctx context.Context, uplink string) error {
	uplinks, err := c.Status(ctx)
	if err != nil {
		return err
	}
	err = ErrUnknownUplink
	for _, u := range uplinks {
		if u.Name == uplink || u.Device == uplink {
			if u.Error == nil {
				return nil
			}
			err = u.Error
		}
	}
	return &OpError{Op: "use 802.1Qbg", Uplink: uplink, Err: err}
}

// List returns the VSIs of an uplink, or of all with an empty name.
func (c *Client) List(ctx context.Context, uplink string) ([]VSIStatus, error) {
	r, err := c.do(ctx, Request{Op: OpList, Uplink: uplink})
	return r.VSIs, err
}

// Show returns what vdpd holds of one VSI: one entry, unless several uplinks
// have it. It fails with vdp.ErrUnknownVSI.
func (c *Client) Show(ctx context.Context, id vdp.ID) ([]VSIStatus, error) {
	r, err := c.do(ctx, Request{Op: OpShow, ID: id.String()})
	return r.VSIs, err
}

// Associate associates a VSI and returns it as it is in force, with the VID
// that the switch chose where it was 0. A refusal is a *vdp.RefusedError. With
// ErrTimeout, or if the context ends, vdpd goes on: call DeAssociate.
func (c *Client) Associate(ctx context.Context, uplink string, v vdp.VSI) (vdp.VSI, error) {
	return c.request(ctx, uplink, vdp.Associate, v)
}

// PreAssociate lets the switch check a VSI that is to be associated later.
func (c *Client) PreAssociate(ctx context.Context, uplink string, v vdp.VSI) (vdp.VSI, error) {
	return c.request(ctx, uplink, vdp.PreAssociate, v)
}

// PreAssociateRR is PreAssociate with reservation of resources.
func (c *Client) PreAssociateRR(ctx context.Context, uplink string, v vdp.VSI) (vdp.VSI, error) {
	return c.request(ctx, uplink, vdp.PreAssociateRR, v)
}

func (c *Client) request(ctx context.Context, uplink string, m vdp.Mode, v vdp.VSI) (vdp.VSI, error) {
	w := FromVDP(&v)
	r, err := c.do(ctx, Request{Op: m.String(), Uplink: uplink, VSI: &w, Owner: c.owner})
	if c.owner != "" && errors.Is(err, ErrBadRequest) {
		// A vdpd that has not been restarted since its upgrade knows no owners.
		r, err = c.do(ctx, Request{Op: m.String(), Uplink: uplink, VSI: &w})
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = c.overdue(ctx, &OpError{Op: m.String(), Uplink: uplink, VSI: v.ID, Err: err})
	}
	if err != nil {
		return vdp.VSI{}, err
	}
	if r.VSI == nil {
		return vdp.VSI{}, &OpError{Op: m.String(), Uplink: uplink, VSI: v.ID, Err: ErrMalformed}
	}
	if v, err = r.VSI.VDP(); err != nil {
		err = &OpError{Op: m.String(), Uplink: uplink, VSI: v.ID, Err: fmt.Errorf("%w: %w", ErrMalformed, err)}
	}
	return v, err
}

// overdue says of a request that got no answer in the caller's time what vdpd waits for: for
// the switch, as long as vdpd itself answers.
func (c *Client) overdue(ctx context.Context, e *OpError) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	var why *OpError
	switch err := c.Ready(ctx, e.Uplink); {
	case err == nil:
		e.Err = fmt.Errorf("%w: %w", ErrTimeout, context.DeadlineExceeded)
	case errors.As(err, &why) && !errors.Is(err, context.DeadlineExceeded):
		e.Err = fmt.Errorf("%w: %w", ErrTimeout, why.Err)
	}
	return e
}

// DeAssociate takes a VSI back; of an empty uplink's name, wherever it is. A
// switch that does not answer is no error. It fails with vdp.ErrUnknownVSI.
func (c *Client) DeAssociate(ctx context.Context, uplink string, id vdp.ID) error {
	_, err := c.do(ctx, Request{Op: vdp.DeAssociate.String(), Uplink: uplink, ID: id.String()})
	return err
}

func (c *Client) do(ctx context.Context, r Request) (Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	reply, err := c.exchange(ctx, r)
	if err == nil && reply.Error != nil {
		err = reply.Error
	}
	if err != nil {
		return reply, r.opError(err)
	}
	return reply, nil
}

func (r *Request) opError(err error) error {
	e := &OpError{Op: r.Op, Uplink: r.Uplink, Err: err}
	if r.ID != "" {
		e.VSI, _ = vdp.ParseUUID(r.ID) // an unreadable one is in err
	}
	if r.VSI != nil {
		e.VSI, _ = vdp.ParseUUID(r.VSI.ID)
	}
	return e
}

func (c *Client) exchange(ctx context.Context, r Request) (Reply, error) {
	s, err := c.open(ctx, r)
	if err != nil {
		return Reply{}, err
	}
	defer s.Close()
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	reply, err := s.read()
	for all := reply.VSIs; err == nil && reply.More; reply.VSIs = all {
		if reply, err = s.read(); err == nil && reply.Error == nil {
			all = append(all, reply.VSIs...)
		}
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("vdpd did not answer: %w", ctx.Err())
	}
	return reply, err
}

// A Subscription is a stream of events.
type Subscription struct {
	conn net.Conn
	scan *bufio.Scanner
}

// Subscribe returns the events from now on, of all uplinks. The context bounds
// the opening only.
func (c *Client) Subscribe(ctx context.Context) (*Subscription, error) {
	r := Request{Op: OpSubscribe}
	s, err := c.open(ctx, r)
	if err != nil {
		return nil, r.opError(err)
	}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	reply, err := s.read()
	if err == nil && reply.Error != nil {
		err = reply.Error
	}
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		s.Close()
		return nil, r.opError(err)
	}
	return s, nil
}

// Next waits for an event. It fails with ErrOverflow if events were lost, with
// ErrNoDaemon when vdpd ends and with net.ErrClosed after Close.
func (s *Subscription) Next() (Event, error) {
	r, err := s.read()
	switch {
	case err != nil:
		return Event{}, err
	case r.Error != nil:
		return Event{}, r.Error
	case r.Event == nil:
		return Event{}, fmt.Errorf("%w: no event", ErrMalformed)
	}
	return *r.Event, nil
}

// Close ends the subscription.
func (s *Subscription) Close() error { return s.conn.Close() }

func (c *Client) open(ctx context.Context, r Request) (*Subscription, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, ErrNoDaemon
	case errors.Is(err, fs.ErrPermission):
		return nil, ErrPermission
	case err != nil:
		return nil, err
	}
	b, err := json.Marshal(r)
	if err == nil {
		deadline, ok := ctx.Deadline()
		if !ok {
			deadline = time.Now().Add(requestTimeout)
		}
		if err = conn.SetWriteDeadline(deadline); err == nil {
			_, err = conn.Write(append(b, '\n'))
		}
	}
	// Who is refused at once may be written to no more, and read from.
	if err != nil && !errors.Is(err, syscall.EPIPE) {
		conn.Close()
		return nil, err
	}
	s := &Subscription{conn: conn, scan: bufio.NewScanner(conn)}
	s.scan.Buffer(nil, maxReply)
	return s, nil
}

func (s *Subscription) read() (Reply, error) {
	var r Reply
	if !s.scan.Scan() {
		err := s.scan.Err()
		switch {
		case err == nil, errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
			return r, fmt.Errorf("vdpd closed the connection: %w", ErrNoDaemon)
		case errors.Is(err, os.ErrClosed), errors.Is(err, net.ErrClosed):
			return r, net.ErrClosed
		}
		return r, err
	}
	// Keys of a later version are no reason to fail. A list may be of 64,000 VSIs,
	// which package encoding/json takes three times as long for.
	if err := fastjson.Unmarshal(s.scan.Bytes(), &r); err != nil {
		return r, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return r, nil
}
