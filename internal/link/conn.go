package link

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"libvirt-direct/helper/devgroup"
)

// filterSkipStats is RTEXT_FILTER_SKIP_STATS of include/uapi/linux/rtnetlink.h.
const filterSkipStats = 1 << 3

// Conn is a rtnetlink connection in the network namespace in which it was opened.
// Its methods wait no longer than their context allows, and ten seconds where it
// says nothing. What they list is whole. It is not for several goroutines at once.
type Conn struct {
	sock *nl.NetlinkSocket
	req  map[int]*nl.SocketHandle
}

// Open connects to the kernel. NETLINK_ROUTE needs no privilege to ask, and
// CAP_NET_ADMIN to change.
func Open() (*Conn, error) {
	// The package opens SOCK_RAW, which is what libvirtd's AppArmor profile allows.
	sock, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("rtnetlink: %w", err)
	}
	// Without the kernel's own words an EINVAL tells nobody anything; kernels
	// before 4.12 do not have them.
	_ = sock.SetExtAck(true)
	return &Conn{sock: sock, req: map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: sock}}}, nil
}

// Close ends the connection.
func (c *Conn) Close() { c.sock.Close() }

// patience is how long the kernel may take where a context does not say.
const patience = 10 * time.Second

// list sends a request for a list and returns the payloads of its entries.
func (c *Conn) list(ctx context.Context, op, link string, req *nl.NetlinkRequest) ([][]byte, error) {
	out, err := c.dump(ctx, req)
	if err != nil {
		return nil, &OpError{Op: op, Link: link, Err: mapErrno(err)}
	}
	return out, nil
}

// do sends one request and returns the payloads of the replies.
func (c *Conn) do(ctx context.Context, op, link string, req *nl.NetlinkRequest) ([][]byte, error) {
	fail := func(err error) ([][]byte, error) { return nil, &OpError{Op: op, Link: link, Err: mapErrno(err)} }
	wait := patience
	if at, ok := ctx.Deadline(); ok {
		wait = time.Until(at)
	}
	if err := ctx.Err(); err != nil || wait <= 0 {
		return fail(context.DeadlineExceeded)
	}
	tv := unix.NsecToTimeval(max(wait, time.Millisecond).Nanoseconds())
	if err := errors.Join(c.sock.SetReceiveTimeout(&tv), c.sock.SetSendTimeout(&tv)); err != nil {
		return fail(err)
	}
	req.Sockets = c.req
	out, err := req.Execute(unix.NETLINK_ROUTE, 0)
	if errors.Is(err, unix.EAGAIN) {
		return fail(fmt.Errorf("the kernel did not answer: %w", context.DeadlineExceeded))
	}
	if err != nil {
		return fail(err)
	}
	return out, nil
}

// mapErrno names what an errno means here; the errno stays in the chain.
func mapErrno(err error) error {
	for errno, known := range map[error]error{
		unix.ENODEV: ErrNotFound, unix.EEXIST: ErrExists, unix.EBUSY: ErrBusy, unix.EOPNOTSUPP: ErrNotSupported,
	} {
		if errors.Is(err, errno) {
			return &errnoError{known, err}
		}
	}
	return err
}

// errnoError reads as this package's error and matches the kernel's as well.
type errnoError struct{ known, errno error }

func (e *errnoError) Error() string {
	// The kernel's own words (extended ack), where it has sent any, say more.
	if e.errno.Error() != rootErrno(e.errno).Error() {
		return e.known.Error() + ": " + e.errno.Error()
	}
	return e.known.Error()
}

func (e *errnoError) Unwrap() []error { return []error{e.known, e.errno} }

// rootErrno is the bare errno below the kernel's words.
func rootErrno(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}

// ByName looks a link up by its name or one of its altnames.
func (c *Conn) ByName(ctx context.Context, name string) (Link, error) {
	attr := uint16(unix.IFLA_IFNAME)
	if len(name) >= unix.IFNAMSIZ {
		attr = unix.IFLA_ALT_IFNAME
	}
	return c.get(ctx, name, 0, nl.NewRtAttr(int(attr), nl.ZeroTerminated(name)))
}

// ByIndex looks a link up by its index.
func (c *Conn) ByIndex(ctx context.Context, index int) (Link, error) {
	return c.get(ctx, "index "+strconv.Itoa(index), index, nil)
}

func (c *Conn) get(ctx context.Context, what string, index int, by *nl.RtAttr) (Link, error) {
	req := message(unix.RTM_GETLINK, 0, index)
	if by != nil {
		req.AddData(by)
	}
	// Neither VFs nor statistics: the reply stays small whatever the device.
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(filterSkipStats)))
	out, err := c.do(ctx, "look up", what, req)
	if err != nil {
		return Link{}, err
	}
	if len(out) != 1 {
		return Link{}, &OpError{Op: "look up", Link: what, Err: fmt.Errorf("%w: %d replies", ErrMalformed, len(out))}
	}
	l, err := parseLink(out[0])
	if err != nil {
		return Link{}, &OpError{Op: "look up", Link: what, Err: err}
	}
	return l, nil
}

// All returns every link of the namespace. Its cost grows with their number: it is
// for gc and status, which people run, and not for hooks.
func (c *Conn) All(ctx context.Context) ([]Link, error) {
	req := message(unix.RTM_GETLINK, 0, 0)
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(filterSkipStats)))
	out, err := c.list(ctx, "list", "links", req)
	if err != nil {
		return nil, err
	}
	links := make([]Link, 0, len(out))
	for _, b := range out {
		l, err := parseLink(b)
		if err != nil {
			return nil, &OpError{Op: "list", Link: "links", Err: err}
		}
		links = append(links, l)
	}
	return links, nil
}

// VLAN is an 802.1Q sub-interface to make.
type VLAN struct {
	Name   string
	Index  int // 0: the kernel chooses
	Parent int
	ID     int // 1..4094
}

// AddVLAN makes a VLAN sub-interface, down. It inherits its parent's MTU and MAC.
func (c *Conn) AddVLAN(ctx context.Context, v VLAN) error {
	data := nl.NewRtAttr(unix.IFLA_INFO_DATA, nil)
	data.AddRtAttr(unix.IFLA_VLAN_ID, nl.Uint16Attr(uint16(v.ID)))
	return c.create(ctx, "vlan", v.Name, v.Index, v.Parent, data)
}

// Macvtap is a macvtap to make.
type Macvtap struct {
	Name   string
	Index  int // 0: the kernel chooses
	Lower  int
	Mode   string // "vepa", "bridge", "private" or "passthrough"
	MAC    string
	MTU    int // 0: the lower device's
	Queues int // transmit and receive queues; 0 and 1 mean one
}

// AddMacvtap makes a macvtap, down.
//
// A passthrough macvtap takes over its lower device and at first has its MAC; the
// kernel gives the lower device the macvtap's MAC when that is set, and its own back
// when the macvtap goes (drivers/net/macvlan.c).
func (c *Conn) AddMacvtap(ctx context.Context, m Macvtap) error {
	mode, ok := modeValue(m.Mode)
	if !ok {
		return &OpError{Op: "create macvtap", Link: m.Name, Err: fmt.Errorf("unknown mode %q", m.Mode)}
	}
	mac, err := parseMAC(m.MAC)
	if err != nil {
		return &OpError{Op: "create macvtap", Link: m.Name, Err: err}
	}
	data := nl.NewRtAttr(unix.IFLA_INFO_DATA, nil)
	data.AddRtAttr(unix.IFLA_MACVLAN_MODE, nl.Uint32Attr(mode))
	attrs := []*nl.RtAttr{nl.NewRtAttr(unix.IFLA_ADDRESS, mac)}
	if m.MTU > 0 {
		attrs = append(attrs, nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(m.MTU))))
	}
	if m.Queues > 1 {
		attrs = append(attrs,
			nl.NewRtAttr(unix.IFLA_NUM_TX_QUEUES, nl.Uint32Attr(uint32(m.Queues))),
			nl.NewRtAttr(unix.IFLA_NUM_RX_QUEUES, nl.Uint32Attr(uint32(m.Queues))))
	}
	return c.create(ctx, "macvtap", m.Name, m.Index, m.Lower, data, attrs...)
}

// group marks a device as one of a guest, for the host's network managers.
func group() *nl.RtAttr { return nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(devgroup.Group)) }

func (c *Conn) create(ctx context.Context, kind, name string, index, parent int, data *nl.RtAttr, attrs ...*nl.RtAttr) error {
	req := message(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, index)
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	req.AddData(nl.NewRtAttr(unix.IFLA_LINK, nl.Uint32Attr(uint32(parent))))
	req.AddData(group())
	for _, a := range attrs {
		req.AddData(a)
	}
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(unix.IFLA_INFO_KIND, []byte(kind))
	info.AddChild(data)
	req.AddData(info)
	_, err := c.do(ctx, "create "+kind, name, req)
	return err
}

// Delete removes the link with that index.
func (c *Conn) Delete(ctx context.Context, index int) error {
	_, err := c.do(ctx, "remove", "index "+strconv.Itoa(index), message(unix.RTM_DELLINK, unix.NLM_F_ACK, index))
	return err
}

// SetUp sets IFF_UP, or clears it.
func (c *Conn) SetUp(ctx context.Context, index int, up bool) error {
	return c.setFlag(ctx, "set up", index, unix.IFF_UP, up)
}

// SetAllMulticast sets IFF_ALLMULTI, or clears it: whether the device receives
// multicast frames that nobody on it has asked for.
func (c *Conn) SetAllMulticast(ctx context.Context, index int, on bool) error {
	return c.setFlag(ctx, "set allmulticast of", index, unix.IFF_ALLMULTI, on)
}

func (c *Conn) setFlag(ctx context.Context, op string, index int, flag uint32, on bool) error {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index, msg.Change = int32(index), flag
	if on {
		msg.Flags = flag
	}
	req.AddData(msg)
	_, err := c.do(ctx, op, "index "+strconv.Itoa(index), req)
	return err
}

// SetAlias sets the text that `ip link` shows as alias, at most 255 octets.
func (c *Conn) SetAlias(ctx context.Context, index int, alias string) error {
	return c.set(ctx, "set alias of", index, nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(alias)))
}

// SetName renames a device. Most kernels do so only while it is down.
func (c *Conn) SetName(ctx context.Context, index int, name string) error {
	return c.set(ctx, "rename", index, nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
}

// SetMAC sets the device's address. The error of a VF that may not change the one that
// its PF has given it matches ErrMACFixed.
func (c *Conn) SetMAC(ctx context.Context, index int, mac string) error {
	b, err := parseMAC(mac)
	if err != nil {
		return &OpError{Op: "set MAC of", Link: "index " + strconv.Itoa(index), Err: err}
	}
	err = c.set(ctx, "set MAC of", index, nl.NewRtAttr(unix.IFLA_ADDRESS, b))
	// igbvf's errno, ixgbevf's, and iavf's.
	for _, errno := range []error{unix.EADDRNOTAVAIL, unix.EPERM, unix.EACCES} {
		if errors.Is(err, errno) {
			return &OpError{Op: "set MAC of", Link: "index " + strconv.Itoa(index), Err: &errnoError{ErrMACFixed, errno}}
		}
	}
	return err
}

func (c *Conn) set(ctx context.Context, op string, index int, attr *nl.RtAttr) error {
	req := message(unix.RTM_SETLINK, unix.NLM_F_ACK, index)
	req.AddData(attr)
	_, err := c.do(ctx, op, "index "+strconv.Itoa(index), req)
	return err
}

// AddAltName gives the device one more name, at most 127 octets.
func (c *Conn) AddAltName(ctx context.Context, index int, name string) error {
	return c.altName(ctx, unix.RTM_NEWLINKPROP, "add altname "+name+" to", index, name)
}

// RemoveAltName takes such a name away.
func (c *Conn) RemoveAltName(ctx context.Context, index int, name string) error {
	return c.altName(ctx, unix.RTM_DELLINKPROP, "remove altname "+name+" from", index, name)
}

func (c *Conn) altName(ctx context.Context, typ int, op string, index int, name string) error {
	req := message(typ, unix.NLM_F_ACK, index)
	list := nl.NewRtAttr(unix.IFLA_PROP_LIST|unix.NLA_F_NESTED, nil)
	list.AddRtAttr(unix.IFLA_ALT_IFNAME, nl.ZeroTerminated(name))
	req.AddData(list)
	_, err := c.do(ctx, op, "index "+strconv.Itoa(index), req)
	return err
}

// Silence keeps the host's own voice off a device that is a guest's, and its ears: the host
// answers no ARP request there, as it else does for each of its addresses on each of its
// devices; it has no link-local address, takes none from router advertisements, and joins
// no multicast group; and IPv4 packets for it are not for it, unless a route leads back there
// (Documentation/networking/ip-sysctl.rst). The device is told by its index, for whoever
// names devices may be giving it another name. A kernel without IPv6 has nothing to disable.
func (c *Conn) Silence(ctx context.Context, index int) error {
	if err := c.setFlag(ctx, "silence", index, unix.IFF_NOARP, true); err != nil {
		return err
	}
	l, err := c.ByIndex(ctx, index)
	for range 5 { // nobody renames a device that often
		if err != nil {
			return err
		}
		was := l.Name
		if err := silence(was); err != nil {
			return &OpError{Op: "silence", Link: was, Err: err}
		}
		if l, err = c.ByIndex(ctx, index); err == nil && l.Name == was {
			return nil
		}
	}
	return &OpError{Op: "silence", Link: l.Name, Err: ErrNotFound}
}

func silence(name string) error {
	for _, p := range []struct{ file, value string }{
		{"ipv6/conf/" + name + "/disable_ipv6", "1"},
		{"ipv4/conf/" + name + "/rp_filter", "1"},
	} {
		err := os.WriteFile("/proc/sys/net/"+p.file, []byte(p.value), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

func message(typ, flags, index int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(typ, flags)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	return req
}
