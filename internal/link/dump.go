package link

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// dump sends a request with NLM_F_DUMP and returns the payloads of all replies.
//
// The kernel is told to apply what the request asks for as a filter
// (NETLINK_GET_STRICT_CHK, Linux 4.20), so that a dump about one interface costs the
// same however many there are. A kernel without it answers with everything: callers
// look at each reply again. A dump that the kernel marks as interrupted
// (NLM_F_DUMP_INTR), since something changed meanwhile, is repeated until ctx ends: such an
// answer lacks entries, or has them twice.
//
// The error is the kernel's errno, ErrMalformed, or context.DeadlineExceeded.
func (c *Conn) dump(ctx context.Context, req *nl.NetlinkRequest) ([][]byte, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	at, _ := ctx.Deadline()
	fd := c.sock.GetFd()
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	req.Flags |= unix.NLM_F_REQUEST | unix.NLM_F_DUMP
	return untilWhole(ctx, func() (a dumpAnswer, err error) {
		req.Seq = atomic.AddUint32(&c.req[unix.NETLINK_ROUTE].Seq, 1)
		if err := unix.Sendto(fd, req.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return a, err
		}
		for err == nil && !a.done {
			var b []byte
			if b, err = receive(fd, at); err == nil {
				err = a.add(b, req.Seq)
			}
		}
		return a, err
	})
}

// untilWhole asks until the answer is no interrupted one.
func untilWhole(ctx context.Context, ask func() (dumpAnswer, error)) ([][]byte, error) {
	for ctx.Err() == nil {
		switch a, err := ask(); {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return nil, err
		case !a.interrupted:
			return a.payloads, nil
		}
	}
	return nil, fmt.Errorf("it changed again and again: %w", context.DeadlineExceeded)
}

// dumpAnswer is what has come of the answer to one dump request.
type dumpAnswer struct {
	payloads    [][]byte
	interrupted bool
	done        bool
}

// add reads one datagram; messages with another sequence number are passed over.
func (a *dumpAnswer) add(b []byte, seq uint32) error {
	for len(b) >= unix.SizeofNlMsghdr && !a.done {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return fmt.Errorf("%w: message of %d octets in %d", ErrMalformed, size, len(b))
		}
		typ, flags := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:])
		if data := b[unix.SizeofNlMsghdr:size]; binary.NativeEndian.Uint32(b[8:]) == seq {
			a.interrupted = a.interrupted || flags&unix.NLM_F_DUMP_INTR != 0
			switch {
			case typ == unix.NLMSG_ERROR:
				if err := errnoOf(data, flags); err != nil {
					return err
				}
				a.done = true
			case typ == unix.NLMSG_DONE:
				// The errno alone; there may be none.
				if len(data) >= 4 {
					if err := errnoOf(data[:4], 0); err != nil {
						return err
					}
				}
				a.done = true
			default:
				a.payloads = append(a.payloads, data)
			}
		}
		b = b[min(len(b), (size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
	}
	return nil
}

// family is a message that consists of an address family alone, struct rtgenmsg.
type family uint8

func (f family) Len() int { return 4 }

func (f family) Serialize() []byte { return []byte{byte(f), 0, 0, 0} }

// notFound reports that a link has gone, by the errnos of look-ups and of dumps.
func notFound(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, ErrNotFound)
}
