package rtnl

import (
	"errors"

	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/privilege"
)

// Conn is a netlink socket of the network namespace in which the thread was that dialled.
type Conn struct {
	fd  int
	seq uint32
	buf []byte
}

// ErrMalformed is an answer that is not one: no kernel sends it.
var ErrMalformed = errors.New("malformed netlink answer")

// Error is a request that the kernel refused.
type Error struct {
	Index int // of the request in its batch
	Errno unix.Errno
	Text  string // the kernel's explanation, if it gave one (NLMSGERR_ATTR_MSG)
}

func (e *Error) Error() string {
	if e.Text == "" {
		return e.Errno.Error()
	}
	return e.Errno.Error() + " (" + e.Text + ")"
}

// Unwrap is the errno.
func (e *Error) Unwrap() error { return e.Errno }

// Dial opens a socket. It answers within a second or not at all.
func Dial() (*Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	// Explanations and short acknowledgements are a convenience; kernels without them do.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	return &Conn{fd: fd, buf: make([]byte, 8192)}, nil
}

// FD is the socket, for requests that any socket of the namespace takes.
func (c *Conn) FD() int { return c.fd }

// Close closes the socket.
func (c *Conn) Close() error { return unix.Close(c.fd) }

// Do sends the batch with CAP_NET_ADMIN and waits for the answer to each of its requests. The kernel works on all of them, whatever becomes
// of the ones before; the first refusal is returned, as *Error. tolerate names a request that may fail, -1 for none.
func (c *Conn) Do(m *Batch, tolerate int) error {
	if m.n == 0 {
		return nil
	}
	first := c.seq + 1
	for at := 0; at < len(m.b); at += int(get32(m.b[at:])) {
		c.seq++
		put32(m.b[at+8:], c.seq)
	}
	if err := privilege.With(privilege.NetAdmin, func() error {
		return unix.Sendto(c.fd, m.b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}); err != nil {
		return err
	}
	var refused error
	for done := 0; done < m.n; {
		msgs, err := c.receive()
		if err != nil {
			return err
		}
		for len(msgs) >= unix.SizeofNlMsghdr {
			n := int(get32(msgs))
			if n < unix.SizeofNlMsghdr+4 || n > len(msgs) {
				return ErrMalformed
			}
			if get16(msgs[4:]) == unix.NLMSG_ERROR && int(get32(msgs[8:])-first) == done {
				if e := parseError(msgs[:n], done); e != nil && refused == nil && done != tolerate {
					refused = e
				}
				done++
			}
			msgs = msgs[min((n+3)&^3, len(msgs)):]
		}
	}
	return refused
}

// ask sends a single question, with no capability, and returns the message that answers it: its body has at least 4
// octets.
func (c *Conn) ask(m *Batch) ([]byte, error) {
	put16(m.b[6:], unix.NLM_F_REQUEST) // an answer is acknowledgement enough
	c.seq++
	put32(m.b[8:], c.seq)
	if err := c.send(m.b); err != nil {
		return nil, err
	}
	for {
		msg, err := c.receive()
		if err != nil {
			return nil, err
		}
		if len(msg) < unix.SizeofNlMsghdr+4 || int(get32(msg)) > len(msg) || get32(msg) < unix.SizeofNlMsghdr+4 {
			return nil, ErrMalformed
		}
		if get32(msg[8:]) == c.seq {
			return msg[:get32(msg)], nil
		}
	}
}

// parseError reads a struct nlmsgerr and the attributes behind it; nil for an acknowledgement.
func parseError(msg []byte, index int) error {
	body := msg[unix.SizeofNlMsghdr:]
	code := int32(get32(body))
	if code == 0 {
		return nil
	}
	e := &Error{Index: index, Errno: unix.Errno(-code)}
	flags := get16(msg[6:])
	if flags&unix.NLM_F_ACK_TLVS == 0 || flags&unix.NLM_F_CAPPED == 0 || len(body) < 4+unix.SizeofNlMsghdr {
		return e
	}
	attributes(body[4+unix.SizeofNlMsghdr:], func(kind uint16, v []byte) {
		if kind == unix.NLMSGERR_ATTR_MSG {
			e.Text = cString(v)
		}
	})
	return e
}

func (c *Conn) send(b []byte) error {
	for {
		err := unix.Sendto(c.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if err != unix.EINTR {
			return err
		}
	}
}

// receive returns one datagram. rtnetlink has worked the request off when send returns, so an answer is there.
func (c *Conn) receive() ([]byte, error) {
	for {
		n, err := unix.Read(c.fd, c.buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		return c.buf[:n], nil
	}
}
