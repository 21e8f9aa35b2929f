package vdpnl

import (
	"fmt"

	"golang.org/x/sys/unix"

	"libvirt-direct/vdp"
)

// Marshal returns the message to lldpad: RTM_SETLINK if there is a Set, which
// must have a valid mode and one filter, otherwise RTM_GETLINK. Without an
// Ifname the Ifindex counts.
func (r *Request) Marshal() []byte {
	typ := uint16(unix.RTM_GETLINK)
	if r.Set != nil {
		typ = unix.RTM_SETLINK
	}
	b := ifinfo(message(typ, r.Seq, r.Pid), r.Ifindex)
	native.PutUint16(b[6:], unix.NLM_F_REQUEST)
	if r.Ifname != "" {
		b = appendName(b, r.Ifname)
	}
	if r.Set != nil {
		b = appendSet(b, r.Set)
	}
	return finish(b)
}

// A Reply is lldpad's answer to a Request.
type Reply struct {
	Seq   uint32
	Errno unix.Errno // 0: a RTM_SETLINK was accepted, not that it succeeded
	Ports []Port     // the answer to RTM_GETLINK
	More  bool       // further ports follow, in the next datagram
}

// ParseReply reads one datagram from lldpad or vdpd. Its errors are ErrMalformed, and
// ErrUnknownType for what is not a reply.
func ParseReply(b []byte) (Reply, error) {
	var r Reply
	if len(b) < unix.SizeofNlMsghdr {
		return r, fmt.Errorf("%w: no header", ErrMalformed)
	}
	n := int(native.Uint32(b))
	if n < unix.SizeofNlMsghdr || n > len(b) {
		return r, fmt.Errorf("%w: length %d", ErrMalformed, n)
	}
	typ, flags := native.Uint16(b[4:]), native.Uint16(b[6:])
	r.Seq = native.Uint32(b[8:])
	b = b[unix.SizeofNlMsghdr:n]
	switch typ {
	case unix.NLMSG_ERROR:
		if len(b) < 4 {
			return r, fmt.Errorf("%w: no errno", ErrMalformed)
		}
		errno := int32(native.Uint32(b))
		if errno > 0 || errno < -4095 {
			return r, fmt.Errorf("%w: errno %d", ErrMalformed, errno)
		}
		r.Errno = unix.Errno(-errno)
		return r, nil
	case unix.NLMSG_DONE, unix.RTM_NEWLINK:
		r.More = typ == unix.RTM_NEWLINK && flags&unix.NLM_F_MULTI != 0
		if len(b) < ifinfoLen {
			return r, fmt.Errorf("%w: no ifinfomsg", ErrMalformed)
		}
	default:
		return r, fmt.Errorf("%w: %d", ErrUnknownType, typ)
	}
	err := eachNested(b[ifinfoLen:], unix.IFLA_VF_PORTS, func(typ uint16, v []byte) error {
		if typ != unix.IFLA_VF_PORT {
			return nil
		}
		p, err := parsePort(v)
		r.Ports = append(r.Ports, p)
		return err
	}, nil)
	if err != nil {
		r.Ports = nil
	}
	return r, err
}

func parsePort(b []byte) (Port, error) {
	var p Port
	err := eachAttr(b, func(typ uint16, v []byte) error {
		switch typ {
		case unix.IFLA_PORT_INSTANCE_UUID:
			if len(v) != 16 {
				return fmt.Errorf("%w: PORT_INSTANCE_UUID", ErrMalformed)
			}
			p.ID = vdp.UUID([16]byte(v))
		case unix.IFLA_PORT_RESPONSE:
			if len(v) != 2 {
				return fmt.Errorf("%w: PORT_RESPONSE", ErrMalformed)
			}
			p.Done, p.Response = true, native.Uint16(v)
		}
		return nil
	})
	if err == nil && p.ID == (vdp.ID{}) {
		err = fmt.Errorf("%w: PORT_INSTANCE_UUID missing", ErrMalformed)
	}
	return p, err
}
