package link

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// address is what RTM_GETADDR says of one address.
type address struct {
	prefix netip.Prefix
	index  int
	flags  int
	// origin is IFA_PROTO (Linux 5.18), 0 where nobody has said it.
	origin int
}

// IFA_PROTO and IFAPROT_KERNEL_LL of include/uapi/linux/if_addr.h.
const (
	ifaProto   = 11
	originLink = 3
)

// byItself reports whether it is the link-local address that the kernel makes for each
// device that is up. Before Linux 5.18 it is told by how such an address is made:
// from the MAC, or marked as a stable one (net/ipv6/addrconf.c).
func (a address) byItself() bool {
	if !a.prefix.Addr().Is6() || !a.prefix.Addr().IsLinkLocalUnicast() {
		return false
	}
	b := a.prefix.Addr().As16()
	fromMAC := b[11] == 0xff && b[12] == 0xfe
	return a.origin == originLink || a.origin == 0 && (fromMAC || a.flags&unix.IFA_F_STABLE_PRIVACY != 0)
}

func (c *Conn) addressUses(ctx context.Context, d device) ([]Use, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETADDR, 0)
	msg := nl.NewIfAddrmsg(unix.AF_UNSPEC)
	msg.Index = uint32(d.Index)
	req.AddData(msg)
	out, err := c.dump(ctx, req)
	if err != nil {
		return nil, err
	}
	var uses []Use
	for _, b := range out {
		a, err := parseAddress(b)
		if err != nil {
			return uses, err
		}
		if a.index == d.Index && a.prefix.IsValid() && !a.byItself() {
			uses = append(uses, Use{Kind: UseAddress, Evidence: "it has address " + a.prefix.String()})
		}
	}
	return uses, nil
}

// parseAddress reads the payload of an RTM_NEWADDR message, struct ifaddrmsg and its
// attributes. The prefix is not valid where the address is neither IPv4 nor IPv6.
func parseAddress(b []byte) (address, error) {
	if len(b) < unix.SizeofIfAddrmsg {
		return address{}, fmt.Errorf("%w: %d octets", ErrMalformed, len(b))
	}
	a := address{flags: int(b[2]), index: int(int32(binary.NativeEndian.Uint32(b[4:])))}
	var addr, local []byte
	err := EachAttr(b[unix.SizeofIfAddrmsg:], func(typ uint16, v []byte) error {
		var err error
		switch typ {
		case unix.IFA_ADDRESS:
			addr = v
		case unix.IFA_LOCAL: // the other is the peer's on a point-to-point link
			local = v
		case unix.IFA_FLAGS:
			a.flags, err = u32(v)
		case ifaProto:
			a.origin, err = octet(v)
		}
		return err
	})
	if err != nil || b[0] != unix.AF_INET && b[0] != unix.AF_INET6 {
		return a, err
	}
	if local != nil {
		addr = local
	}
	a.prefix, err = prefixOf(b[0], addr, int(b[1]))
	return a, err
}

// prefixOf reads an address of a family; nil is its zero address.
func prefixOf(family uint8, b []byte, bits int) (netip.Prefix, error) {
	want := net.IPv4len
	if family == unix.AF_INET6 {
		want = net.IPv6len
	}
	if b == nil {
		b = make([]byte, want)
	}
	addr, ok := netip.AddrFromSlice(b)
	p := netip.PrefixFrom(addr, bits)
	if !ok || len(b) != want || !p.IsValid() {
		return netip.Prefix{}, fmt.Errorf("%w: address of %d octets and %d bits", ErrMalformed, len(b), bits)
	}
	return p, nil
}

// route is what RTM_GETROUTE says of one route.
type route struct {
	dst      netip.Prefix
	table    int
	protocol uint8 // RTPROT_*
	typ      uint8 // RTN_*
	hops     []hop
	// nexthop is the next hop object that the route refers to, 0 for none. Where
	// net.ipv4.nexthop_compat_mode is 0, hops is empty then.
	nexthop int
}

// hop is a route's next hop: the interface, and the gateway, which is not valid where
// there is none.
type hop struct {
	index int
	via   netip.Addr
}

// through tells a person that a route goes through an interface, if it does. The kernel
// has chosen it by interface, unless it is too old to do so.
func (r route) through(index int) (text string, ok bool) {
	text = "route " + r.dst.String()
	if r.dst.Bits() == 0 {
		text = "route default"
	}
	i := slices.IndexFunc(r.hops, func(h hop) bool { return h.index == index })
	switch {
	case i >= 0 && r.hops[i].via.IsValid():
		text += " via " + r.hops[i].via.String()
	case i < 0 && (len(r.hops) > 0 || r.nexthop == 0):
		return "", false
	case i < 0:
		text += " nhid " + strconv.Itoa(r.nexthop)
	}
	if r.table != unix.RT_TABLE_MAIN {
		text += " in table " + strconv.Itoa(r.table)
	}
	return text + " goes through it", true
}

// routeUses asks for the routes through a device. Those of the kernel's own
// (RTPROT_KERNEL) follow from addresses, and those in the local table too.
func (c *Conn) routeUses(ctx context.Context, d device) ([]Use, error) {
	var uses []Use
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		req := nl.NewNetlinkRequest(unix.RTM_GETROUTE, 0)
		req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: family}})
		req.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(d.Index))))
		out, err := c.dump(ctx, req)
		if err != nil {
			return uses, err
		}
		for _, b := range out {
			// A kernel without IPv6 answers for all families.
			if len(b) > 0 && b[0] != family {
				continue
			}
			r, err := parseRoute(b)
			if err != nil {
				return uses, err
			}
			if r.table == unix.RT_TABLE_LOCAL || r.protocol == unix.RTPROT_KERNEL ||
				slices.Contains([]uint8{unix.RTN_LOCAL, unix.RTN_BROADCAST, unix.RTN_ANYCAST, unix.RTN_MULTICAST}, r.typ) {
				continue
			}
			if text, ok := r.through(d.Index); ok {
				uses = append(uses, Use{Kind: UseRoute, Evidence: text})
			}
		}
	}
	return uses, nil
}

// parseRoute reads the payload of an RTM_NEWROUTE message of IPv4 or IPv6, struct rtmsg
// and its attributes.
func parseRoute(b []byte) (route, error) {
	if len(b) < unix.SizeofRtMsg {
		return route{}, fmt.Errorf("%w: %d octets", ErrMalformed, len(b))
	}
	r := route{table: int(b[4]), protocol: b[5], typ: b[7]}
	var dst []byte
	var single hop
	err := EachAttr(b[unix.SizeofRtMsg:], func(typ uint16, v []byte) error {
		var err error
		switch typ {
		case unix.RTA_DST:
			dst = v
		case unix.RTA_TABLE:
			r.table, err = u32(v)
		case rtaNexthop:
			r.nexthop, err = u32(v)
		case unix.RTA_MULTIPATH:
			err = eachHop(v, func(index int, attrs []byte) error {
				h := hop{index: index}
				defer func() { r.hops = append(r.hops, h) }()
				return EachAttr(attrs, h.set)
			})
		default:
			err = single.set(typ, v)
		}
		return err
	})
	if err != nil {
		return r, err
	}
	if single.index != 0 {
		r.hops = append(r.hops, single)
	}
	r.dst, err = prefixOf(b[0], dst, int(b[1]))
	return r, err
}

// rtaNexthop is RTA_NH_ID of include/uapi/linux/rtnetlink.h.
const rtaNexthop = 30

// set reads an attribute of a route or of a struct rtnexthop.
func (h *hop) set(typ uint16, v []byte) error {
	var err error
	switch typ {
	case unix.RTA_OIF:
		h.index, err = u32(v)
	case unix.RTA_GATEWAY:
		h.via, _ = netip.AddrFromSlice(v)
	case unix.RTA_VIA: // struct rtvia: the gateway is of another family
		if len(v) > 2 {
			h.via, _ = netip.AddrFromSlice(v[2:])
		}
	}
	return err
}

// eachHop calls f for each struct rtnexthop of RTA_MULTIPATH.
func eachHop(b []byte, f func(index int, attrs []byte) error) error {
	for len(b) >= unix.SizeofRtNexthop {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtNexthop || size > len(b) {
			return fmt.Errorf("%w: next hop of %d octets in %d", ErrMalformed, size, len(b))
		}
		if err := f(int(int32(binary.NativeEndian.Uint32(b[4:]))), b[unix.SizeofRtNexthop:size]); err != nil {
			return err
		}
		b = b[min(len(b), (size+unix.RTNH_ALIGNTO-1)&^(unix.RTNH_ALIGNTO-1)):]
	}
	return nil
}
