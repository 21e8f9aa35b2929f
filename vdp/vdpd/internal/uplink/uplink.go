// Package uplink is the packet socket through which 802.1Qbg is spoken on one
// network interface.
package uplink

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"libvirt-direct/vdp"
)

// A Conn sends and receives whole Ethernet frames of LLDP and ECP.
type Conn struct {
	c *packet.Conn
}

// Listen opens the socket. It listens to all EtherTypes behind a filter: a
// Linux bridge without STP keeps the frames to 01:80:c2:00:00:00 from a socket
// that is bound to their EtherType.
func Listen(ifi *net.Interface) (*Conn, error) {
	filter, err := bpf.Assemble(program)
	if err != nil {
		return nil, fmt.Errorf("uplink %s: %w", ifi.Name, err)
	}
	c, err := packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, &packet.Config{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("uplink %s: %w", ifi.Name, err)
	}
	for _, g := range []vdp.MAC{vdp.NearestCustomerBridge, vdp.NearestNonTPMRBridge, vdp.NearestBridge} {
		if err := c.JoinGroup(g[:]); err != nil {
			c.Close()
			return nil, fmt.Errorf("uplink %s: join %v: %w", ifi.Name, g, err)
		}
	}
	if err := prioritise(c); err != nil {
		c.Close()
		return nil, fmt.Errorf("uplink %s: set priority: %w", ifi.Name, err)
	}
	return &Conn{c}, nil
}

// prioritise marks what is sent as network control.
func prioritise(c *packet.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return setsockoptInt(raw, unix.SOL_SOCKET, unix.SO_PRIORITY, prioControl)
}

func setsockoptInt(raw syscall.RawConn, level, opt, value int) error {
	var err error
	if cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, opt, value) }); cerr != nil {
		return cerr
	}
	return err
}

// program passes untagged LLDP and ECP that arrived for this host or a group.
// What guests on a macvtap send leaves through the same interface and must not
// be taken for the switch's.
var program = []bpf.Instruction{
	bpf.LoadExtension{Num: bpf.ExtType},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_HOST, SkipTrue: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.PACKET_MULTICAST, SkipTrue: 7},
	bpf.LoadExtension{Num: bpf.ExtVLANTagPresent},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: 5},
	bpf.LoadAbsolute{Off: 12, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(vdp.EtherTypeLLDP), SkipTrue: 2},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(vdp.EtherTypeECP), SkipTrue: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(vdp.EtherTypeECPDraft), SkipTrue: 1},
	bpf.RetConstant{Val: maxFrame},
	bpf.RetConstant{Val: 0},
}

const (
	maxFrame    = 2048
	prioControl = 7 // TC_PRIO_CONTROL
)

// maxBatch is how many frames are handed over at once: few enough that others
// get their turn soon, many enough that the hand-over does not count.
const maxBatch = 32

// ReadLoop calls f with the frames that have arrived, some at a time, until the
// context is done or the socket fails, as it does when the interface goes away.
// f owns the frames. While it works, further ones wait in the socket's buffer,
// and those beyond are lost as on any wire. A link that is down is waited for.
func (c *Conn) ReadLoop(ctx context.Context, f func(frames [][]byte)) error {
	stop := context.AfterFunc(ctx, func() { c.c.Close() })
	defer stop()
	raw, err := c.c.SyscallConn()
	if err != nil {
		return err
	}
	buf := make([]byte, maxFrame)
	for {
		var (
			batch   [][]byte
			failure error
		)
		err := raw.Read(func(fd uintptr) (done bool) {
			batch, failure = receive(int(fd), buf)
			return len(batch) > 0 || !errors.Is(failure, unix.EAGAIN)
		})
		if len(batch) > 0 {
			f(batch)
		}
		switch err := cmp.Or(err, failure); {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil, errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		case isNetDown(err): // reported once, then the socket waits for the link
		default:
			return err
		}
	}
}

// receive returns what is in the socket's buffer, up to maxBatch frames, and why
// there are not more.
func receive(fd int, buf []byte) (batch [][]byte, err error) {
	for len(batch) < maxBatch {
		n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		if err != nil {
			return batch, err
		}
		batch = append(batch, bytes.Clone(buf[:n]))
	}
	return batch, nil
}

// Send sends a frame. A link that is down is not an error: what was sent is
// lost as on any wire.
func (c *Conn) Send(frame []byte) error {
	_, err := c.c.WriteTo(frame, &packet.Addr{HardwareAddr: net.HardwareAddr(frame[:6])})
	if isNetDown(err) {
		return nil
	}
	return err
}

// Close closes the socket.
func (c *Conn) Close() error { return c.c.Close() }

func isNetDown(err error) bool { return errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.ENOBUFS) }
