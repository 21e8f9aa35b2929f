// Package vdpnl is the form of rtnetlink in which libvirt asks lldpad for
// 802.1Qbg associations: RTM_SETLINK and RTM_GETLINK between two user
// processes, the port attributes of include/uapi/linux/if_link.h, and the
// replies and indications that libvirt's virnetdevvportprofile.c expects.
package vdpnl

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"

	"golang.org/x/sys/unix"

	"libvirt-direct/vdp"
)

// ErrMalformed: a message that is answered with EINVAL.
var ErrMalformed = errors.New("malformed VDP netlink message")

// ErrUnknownType: a message type that is neither SETLINK nor GETLINK.
var ErrUnknownType = errors.New("unknown VDP netlink message type")

// A Header is what a reply repeats of a request.
type Header struct {
	Type uint16
	Seq  uint32
	Pid  uint32 // nlmsg_pid: where indications are to go
}

// A Request is a message from libvirt.
type Request struct {
	Header
	Ifindex int32
	Ifname  string // may be empty
	Set     *Set   // nil for RTM_GETLINK
}

// A Set is what RTM_SETLINK asks for.
type Set struct {
	Mode vdp.Mode
	VSI  vdp.VSI
}

// A Port is one VSI in the reply to RTM_GETLINK.
type Port struct {
	ID       vdp.ID
	Done     bool   // Response is valid
	Response uint16 // 0, or the reason why not
}

const (
	selfVF                  = 0xffffffff // PORT_SELF_VF
	portRequestDisassociate = 3          // PORT_REQUEST_DISASSOCIATE; the others count up to it

	ifinfoLen   = unix.SizeofIfInfomsg
	nlaTypeMask = ^uint16(unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)

	vfMACLen  = 36 // struct ifla_vf_mac
	vfVLANLen = 12 // struct ifla_vf_vlan
	vsiLen    = 8  // struct ifla_port_vsi

	// MaxMessage is the longest message of an answer to RTM_GETLINK: what the
	// kernel itself sends at most.
	MaxMessage = 32 << 10
	portLen    = 40 // of an entry at most
)

var native = binary.NativeEndian

// Parse reads the first message of b and returns what follows it. With
// ErrMalformed or ErrUnknownType the Request has a valid Header and the rest
// can be read on; without a header in b the rest is nil.
func Parse(b []byte) (r Request, rest []byte, err error) {
	if len(b) < unix.SizeofNlMsghdr {
		return r, nil, fmt.Errorf("%w: no header", ErrMalformed)
	}
	n := int(native.Uint32(b))
	if n < unix.SizeofNlMsghdr || n > len(b) {
		return r, nil, fmt.Errorf("%w: length %d", ErrMalformed, n)
	}
	r.Header = Header{Type: native.Uint16(b[4:]), Seq: native.Uint32(b[8:]), Pid: native.Uint32(b[12:])}
	rest, b = b[min(align(n), len(b)):], b[unix.SizeofNlMsghdr:n]
	if r.Type != unix.RTM_SETLINK && r.Type != unix.RTM_GETLINK {
		return r, rest, fmt.Errorf("%w: %d", ErrUnknownType, r.Type)
	}
	if len(b) < ifinfoLen {
		return r, rest, fmt.Errorf("%w: no ifinfomsg", ErrMalformed)
	}
	r.Ifindex = int32(native.Uint32(b[4:]))
	var infos, ports []byte
	err = eachAttr(b[ifinfoLen:], func(typ uint16, v []byte) error {
		switch typ {
		case unix.IFLA_IFNAME:
			r.Ifname = string(bytes.TrimRight(v, "\x00"))
			if len(r.Ifname) >= unix.IFNAMSIZ || bytes.IndexByte([]byte(r.Ifname), 0) >= 0 {
				return fmt.Errorf("%w: interface name", ErrMalformed)
			}
		case unix.IFLA_VFINFO_LIST:
			infos = v
		case unix.IFLA_VF_PORTS:
			ports = v
		}
		return nil
	})
	if err == nil && r.Type == unix.RTM_SETLINK {
		r.Set, err = parseSet(infos, ports)
	}
	return r, rest, err
}

func parseSet(infos, ports []byte) (*Set, error) {
	s := &Set{VSI: vdp.VSI{FilterFormat: vdp.FilterMACVID}}
	var (
		f                              vdp.Filter
		hasMAC, hasVLAN, hasID, hasVSI bool
		entries                        int
	)
	err := eachNested(infos, unix.IFLA_VF_INFO, func(typ uint16, v []byte) error {
		switch typ {
		case unix.IFLA_VF_MAC:
			if len(v) != vfMACLen || hasMAC {
				return fmt.Errorf("%w: VF_MAC", ErrMalformed)
			}
			hasMAC, f.MAC = true, vdp.MAC(v[4:10])
		case unix.IFLA_VF_VLAN:
			if len(v) != vfVLANLen || hasVLAN {
				return fmt.Errorf("%w: VF_VLAN", ErrMalformed)
			}
			vid := native.Uint32(v[4:])
			if vid > 4094 {
				return fmt.Errorf("%w: VLAN %d", ErrMalformed, vid)
			}
			hasVLAN, f.VID = true, uint16(vid)
		}
		return nil
	}, nil)
	if err != nil {
		return nil, err
	}
	err = eachNested(ports, unix.IFLA_VF_PORT, func(typ uint16, v []byte) error {
		switch typ {
		case unix.IFLA_PORT_VSI_TYPE:
			if len(v) != vsiLen {
				return fmt.Errorf("%w: PORT_VSI_TYPE", ErrMalformed)
			}
			// The type id is little endian whatever the host is.
			hasVSI = true
			s.VSI.Manager = vdp.ManagerID{v[0]}
			s.VSI.TypeID = uint32(v[1]) | uint32(v[2])<<8 | uint32(v[3])<<16
			s.VSI.TypeVersion = v[4]
		case unix.IFLA_PORT_INSTANCE_UUID:
			if len(v) != 16 {
				return fmt.Errorf("%w: PORT_INSTANCE_UUID", ErrMalformed)
			}
			hasID, s.VSI.ID = true, vdp.UUID([16]byte(v))
		case unix.IFLA_PORT_REQUEST:
			request := uint16(portRequestDisassociate + 1)
			switch len(v) {
			case 1:
				request = uint16(v[0])
			case 2: // as lldpad writes it (vdpnl.c:vdpnl_send)
				request = native.Uint16(v)
			}
			if request > portRequestDisassociate {
				return fmt.Errorf("%w: PORT_REQUEST", ErrMalformed)
			}
			s.Mode = vdp.Mode(request + 1)
		}
		return nil
	}, func() { entries++ })
	switch {
	case err != nil:
		return nil, err
	case entries != 1:
		return nil, fmt.Errorf("%w: %d ports, want one", ErrMalformed, entries)
	case !hasVLAN || !hasVSI || !hasID || s.Mode == 0:
		return nil, fmt.Errorf("%w: VF_VLAN, PORT_VSI_TYPE, PORT_INSTANCE_UUID or PORT_REQUEST missing", ErrMalformed)
	}
	if !hasMAC {
		s.VSI.FilterFormat = vdp.FilterVID
	}
	s.VSI.Filters = []vdp.Filter{f}
	return s, nil
}

// eachNested calls f for each attribute of the nests of type want in list, and
// enter at the start of each nest.
func eachNested(list []byte, want uint16, f func(typ uint16, v []byte) error, enter func()) error {
	return eachAttr(list, func(typ uint16, v []byte) error {
		if typ != want {
			return nil
		}
		if enter != nil {
			enter()
		}
		return eachAttr(v, f)
	})
}

func eachAttr(b []byte, f func(typ uint16, v []byte) error) error {
	for len(b) > 0 {
		if len(b) < unix.SizeofNlAttr {
			return fmt.Errorf("%w: attribute cut", ErrMalformed)
		}
		n, typ := int(native.Uint16(b)), native.Uint16(b[2:])&nlaTypeMask
		if n < unix.SizeofNlAttr || n > len(b) {
			return fmt.Errorf("%w: attribute %d of length %d", ErrMalformed, typ, n)
		}
		if err := f(typ, b[unix.SizeofNlAttr:n]); err != nil {
			return err
		}
		b = b[min(align(n), len(b)):]
	}
	return nil
}

// Ack returns the reply to RTM_SETLINK, and to whatever fails. errno 0 means
// that the request was accepted, not that it succeeded.
func Ack(h Header, pid uint32, errno unix.Errno) []byte {
	b := message(unix.NLMSG_ERROR, h.Seq, pid)
	b = native.AppendUint32(b, uint32(-int32(errno)))
	b = append(b, make([]byte, unix.SizeofNlMsghdr)...)
	native.PutUint16(b[unix.SizeofNlMsghdr+4+4:], h.Type)
	native.PutUint32(b[unix.SizeofNlMsghdr+4+8:], h.Seq)
	native.PutUint32(b[unix.SizeofNlMsghdr+4+12:], h.Pid)
	return finish(b)
}

// Status returns the reply to RTM_GETLINK: all ports of an interface, each
// message for a datagram of its own. Where one is not enough, those before the
// last are of type RTM_NEWLINK and have NLM_F_MULTI, as the kernel's. libvirt
// takes either type for an answer, but reads no more than the first datagram:
// what it may be waiting for has to come first.
func Status(h Header, pid uint32, ifindex int32, ports iter.Seq[Port]) (messages [][]byte) {
	begin := func() ([]byte, int) {
		return nest(ifinfo(message(unix.NLMSG_DONE, h.Seq, pid), ifindex), unix.IFLA_VF_PORTS)
	}
	b, list := begin()
	for p := range ports {
		if len(b)+portLen > MaxMessage {
			native.PutUint16(b[4:], unix.RTM_NEWLINK)
			native.PutUint16(b[6:], unix.NLM_F_MULTI)
			endNest(b, list)
			messages = append(messages, finish(b))
			b, list = begin()
			native.PutUint16(b[6:], unix.NLM_F_MULTI)
		}
		if len(b) > 1<<10 { // there will be many more
			b = slices.Grow(b, MaxMessage-len(b))
		}
		b = appendPort(b, &p)
	}
	endNest(b, list)
	return append(messages, finish(b))
}

func appendPort(b []byte, p *Port) []byte {
	at := len(b)
	b = appendHeader(b, unix.IFLA_VF_PORT|unix.NLA_F_NESTED, 0)
	b = appendHeader(b, unix.IFLA_PORT_INSTANCE_UUID, len(p.ID.Octets))
	b = append(b, p.ID.Octets[:]...)
	b = appendHeader(b, unix.IFLA_PORT_VF, 4)
	b = native.AppendUint32(b, selfVF)
	if p.Done {
		b = appendHeader(b, unix.IFLA_PORT_RESPONSE, 2)
		b = native.AppendUint16(b, p.Response)
		b = append(b, 0, 0)
	}
	endNest(b, at)
	return b
}

// Deassociated returns the indication that the switch has dropped a VSI.
func Deassociated(h Header, pid uint32, ifindex int32, ifname string, v *vdp.VSI) []byte {
	b := ifinfo(message(unix.RTM_SETLINK, h.Seq, pid), ifindex)
	return finish(appendSet(appendName(b, ifname), &Set{Mode: vdp.DeAssociate, VSI: *v}))
}

func appendName(b []byte, ifname string) []byte {
	return attr(b, unix.IFLA_IFNAME, append([]byte(ifname), 0))
}

func appendSet(b []byte, s *Set) []byte {
	v := &s.VSI
	b, list := nest(b, unix.IFLA_VFINFO_LIST)
	for _, f := range v.Filters {
		var one int
		b, one = nest(b, unix.IFLA_VF_INFO)
		if v.FilterFormat != vdp.FilterVID {
			mac := native.AppendUint32(nil, selfVF)
			mac = append(mac, f.MAC[:]...)
			b = attr(b, unix.IFLA_VF_MAC, append(mac, make([]byte, vfMACLen-len(mac))...))
		}
		vlan := native.AppendUint32(nil, selfVF)
		vlan = native.AppendUint32(vlan, uint32(f.VID))
		b = attr(b, unix.IFLA_VF_VLAN, native.AppendUint32(vlan, 0))
		endNest(b, one)
	}
	endNest(b, list)
	b, list = nest(b, unix.IFLA_VF_PORTS)
	b, one := nest(b, unix.IFLA_VF_PORT)
	b = attr(b, unix.IFLA_PORT_VSI_TYPE, []byte{v.Manager[0],
		byte(v.TypeID), byte(v.TypeID >> 8), byte(v.TypeID >> 16), v.TypeVersion, 0, 0, 0})
	b = attr(b, unix.IFLA_PORT_INSTANCE_UUID, v.ID.Octets[:])
	b = attr(b, unix.IFLA_PORT_VF, native.AppendUint32(nil, selfVF))
	b = attr(b, unix.IFLA_PORT_REQUEST, []byte{byte(s.Mode - 1)})
	endNest(b, one)
	endNest(b, list)
	return b
}

func message(typ uint16, seq, pid uint32) []byte {
	b := make([]byte, unix.SizeofNlMsghdr, 256)
	native.PutUint16(b[4:], typ)
	native.PutUint32(b[8:], seq)
	native.PutUint32(b[12:], pid)
	return b
}

func ifinfo(b []byte, ifindex int32) []byte {
	b = append(b, make([]byte, ifinfoLen)...)
	native.PutUint32(b[len(b)-ifinfoLen+4:], uint32(ifindex))
	return b
}

func attr(b []byte, typ uint16, v []byte) []byte {
	b = append(appendHeader(b, typ, len(v)), v...)
	return append(b, make([]byte, align(len(v))-len(v))...)
}

// appendHeader starts an attribute whose value has n octets.
func appendHeader(b []byte, typ uint16, n int) []byte {
	b = native.AppendUint16(b, uint16(unix.SizeofNlAttr+n))
	return native.AppendUint16(b, typ)
}

// nest starts a nested attribute, endNest ends it.
func nest(b []byte, typ uint16) ([]byte, int) {
	at := len(b)
	return attr(b, typ|unix.NLA_F_NESTED, nil), at
}

func endNest(b []byte, at int) { native.PutUint16(b[at:], uint16(len(b)-at)) }

func finish(b []byte) []byte {
	native.PutUint32(b, uint32(len(b)))
	return b
}

func align(n int) int { return (n + 3) &^ 3 }
