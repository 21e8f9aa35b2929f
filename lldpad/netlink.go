package lldpad

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/mdlayher/socket"
	"golang.org/x/sys/unix"

	"libvirt-direct/internal/poll"
	"libvirt-direct/vdp"
	"libvirt-direct/vdp/vdpnl"
)

const (
	pollInterval = 50 * time.Millisecond
	// A reply is at most 4096 octets (vdpnl.c), about 90 VSIs; lldpad drops
	// the others.
	maxReply = 8192
)

// A netlinkConn asks lldpad over rtnetlink, as libvirt does.
type netlinkConn struct {
	sock *socket.Conn
	mu   sync.Mutex // one request at a time
	seq  uint32
}

func openNetlink() (*netlinkConn, error) {
	sock, err := socket.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE, "rtnetlink", nil)
	if err != nil {
		return nil, err
	}
	if err := sock.Bind(&unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		sock.Close()
		return nil, err
	}
	return &netlinkConn{sock: sock}, nil
}

// roundTrip sends a request to lldpad's port id and returns the answer. Errors
// that lldpad answers with are in the Reply.
func (c *netlinkConn) roundTrip(ctx context.Context, pid uint32, r vdpnl.Request) (vdpnl.Reply, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// lldpad does not answer a message that it does not know.
	ctx, cancel := context.WithTimeout(ctx, replyTimeout)
	defer cancel()
	c.seq++
	r.Seq = c.seq
	err := c.sock.Sendto(ctx, r.Marshal(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: pid})
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return vdpnl.Reply{}, fmt.Errorf("%w: %w", ErrNoDaemon, err)
	case errors.Is(err, unix.EPERM):
		return vdpnl.Reply{}, fmt.Errorf("%w: rtnetlink asks for CAP_NET_ADMIN", ErrPermission)
	case err != nil:
		return vdpnl.Reply{}, netlinkError(ctx, err)
	}
	buf := make([]byte, maxReply)
	for {
		n, from, err := c.sock.Recvfrom(ctx, buf, 0)
		if err != nil {
			return vdpnl.Reply{}, netlinkError(ctx, err)
		}
		if sa, ok := from.(*unix.SockaddrNetlink); !ok || sa.Pid != pid {
			continue
		}
		reply, err := vdpnl.ParseReply(buf[:n])
		if reply.Seq != c.seq {
			continue // to a request that was given up
		}
		if err != nil {
			return vdpnl.Reply{}, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		return reply, nil
	}
}

func netlinkError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", ErrNoReply, ctx.Err())
	}
	return fmt.Errorf("rtnetlink to lldpad: %w", err)
}

// status returns what lldpad says of a port's VSIs. lldpad forgets the VSIs
// whose requests have come to an end once it has reported them: if libvirt
// waits for one, it will not find it.
func (c *netlinkConn) status(ctx context.Context, pid uint32, ifindex int) ([]vdpnl.Port, error) {
	// By its index alone: there must be no attribute (trap 10).
	r, err := c.roundTrip(ctx, pid, vdpnl.Request{Ifindex: int32(ifindex), Header: vdpnl.Header{Pid: c.port()}})
	switch {
	case err != nil:
		return nil, err
	case r.Errno == unix.ENODEV, r.Errno == unix.EINVAL:
		return nil, fmt.Errorf("%w: %w", ErrNoPort, r.Errno)
	case r.Errno != 0:
		return nil, fmt.Errorf("%w: %w", ErrRejected, r.Errno)
	}
	return r.Ports, nil
}

// port is the socket's own port id. lldpad sends the switch's de-associations
// to the port id that is in the request, whoever sent it.
func (c *netlinkConn) port() uint32 {
	sa, err := c.sock.Getsockname()
	if err == nil {
		if sa, ok := sa.(*unix.SockaddrNetlink); ok {
			return sa.Pid
		}
	}
	return 0
}

// find returns a VSI's entry. lldpad leaves out the entry behind one that it
// removes (vdp.c:vdp_status), so that only a VSI missing twice is missing
// (trap 3).
func (c *netlinkConn) find(ctx context.Context, pid uint32, ifindex int, id vdp.ID) (vdpnl.Port, bool, error) {
	for range 2 {
		ports, err := c.status(ctx, pid, ifindex)
		if err != nil {
			return vdpnl.Port{}, false, err
		}
		for _, p := range ports {
			if p.ID == id {
				return p, true, nil
			}
		}
	}
	return vdpnl.Port{}, false, nil
}

// set sends a request of the draft and waits for its result. Indications are
// to go to the port id events.
func (c *netlinkConn) set(ctx context.Context, pid, events uint32, ifindex int, ifname string, m vdp.Mode, v *vdp.VSI) error {
	if m == vdp.DeAssociate {
		// Asked to de-associate a VSI that it does not know, lldpad makes one
		// that it never removes (trap 4).
		switch _, ok, err := c.find(ctx, pid, ifindex, v.ID); {
		case err != nil:
			return err
		case !ok:
			return vdp.ErrUnknownVSI
		}
	}
	r, err := c.roundTrip(ctx, pid, vdpnl.Request{
		Header: vdpnl.Header{Pid: events}, Ifindex: int32(ifindex), Ifname: ifname, Set: &vdpnl.Set{Mode: m, VSI: *v},
	})
	if err == nil {
		err = setError(r.Errno)
	}
	if err != nil {
		return err
	}
	err = poll.Until(ctx, pollInterval, func() (bool, error) {
		p, ok, err := c.find(ctx, pid, ifindex, v.ID)
		switch {
		case err != nil:
			return false, err
		case !ok && m == vdp.DeAssociate:
			return true, nil
		case !ok:
			// After 3 s without an answer lldpad drops the VSI.
			return false, vdp.ErrNoAnswer
		case p.Done && p.Response&0xff == uint16(vdp.ReasonSuccess):
			return true, nil
		case p.Done:
			return false, &vdp.RefusedError{Edition: vdp.EditionDraft, Status: vdp.Status(p.Response)}
		}
		return false, nil
	})
	if errors.Is(err, poll.ErrGaveUp) {
		return fmt.Errorf("%w: %w", vdp.ErrNoAnswer, ctx.Err())
	}
	return err
}

// setError says what lldpad's errno means (vdpnl.c, vdp.c:vdp_request).
func setError(errno unix.Errno) error {
	var err error
	switch errno {
	case 0:
		return nil
	case unix.ENXIO:
		err = ErrWaitingForSwitch // or link down, or not configured: explain finds out
	case unix.EPROTONOSUPPORT:
		err = ErrPortNotConfigured
	case unix.ENODEV:
		err = ErrNoPort
	case unix.EBUSY:
		err = ErrBusy
	default:
		err = ErrRejected
	}
	return fmt.Errorf("%w: %w", err, errno)
}

// link asks the kernel, not lldpad, for an interface's index and whether it
// has a carrier.
func (c *netlinkConn) link(ctx context.Context, ifname string) (index int, running bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, replyTimeout)
	defer cancel()
	c.seq++
	r := vdpnl.Request{Header: vdpnl.Header{Seq: c.seq}, Ifname: ifname}
	if err := c.sock.Sendto(ctx, r.Marshal(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, false, netlinkError(ctx, err)
	}
	buf := make([]byte, maxReply)
	for {
		n, from, err := c.sock.Recvfrom(ctx, buf, 0) // only the start of the message is needed
		if err != nil {
			return 0, false, netlinkError(ctx, err)
		}
		b := buf[:n]
		if sa, ok := from.(*unix.SockaddrNetlink); !ok || sa.Pid != 0 || n < unix.SizeofNlMsghdr+4 ||
			binary.NativeEndian.Uint32(b[8:]) != c.seq {
			continue
		}
		if typ := binary.NativeEndian.Uint16(b[4:]); typ == unix.NLMSG_ERROR {
			return 0, false, fmt.Errorf("%w: %w", ErrNoPort, unix.Errno(-int32(binary.NativeEndian.Uint32(b[16:]))))
		} else if typ != unix.RTM_NEWLINK || n < unix.SizeofNlMsghdr+unix.SizeofIfInfomsg {
			continue
		}
		flags := binary.NativeEndian.Uint32(b[24:])
		return int(int32(binary.NativeEndian.Uint32(b[20:]))), flags&unix.IFF_UP != 0 && flags&unix.IFF_RUNNING != 0, nil
	}
}
