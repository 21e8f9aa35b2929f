package link

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"libvirt-direct/internal/poll"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// exchange sends one request and returns the payload of its one answer, nil for a
// bare acknowledgement. It is what do cannot be: package nl cuts an answer off at
// 64 KiB, which the VFs of one PF can exceed, and does not tell a driver's EAGAIN
// from an answer that never came. The error is the kernel's errno, with its own words
// where it has some, or context.DeadlineExceeded.
func (c *Conn) exchange(ctx context.Context, req *nl.NetlinkRequest) ([]byte, error) {
	at, ok := ctx.Deadline()
	if !ok {
		at = time.Now().Add(patience)
	}
	if ctx.Err() != nil {
		return nil, context.DeadlineExceeded
	}
	req.Seq = atomic.AddUint32(&c.req[unix.NETLINK_ROUTE].Seq, 1)
	fd := c.sock.GetFd()
	if err := unix.Sendto(fd, req.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	for {
		msg, err := receive(fd, at)
		if err != nil {
			return nil, err
		}
		if payload, mine, err := answer(msg, req.Seq); mine {
			return payload, err
		}
	}
}

// retryBusy sends a request, again while the driver says EBUSY or EAGAIN, until ctx ends.
func (c *Conn) retryBusy(ctx context.Context, req *nl.NetlinkRequest) error {
	var busy error
	err := poll.Backoff(ctx, time.Millisecond, 100*time.Millisecond, func() (bool, error) {
		_, err := c.exchange(ctx, req)
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EAGAIN) {
			busy = err
			return false, nil
		}
		return true, err
	})
	if errors.Is(err, poll.ErrGaveUp) || busy != nil && errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w until the deadline", busy)
	}
	return err
}

// receive returns one datagram from the kernel, whole.
func receive(fd int, at time.Time) ([]byte, error) {
	for {
		wait := time.Until(at)
		if wait <= 0 {
			return nil, fmt.Errorf("the kernel did not answer: %w", context.DeadlineExceeded)
		}
		// Most answers are there when the request has been sent.
		size, _, err := unix.Recvfrom(fd, nil, unix.MSG_PEEK|unix.MSG_TRUNC|unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			if _, err := unix.Poll(ready, int(wait.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
				return nil, err
			}
			continue
		}
		if err == nil {
			b := make([]byte, size)
			var from unix.Sockaddr
			size, from, err = unix.Recvfrom(fd, b, unix.MSG_DONTWAIT)
			if k, ok := from.(*unix.SockaddrNetlink); err == nil && ok && k.Pid == 0 {
				return b[:min(size, len(b))], nil
			}
		}
		if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return nil, err
		}
	}
}

// answer looks in a datagram for the answer to the request of that number.
func answer(b []byte, seq uint32) (payload []byte, mine bool, err error) {
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return nil, true, fmt.Errorf("%w: message of %d octets in %d", ErrMalformed, size, len(b))
		}
		typ, flags := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:])
		if data := b[unix.SizeofNlMsghdr:size]; binary.NativeEndian.Uint32(b[8:]) == seq {
			if typ == unix.NLMSG_ERROR || typ == unix.NLMSG_DONE {
				return nil, true, errnoOf(data, flags)
			}
			return data, true, nil
		}
		b = b[min(len(b), (size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
	}
	return nil, false, nil
}

// errnoOf reads struct nlmsgerr: the negative errno, the request's header, and the
// kernel's own words (NLMSGERR_ATTR_MSG) behind that.
func errnoOf(b []byte, flags uint16) error {
	if len(b) < 4 {
		return fmt.Errorf("%w: acknowledgement of %d octets", ErrMalformed, len(b))
	}
	errno := unix.Errno(-int32(binary.NativeEndian.Uint32(b)))
	if errno == 0 {
		return nil
	}
	if skip := 4 + unix.SizeofNlMsghdr; flags&unix.NLM_F_ACK_TLVS != 0 && len(b) >= skip {
		if flags&unix.NLM_F_CAPPED == 0 { // the whole request is repeated
			skip = 4 + int(binary.NativeEndian.Uint32(b[4:]))
		}
		words := ""
		if skip >= 0 && skip <= len(b) {
			// What cannot be read here is not worth hiding the errno for.
			_ = EachAttr(b[skip:], func(typ uint16, v []byte) error {
				if typ == nl.NLMSGERR_ATTR_MSG {
					words = cstring(v)
				}
				return nil
			})
		}
		if words != "" {
			return fmt.Errorf("%w: %s", errno, words)
		}
	}
	return errno
}
