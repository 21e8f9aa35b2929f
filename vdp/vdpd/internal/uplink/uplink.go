// Package uplink has the packet sockets through which 802.1Qbg is spoken on one
// network interface.
package uplink

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"libvirt-direct/vdp"
)

// A Conn sends and receives whole Ethernet frames of LLDP and ECP.
type Conn struct {
	in *packet.Conn // what arrives; and it sends

	mu  sync.Mutex   // from when frames are taken from out to when they are handed on
	out *packet.Conn // what leaves through the interface, whoever sends it
	buf []byte       // for out
}

// Frames are what has passed an uplink.
type Frames struct {
	// Sent left the uplink before Arrived came, by whomever on this host but the
	// Conn. A bridge may reflect it.
	Sent [][]byte
	// Missed: Sent may not be all.
	Missed bool
	// Arrived is what came from the wire, in order.
	Arrived [][]byte
}

// Listen opens the sockets.
func Listen(ifi *net.Interface) (*Conn, error) {
	in, err := listen(ifi, arriving)
	if err != nil {
		return nil, fmt.Errorf("uplink %s: %w", ifi.Name, err)
	}
	c := &Conn{in: in}
	if c.out, err = listen(ifi, leaving); err != nil {
		in.Close()
		return nil, fmt.Errorf("uplink %s: %w", ifi.Name, err)
	}
	if err := c.prepare(); err != nil {
		c.Close()
		return nil, fmt.Errorf("uplink %s: %w", ifi.Name, err)
	}
	return c, nil
}

// listen opens a socket. It listens to all EtherTypes behind a filter: a Linux
// bridge without STP keeps the frames to 01:80:c2:00:00:00 from a socket that is
// bound to their EtherType, and no such socket is shown what leaves.
func listen(ifi *net.Interface, program []bpf.Instruction) (*packet.Conn, error) {
	filter, err := bpf.Assemble(program)
	if err != nil {
		return nil, err
	}
	return packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, &packet.Config{Filter: filter})
}

func (c *Conn) prepare() error {
	for _, g := range []vdp.MAC{vdp.NearestCustomerBridge, vdp.NearestNonTPMRBridge, vdp.NearestBridge} {
		if err := c.in.JoinGroup(g[:]); err != nil {
			return fmt.Errorf("join %v: %w", g, err)
		}
	}
	for _, o := range []struct {
		conn              *packet.Conn
		level, opt, value int
		what              string
	}{
		{c.in, unix.SOL_SOCKET, unix.SO_PRIORITY, prioControl, "set priority"},
		// What this socket would not show anyway need not be copied for it.
		{c.in, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1, "ignore what leaves"},
		// A guest can leave two octets of a frame to the card: see sent.
		{c.out, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1, "ask for checksums to come"},
	} {
		if err := setsockoptInt(o.conn, o.level, o.opt, o.value); err != nil {
			return fmt.Errorf("%s: %w", o.what, err)
		}
	}
	// A guest that makes it overflow makes vdpd deaf. In a user namespace the limit of the
	// host's holds.
	err := setsockoptInt(c.out, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, outBuffer)
	if errors.Is(err, unix.EPERM) {
		err = setsockoptInt(c.out, unix.SOL_SOCKET, unix.SO_RCVBUF, outBuffer)
	}
	if err != nil {
		return fmt.Errorf("set buffer size: %w", err)
	}
	return nil
}

func setsockoptInt(c *packet.Conn, level, opt, value int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, opt, value) }); cerr != nil {
		return cerr
	}
	return err
}

// arriving passes untagged LLDP and ECP that came to a group. What comes to the
// host's own address is nobody's who may speak as the switch.
var arriving = []bpf.Instruction{
	bpf.LoadExtension{Num: bpf.ExtType},
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

// leaving passes what leaves for one of the groups that count, tagged or not.
var leaving = []bpf.Instruction{
	bpf.LoadExtension{Num: bpf.ExtType},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.PACKET_OUTGOING, SkipTrue: 7},
	bpf.LoadAbsolute{Off: 0, Size: 4},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0x0180c200, SkipTrue: 5},
	bpf.LoadAbsolute{Off: 4, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x0000, SkipTrue: 2},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x0003, SkipTrue: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0x000e, SkipTrue: 1},
	bpf.RetConstant{Val: maxSkb},
	bpf.RetConstant{Val: 0},
}

const (
	maxFrame    = 2048
	maxSkb      = 64 << 10 // a checksum is over all of it
	prioControl = 7        // TC_PRIO_CONTROL
	outBuffer   = 4 << 20  // some 5,000 small frames
	// maxSent bounds what is handed on at once, maxRounds how often before what has
	// arrived gets its turn.
	maxSent   = 1024
	maxRounds = 16
	// maxArrived likewise: few enough that others get their turn soon, many enough
	// that the hand-over does not count in a flood.
	maxArrived = 32
)

// ReadLoop calls f with what passes the uplink, in order: what has left before a
// frame arrived comes before it, or with it. While f works, further frames wait in
// the sockets' buffers, and those beyond are lost as on any wire. It ends with the
// context, or when a socket fails, as it does when the interface goes away. f owns
// the frames, and is not called twice at the same time. A link that is down is
// waited for.
func (c *Conn) ReadLoop(ctx context.Context, f func(Frames)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer context.AfterFunc(ctx, func() { c.Close() })()
	done := make(chan struct{})
	go func() {
		defer close(done)
		cancel(c.readSent(f))
	}()
	cancel(c.readArrived(f))
	c.Close()
	<-done
	return context.Cause(ctx)
}

// readArrived reads what comes. The kernel has queued in out what left before, since
// only then it was on the wire.
func (c *Conn) readArrived(f func(Frames)) error {
	raw, err := c.in.SyscallConn()
	if err != nil {
		return err
	}
	b := make([]byte, maxFrame)
	for {
		var (
			arrived [][]byte
			failure error
		)
		err := raw.Read(func(fd uintptr) bool {
			arrived, failure = receive(int(fd), b, maxArrived)
			return len(arrived) > 0 || !errors.Is(failure, unix.EAGAIN)
		})
		if len(arrived) > 0 {
			if err := c.pass(f, arrived); err != nil {
				return err
			}
		}
		if failure != nil && !errors.Is(failure, unix.EAGAIN) && !isNetDown(failure) {
			return failure
		}
		if err != nil {
			return err
		}
	}
}

// receive returns up to max frames of a socket, and why there are not more. A link
// that is down is reported once, then the socket waits for it.
func receive(fd int, buf []byte, max int) (frames [][]byte, err error) {
	for len(frames) < max {
		n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return frames, err
		}
		frames = append(frames, bytes.Clone(buf[:n]))
	}
	return frames, nil
}

// receiveSent is receive for what leaves. Missed says that a frame could not be read.
func receiveSent(fd int, buf []byte, max int) (frames [][]byte, missed bool, err error) {
	for range max {
		n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EINVAL): // the kernel has no header for it
			missed = true
		case err != nil:
			return frames, missed, err
		default:
			frames = append(frames, sent(buf[:n])...)
		}
	}
	return frames, missed, nil
}

// vnetLen is the length of a struct virtio_net_hdr.
const vnetLen = 10

// sent returns the forms in which a frame may be on the wire. Whoever sends it, a guest as
// well, may leave a checksum to the card, or to a bridge on the way, and says where it
// belongs: those two octets are others then than here.
func sent(b []byte) (forms [][]byte) {
	if len(b) < vnetLen {
		return nil
	}
	h, frame := b[:vnetLen], b[vnetLen:]
	add := func() { forms = append(forms, bytes.Clone(frame[:min(len(frame), maxFrame)])) }
	add()
	start := int(binary.NativeEndian.Uint16(h[6:]))
	at := start + int(binary.NativeEndian.Uint16(h[8:]))
	if h[0]&unix.VIRTIO_NET_HDR_F_NEEDS_CSUM == 0 || at+2 > len(frame) {
		return forms
	}
	sum := checksum(frame[start:])
	binary.BigEndian.PutUint16(frame[at:], sum)
	add()
	if sum == 0 { // which the kernel writes as its other form, and a card may not
		binary.BigEndian.PutUint16(frame[at:], 0xffff)
		add()
	}
	return forms
}

// checksum is the Internet checksum of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) > 0 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// readSent reads what leaves while nothing comes.
func (c *Conn) readSent(f func(Frames)) error {
	raw, err := c.out.SyscallConn()
	if err != nil {
		return err
	}
	for {
		var (
			peek   error
			header [vnetLen]byte
		)
		err := raw.Read(func(fd uintptr) bool {
			_, _, peek = unix.Recvfrom(int(fd), header[:], unix.MSG_PEEK|unix.MSG_DONTWAIT|unix.MSG_TRUNC)
			return !errors.Is(peek, unix.EAGAIN)
		})
		if err == nil && !isNetDown(peek) && !errors.Is(peek, unix.EINVAL) { // that is for pass
			err = peek
		}
		if err == nil {
			err = c.pass(f, nil)
		}
		if err != nil {
			return err
		}
	}
}

// pass hands on frames that have arrived, if any, after what has left before.
func (c *Conn) pass(f func(Frames), arrived [][]byte) error {
	raw, err := c.out.SyscallConn()
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.buf == nil {
		c.buf = make([]byte, vnetLen+maxSkb)
	}
	for round := 1; ; round++ {
		var frames Frames
		missed := false
		cerr := raw.Control(func(fd uintptr) { frames.Sent, missed, err = receiveSent(int(fd), c.buf, maxSent) })
		more := err == nil
		switch {
		case cerr != nil:
			return cerr
		case err != nil && !errors.Is(err, unix.EAGAIN) && !isNetDown(err):
			return err
		}
		stats, err := c.out.Stats()
		if err != nil {
			return err
		}
		frames.Missed = missed || stats.Drops > 0
		if more && round == maxRounds { // who sends that much is not waited for
			more, frames.Missed = false, true
		}
		if !more {
			frames.Arrived = arrived
		}
		if len(frames.Sent) > 0 || frames.Missed || frames.Arrived != nil {
			f(frames)
		}
		if !more {
			return nil
		}
	}
}

// Send sends a frame. A link that is down is not an error: what was sent is
// lost as on any wire.
func (c *Conn) Send(frame []byte) error {
	_, err := c.in.WriteTo(frame, &packet.Addr{HardwareAddr: net.HardwareAddr(frame[:6])})
	if isNetDown(err) {
		return nil
	}
	return err
}

// Bound reports whether the sockets still are on the interface. One that has been in another
// namespace comes back without them, maybe under the same name and index.
func (c *Conn) Bound() bool { return isBound(c.in) && isBound(c.out) }

func isBound(c *packet.Conn) (bound bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	err = raw.Control(func(fd uintptr) {
		sa, err := unix.Getsockname(int(fd))
		ll, ok := sa.(*unix.SockaddrLinklayer)
		bound = err == nil && ok && ll.Ifindex > 0
	})
	return err == nil && bound
}

// Close closes the sockets.
func (c *Conn) Close() error { return errors.Join(c.in.Close(), c.out.Close()) }

func isNetDown(err error) bool { return errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.ENOBUFS) }
