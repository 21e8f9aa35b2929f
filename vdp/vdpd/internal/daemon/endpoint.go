package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/mdlayher/socket"
	"golang.org/x/sys/unix"
)

// An endpoint is the rtnetlink port on which libvirt expects lldpad: the one
// whose number is our pid. The kernel lets only senders with CAP_NET_ADMIN
// through.
type endpoint struct {
	conn *socket.Conn
	pid  uint32
}

// listen opens the endpoint. It must be the first netlink socket of the
// process: the kernel gives the pid to whichever comes first.
func listen() (*endpoint, error) {
	c, err := socket.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE, "netlink", nil)
	if err != nil {
		return nil, err
	}
	pid := uint32(os.Getpid())
	if err := c.Bind(&unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: pid}); err != nil {
		c.Close()
		return nil, fmt.Errorf("rtnetlink port %d for libvirt: %w", pid, err)
	}
	return &endpoint{conn: c, pid: pid}, nil
}

// serve calls f with each datagram of a user process and sends it what f
// returns. It ends with ctx, or when the socket fails.
func (e *endpoint) serve(ctx context.Context, f func(b []byte) [][]byte) error {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := e.conn.Recvfrom(ctx, buf, 0)
		if errors.Is(err, unix.ENOBUFS) {
			continue // libvirt asks again
		}
		if err != nil {
			return err
		}
		sa, ok := from.(*unix.SockaddrNetlink)
		if !ok || sa.Pid == 0 {
			continue // the kernel
		}
		for _, r := range f(buf[:n]) {
			// One who does not wait for his answer does no harm.
			_ = e.send(r, sa.Pid)
		}
	}
}

// send does not wait: a full socket of the receiver loses the message.
func (e *endpoint) send(b []byte, pid uint32) error {
	return e.conn.Sendto(context.Background(), b, unix.MSG_DONTWAIT, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: pid})
}

func (e *endpoint) close() error { return e.conn.Close() }
