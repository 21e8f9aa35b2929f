package daemon

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/mdlayher/socket"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"libvirt-direct/internal/link"
	"libvirt-direct/vdp"
)

const (
	// linkBuffer is the subscription's receive buffer: a thousand events.
	linkBuffer = 4 << 20
	// maxBacklog is how many datagrams are read after an overflow before the list is asked
	// for, if they do not end.
	maxBacklog = 4096
	// listTimeout is how long the kernel may leave a list unfinished.
	listTimeout = 10 * time.Second
	// reopenPause comes before a new subscription, when the kernel has failed with the last.
	reopenPause = time.Second
)

// linkInfo is what matters of an interface.
type linkInfo struct {
	name   string
	index  int
	mac    vdp.MAC // zero where it has no Ethernet address
	mtu    int
	up     bool
	kind   string // IFLA_INFO_KIND: "vlan", "macvtap", "bond"; empty for hardware
	parent int    // IFLA_LINK, if that is in the same namespace
	master int
	bond   bondInfo // of kind "bond"

	removed bool
	moved   bool // removed from this namespace, for another
}

func (l *linkInfo) netInterface() *net.Interface {
	return &net.Interface{Index: l.index, Name: l.name, MTU: l.mtu, HardwareAddr: l.mac[:]}
}

// A linkStep is one step of what linkWatch tells.
type linkStep struct {
	typ  linkStepType
	link linkInfo // of linkChange
}

type linkStepType uint8

const (
	// linkChange: an interface is as it says, or is gone.
	linkChange linkStepType = iota
	// listLost: changes may have been missed. A list follows.
	listLost
	// listBegin: what there is follows, with what changes meanwhile.
	listBegin
	// listEnd: what has not been told of since listBegin is gone.
	listEnd
)

// watchLinks calls f with each interface that exists and each change, in the kernel's order,
// until ctx is done.
func watchLinks(ctx context.Context, log *slog.Logger, f func([]linkStep)) error {
	for {
		w, err := newLinkWatch(linkBuffer)
		if err != nil {
			return err
		}
		err = w.follow(ctx, f)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		log.Warn("interfaces are listed anew", "err", err)
		f([]linkStep{{typ: listLost}})
		pause := time.NewTimer(reopenPause)
		select {
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
		case <-pause.C:
		}
	}
}

// A linkWatch is a subscription to the interfaces of a network namespace, and the socket on
// which they are listed as well: what comes through one socket is in the kernel's order.
//
// When the socket overflows, everything is listed again. The list is asked for only once the
// backlog has been read: what lies in it is older than what was lost.
type linkWatch struct {
	conn *socket.Conn
	port uint32
	buf  []byte

	seq     uint32 // of the last list
	listing bool   // that is under way
	begun   bool   // and a part of it was seen
	broken  bool   // it cannot be whole
	lost    bool   // a list is wanted
	backlog int    // datagrams read since then
}

func newLinkWatch(buffer int) (*linkWatch, error) {
	c, err := socket.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE, "links", nil)
	if err != nil {
		return nil, fmt.Errorf("subscription to interfaces: %w", err)
	}
	w := &linkWatch{conn: c, buf: make([]byte, 64<<10), lost: true}
	// RTNLGRP_LINK is bit 0 of the groups.
	err = c.Bind(&unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.RTNLGRP_LINK - 1)})
	if err == nil {
		var sa unix.Sockaddr
		if sa, err = c.Getsockname(); err == nil {
			w.port = sa.(*unix.SockaddrNetlink).Pid
		}
	}
	if err == nil {
		err = c.SetReadBuffer(buffer)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("subscription to interfaces: %w", err)
	}
	return w, nil
}

// errStalled: the kernel has begun a list and does not go on.
var errStalled = errors.New("the kernel's list of interfaces does not end")

// follow calls f until ctx is done or the socket fails, and closes it. f must not keep what
// it is given.
func (w *linkWatch) follow(ctx context.Context, f func([]linkStep)) error {
	defer w.conn.Close()
	var steps []linkStep
	for {
		n, err := w.receive(ctx)
		steps = steps[:0]
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, unix.EAGAIN): // the backlog has been read
			err = w.list(ctx)
		case errors.Is(err, unix.ENOBUFS), err == nil && n > len(w.buf):
			err = nil
			w.lost, w.broken, w.backlog = true, true, 0
			steps = append(steps, linkStep{typ: listLost})
		case errors.Is(err, os.ErrDeadlineExceeded):
			err = errStalled
		case err == nil:
			if w.backlog++; w.lost && !w.listing && w.backlog > maxBacklog {
				err = w.list(ctx)
			}
			if err == nil {
				steps, err = w.read(steps, w.buf[:n])
			}
		}
		if err != nil {
			return err
		}
		if len(steps) > 0 {
			f(steps)
		}
	}
}

// receive reads one datagram of the kernel. It returns EAGAIN instead of waiting if a list is
// to be asked for.
func (w *linkWatch) receive(ctx context.Context) (n int, err error) {
	for {
		var from unix.Sockaddr
		if w.lost && !w.listing {
			raw, rerr := w.conn.SyscallConn()
			if rerr != nil {
				return 0, rerr
			}
			if rerr := raw.Control(func(fd uintptr) {
				n, from, err = unix.Recvfrom(int(fd), w.buf, unix.MSG_TRUNC|unix.MSG_DONTWAIT)
			}); rerr != nil {
				return 0, rerr
			}
		} else {
			deadline := time.Time{}
			if w.listing {
				deadline = time.Now().Add(listTimeout)
			}
			if err := w.conn.SetReadDeadline(deadline); err != nil {
				return 0, err
			}
			n, from, err = w.conn.Recvfrom(ctx, w.buf, unix.MSG_TRUNC)
		}
		if err != nil {
			return n, err
		}
		if sa, ok := from.(*unix.SockaddrNetlink); ok && sa.Pid == 0 {
			return n, nil
		}
	}
}

// list asks for all interfaces.
func (w *linkWatch) list(ctx context.Context) error {
	const skipStatistics = 1 << 3 // RTEXT_FILTER_SKIP_STATS
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStatistics)))
	w.seq++
	req.Seq = w.seq
	w.lost, w.listing, w.begun, w.broken = false, true, false, false
	return w.conn.Sendto(ctx, req.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// read appends what a datagram says.
func (w *linkWatch) read(steps []linkStep, b []byte) ([]linkStep, error) {
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return steps, fmt.Errorf("%w: netlink message of %d octets in %d", vdp.ErrLength, size, len(b))
		}
		typ, flags := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:])
		ours := binary.NativeEndian.Uint32(b[8:]) == w.seq && binary.NativeEndian.Uint32(b[12:]) == w.port
		data := b[unix.SizeofNlMsghdr:size]
		b = b[min(len(b), (size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
		switch {
		case typ == unix.NLMSG_ERROR && ours:
			// Without memory the kernel says so, and goes on with the list at the next read.
			if errno := errnoOf(data); errno != 0 && errno != unix.ENOBUFS {
				return steps, fmt.Errorf("list of interfaces: %w", errno)
			}
		// What another process has changed may have our number, but is no part of a list.
		case ours && w.listing && flags&unix.NLM_F_MULTI != 0:
			if !w.begun {
				w.begun = true
				steps = append(steps, linkStep{typ: listBegin})
			}
			// Something came or went meanwhile: entries may be missing.
			w.broken = w.broken || flags&unix.NLM_F_DUMP_INTR != 0
			if typ != unix.NLMSG_DONE {
				steps = appendLink(steps, typ, data)
				continue
			}
			if errno := errnoOf(data); errno != 0 {
				return steps, fmt.Errorf("list of interfaces: %w", errno)
			}
			if w.listing = false; w.broken {
				w.lost, w.backlog = true, 0
			} else {
				steps = append(steps, linkStep{typ: listEnd})
			}
		default:
			steps = appendLink(steps, typ, data)
		}
	}
	return steps, nil
}

// errnoOf reads the number that NLMSG_ERROR and NLMSG_DONE begin with.
func errnoOf(data []byte) unix.Errno {
	if len(data) < 4 {
		return 0
	}
	return unix.Errno(-int32(binary.NativeEndian.Uint32(data)))
}

func appendLink(steps []linkStep, typ uint16, data []byte) []linkStep {
	if typ != unix.RTM_NEWLINK && typ != unix.RTM_DELLINK {
		return steps
	}
	l, ok := parseLink(data)
	if !ok {
		return steps
	}
	l.removed = typ == unix.RTM_DELLINK
	return append(steps, linkStep{typ: linkChange, link: l})
}

// parseLink reads an ifinfomsg with its attributes. Those of other families are about what an
// interface is to a bridge, and no interface's end when they are removed.
func parseLink(data []byte) (l linkInfo, ok bool) {
	if len(data) < unix.SizeofIfInfomsg || data[0] != unix.AF_UNSPEC {
		return l, false
	}
	m := nl.DeserializeIfInfomsg(data)
	const running = unix.IFF_UP | unix.IFF_LOWER_UP
	l.index, l.up = int(m.Index), m.Flags&running == running
	foreign := false
	err := link.EachAttr(data[unix.SizeofIfInfomsg:], func(typ uint16, v []byte) (err error) {
		switch typ {
		case unix.IFLA_IFNAME:
			l.name = nl.BytesToString(v)
		case unix.IFLA_ADDRESS:
			if len(v) == len(l.mac) {
				l.mac = vdp.MAC(v)
			}
		case unix.IFLA_MTU:
			l.mtu = int(number(v))
		case unix.IFLA_LINK:
			l.parent = int(number(v))
		case unix.IFLA_LINK_NETNSID:
			foreign = true
		case unix.IFLA_MASTER:
			l.master = int(number(v))
		case unix.IFLA_NEW_NETNSID:
			l.moved = true
		case unix.IFLA_LINKINFO:
			l.kind, l.bond, err = parseKind(v)
		}
		return err
	})
	if foreign || l.parent == l.index {
		l.parent = 0
	}
	return l, err == nil && l.name != "" && l.index != 0
}

func parseKind(info []byte) (kind string, bond bondInfo, err error) {
	var data []byte
	err = link.EachAttr(info, func(typ uint16, v []byte) error {
		switch typ {
		case unix.IFLA_INFO_KIND:
			kind = nl.BytesToString(v)
		case unix.IFLA_INFO_DATA:
			data = v
		}
		return nil
	})
	if err == nil && kind == "bond" {
		bond, err = parseBond(data)
	}
	return kind, bond, err
}

func number(v []byte) uint32 {
	if len(v) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(v)
}
