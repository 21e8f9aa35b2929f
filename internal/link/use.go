package link

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// UseKind says in which way a network device is used.
type UseKind string

// The kinds of use, in the order in which Uses looks for them.
const (
	// UseUpper: a device of this network namespace stands on it.
	UseUpper UseKind = "upper"
	// UseMaster: it is a port of a bridge, bond or team, of Open vSwitch, of a VRF.
	UseMaster UseKind = "master"
	// UseXDP: an XDP program sees its frames first.
	UseXDP UseKind = "xdp"
	// UseVFs: it is a PF that has virtual functions.
	UseVFs UseKind = "vfs"
	// UseAddress: this host has an address on it.
	UseAddress UseKind = "address"
	// UseRoute: a route of this host goes through it.
	UseRoute UseKind = "route"
	// UseElsewhere: a device of another network namespace stands on it.
	UseElsewhere UseKind = "elsewhere"
	// UseRDMA: programs or kernel services use it by RDMA.
	UseRDMA UseKind = "rdma"
	// UseUnknown: whether it is used could not be found out. A free choice takes it for
	// a use; what a person has named is not refused for it.
	UseUnknown UseKind = "unknown"

	// UseDriver: a VF is bound to a driver that makes no network device, as vfio-pci.
	UseDriver UseKind = "driver"
	// UseUnbound: a VF is bound to no driver.
	UseUnbound UseKind = "unbound"
	// UseAway: a VF's network device is in another network namespace.
	UseAway UseKind = "away"

	// UseUnfit: no use, but a device on which no macvtap can stand; from Lower alone.
	UseUnfit UseKind = "unfit"
)

// Use is one way in which a network device is used.
type Use struct {
	Kind UseKind
	// Evidence tells a person what was seen. It is a sentence in which "it" is the
	// device: "macvtap7 stands on it".
	Evidence string
	// Device is the upper device or master, by its name in this namespace; "" for other
	// kinds.
	Device string
	// Err is why a use is unknown; nil for other kinds.
	Err error
}

func (u Use) String() string { return u.Evidence }

func unknownUse(err error) Use {
	return Use{Kind: UseUnknown, Evidence: "whether it is used cannot be told: " + err.Error(), Err: err}
}

// FirstUse returns the first of some uses; used is false where there is none. What
// would find the others is not run.
func FirstUse(uses iter.Seq[Use]) (first Use, used bool) {
	for u := range uses {
		return u, true
	}
	return Use{}, false
}

// Uses lists in which ways somebody uses a network device, as the kernel shows it;
// nothing for a device that is free. It looks while the sequence is read, for what costs
// least first, so that reading one use alone is cheap.
//
// elsewhere is what stands on this namespace's devices from other ones, looked up once
// for all devices that are asked about. With nil other namespaces are not looked into;
// a macvlan there shows itself all the same while it is up, by the address for which the
// device receives frames.
//
// What is no use: IFF_UP, which udev and network managers set on what they do not use;
// the IPv6 link-local address that the kernel gives to a device that is up, and the
// routes that follow from it; packet sockets, as those of lldpad, vdpd and tcpdump;
// the other end of a veth. What is not seen: AF_XDP sockets that only transmit (one that
// receives has an XDP program); tunnels bound to the device (gre, sit), which have no upper
// link; a passthrough macvtap in a namespace that cannot be seen.
func (c *Conn) Uses(ctx context.Context, name string, elsewhere *Elsewhere) iter.Seq[Use] {
	return func(yield func(Use) bool) {
		// Before anything else, and by the name as given: most VFs of a busy card are
		// used in this way.
		uppers, err := sys.upperUses(name)
		for _, u := range uppers {
			if !yield(u) {
				return
			}
		}
		byAltName := errors.Is(err, fs.ErrNotExist)
		fail := func(err error) bool {
			return yield(unknownUse(&OpError{Op: "look for users of", Link: name, Err: mapErrno(err)}))
		}
		if err != nil && !byAltName && !fail(err) {
			return
		}
		d, err := c.device(ctx, name)
		if err != nil {
			yield(unknownUse(err))
			return
		}
		looks := []func(context.Context, device) ([]Use, error){
			c.masterUse, xdpUse, vfsUse, c.addressUses, c.routeUses,
			func(context.Context, device) ([]Use, error) { return elsewhere.Uses(d.Index), nil },
			rdmaUse, // which has the kernel list all RDMA devices
		}
		if byAltName {
			looks = slices.Insert(looks, 0, upperUses)
		}
		// Whoever stands on it may have added addresses to its filter.
		stood := len(uppers) > 0 || d.Master != 0
		for _, look := range append(looks, func(ctx context.Context, d device) ([]Use, error) {
			if stood {
				return nil, nil
			}
			return c.filterUses(ctx, d)
		}) {
			uses, err := look(ctx, d)
			for _, u := range uses {
				stood = stood || u.Kind == UseUpper || u.Kind == UseElsewhere
				if !yield(u) {
					return
				}
			}
			if err != nil && !fail(err) {
				return
			}
		}
	}
}

// VFUsed lists in which ways a VF is used: why it has no network device here, or that
// device's uses, as Uses does.
func (c *Conn) VFUsed(ctx context.Context, vf VFUse, elsewhere *Elsewhere) iter.Seq[Use] {
	if vf.Netdev != "" {
		return c.Uses(ctx, vf.Netdev, elsewhere)
	}
	return func(yield func(Use) bool) { yield(sys.noNetdev(vf, elsewhere)) }
}

// noNetdev says why a VF has no network device in this namespace.
func (s sysfs) noNetdev(vf VFUse, elsewhere *Elsewhere) Use {
	if vf.Driver == "" {
		return Use{Kind: UseUnbound, Evidence: "it is bound to no driver"}
	}
	if u, ok := elsewhere.device(vf.Device); ok {
		return Use{Kind: UseAway, Evidence: fmt.Sprintf("its network device %s is in %s", u.Name, u.Where)}
	}
	// sysfs shows a device's folder "net", and in it only this namespace's devices.
	if dirs, _ := filepath.Glob(filepath.Join(string(s), "bus/*/devices", vf.Device, "net")); len(dirs) > 0 {
		return Use{Kind: UseAway, Evidence: "its network device is in another network namespace"}
	}
	return Use{Kind: UseDriver, Evidence: fmt.Sprintf("it is bound to %s and has no network device", vf.Driver)}
}

// device is a link with what tells of its users.
type device struct {
	Link
	hardware uint16 // ARPHRD_*
	// port is the kind of the master whose port it is (IFLA_INFO_SLAVE_KIND); "" where
	// the master is a driver's own.
	port string
	// parentDevice is the name of the device on its bus, "0000:03:10.0".
	parentDevice string
	// parentSpace is the identifier of Parent's network namespace, where that is not
	// the link's own (Link.ParentElsewhere).
	parentSpace int
	xdp         xdp
}

// xdp is IFLA_XDP: whether programs are attached, XDP_ATTACHED_*, and one's number.
type xdp struct {
	attached int
	program  int
}

func (c *Conn) device(ctx context.Context, name string) (device, error) {
	attr := uint16(unix.IFLA_IFNAME)
	if len(name) >= unix.IFNAMSIZ {
		attr = unix.IFLA_ALT_IFNAME
	}
	req := message(unix.RTM_GETLINK, 0, 0)
	req.AddData(nl.NewRtAttr(int(attr), nl.ZeroTerminated(name)))
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(filterSkipStats)))
	b, err := c.exchange(ctx, req)
	if err == nil {
		var d device
		if d, err = parseDevice(b); err == nil {
			return d, nil
		}
	}
	return device{}, &OpError{Op: "look up", Link: name, Err: mapErrno(err)}
}

// parseDevice reads the payload of an RTM_NEWLINK message, as parseLink does, and more
// of it.
func parseDevice(b []byte) (device, error) {
	l, err := parseLink(b)
	if err != nil {
		return device{}, err
	}
	d := device{Link: l, hardware: binary.NativeEndian.Uint16(b[2:])}
	err = EachAttr(b[unix.SizeofIfInfomsg:], func(typ uint16, v []byte) error {
		var err error
		switch typ {
		case unix.IFLA_LINK_NETNSID:
			d.parentSpace, err = u32(v)
		case unix.IFLA_PARENT_DEV_NAME:
			d.parentDevice = cstring(v)
		case unix.IFLA_LINKINFO:
			err = EachAttr(v, func(typ uint16, v []byte) error {
				if typ == unix.IFLA_INFO_SLAVE_KIND {
					d.port = cstring(v)
				}
				return nil
			})
		case unix.IFLA_XDP:
			err = EachAttr(v, func(typ uint16, v []byte) error {
				var err error
				switch typ {
				case unix.IFLA_XDP_ATTACHED:
					d.xdp.attached, err = octet(v)
				case unix.IFLA_XDP_PROG_ID, unix.IFLA_XDP_DRV_PROG_ID, unix.IFLA_XDP_SKB_PROG_ID, unix.IFLA_XDP_HW_PROG_ID:
					d.xdp.program, err = u32(v)
				}
				return err
			})
		}
		return err
	})
	return d, err
}

func (c *Conn) masterUse(ctx context.Context, d device) ([]Use, error) {
	if d.Master == 0 {
		return nil, nil
	}
	master, err := c.ByIndex(ctx, d.Master)
	if notFound(err) { // it has let go in this moment, or been removed
		return nil, fmt.Errorf("its master has gone: %w", err)
	}
	if err != nil {
		return nil, err
	}
	if d.port == "openvswitch" {
		// Its master is the datapath, not the bridge that ovs-vsctl shows.
		return []Use{{Kind: UseMaster, Evidence: "it is a port of Open vSwitch", Device: master.Name}}, nil
	}
	kind := d.port
	if kind != "" {
		kind += " "
	}
	return []Use{{Kind: UseMaster, Evidence: "it is a port of " + kind + master.Name, Device: master.Name}}, nil
}

func xdpUse(_ context.Context, d device) ([]Use, error) {
	if d.xdp.attached == 0 {
		return nil, nil
	}
	return []Use{{Kind: UseXDP, Evidence: fmt.Sprintf("XDP program %d is attached to it", d.xdp.program)}}, nil
}

func upperUses(_ context.Context, d device) ([]Use, error) { return sys.upperUses(d.Name) }

func (s sysfs) upperUses(name string) ([]Use, error) {
	names, err := s.uppers(name)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	master := base(string(s), "class/net", name, "master")
	var uses []Use
	for _, u := range names {
		if u != master {
			uses = append(uses, Use{Kind: UseUpper, Evidence: u + " stands on it", Device: u})
		}
	}
	return uses, nil
}

// uppers lists the links upper_NAME of a network device, a master's among them. They
// name devices of this network namespace alone (net/core/dev.c).
func (s sysfs) uppers(name string) ([]string, error) {
	// This is asked of every VF of a card: os.ReadDir takes twice as long.
	fd, err := unix.Open(filepath.Join(string(s), "class/net", name), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("open", err)
	}
	defer unix.Close(fd)
	var buf [4096]byte
	var entries, uppers []string
	for {
		n, err := unix.Getdents(fd, buf[:])
		if err != nil {
			return nil, os.NewSyscallError("getdents64", err)
		}
		if n == 0 {
			break
		}
		_, _, entries = unix.ParseDirent(buf[:n], -1, entries[:0])
		for _, e := range entries {
			if u, ok := strings.CutPrefix(e, "upper_"); ok {
				uppers = append(uppers, u)
			}
		}
	}
	slices.Sort(uppers)
	return uppers, nil
}

// wireless reports whether a device is an 802.11 one (net/wireless/sysfs.c and, of old
// drivers, net/core/net-sysfs.c).
func (s sysfs) wireless(name string) bool {
	for _, sign := range []string{"phy80211", "wireless"} {
		if _, err := os.Lstat(filepath.Join(string(s), "class/net", name, sign)); err == nil {
			return true
		}
	}
	return false
}

func vfsUse(_ context.Context, d device) ([]Use, error) { return sys.vfsUse(d.Name) }

func (s sysfs) vfsUse(name string) ([]Use, error) {
	b, err := os.ReadFile(filepath.Join(string(s), "class/net", name, "device/sriov_numvfs"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || n == 0 {
		return nil, err
	}
	return []Use{{Kind: UseVFs, Evidence: fmt.Sprintf("it has %d virtual functions", n)}}, nil
}

// filterUses tells of addresses for which the device receives frames although nobody
// who is seen stands on it (RTM_GETNEIGH with the device's own table, its dev->uc): a
// macvlan that is up adds its own to its lower device, in whatever namespace it is, and
// some are in one that nobody can look into (the setuid helper's).
func (c *Conn) filterUses(ctx context.Context, d device) ([]Use, error) {
	if d.hardware != unix.ARPHRD_ETHER {
		return nil, nil
	}
	macs, err := c.SelfEntries(ctx, d.Index)
	var uses []Use
	for _, mac := range macs {
		uses = append(uses, Use{Kind: UseElsewhere, Evidence: fmt.Sprintf(
			"it receives frames for %s, as for a macvlan in a network namespace that cannot be seen", mac)})
	}
	return uses, err
}

// fdbMsg is struct ndmsg that asks for the forwarding entries of one device.
type fdbMsg int

func (m fdbMsg) Len() int { return unix.SizeofNdMsg }

func (m fdbMsg) Serialize() []byte {
	b := binary.NativeEndian.AppendUint32([]byte{unix.AF_BRIDGE, 0, 0, 0}, uint32(m))
	return append(b, 0, 0, 0, 0)
}

// neighbour is what RTM_GETNEIGH says of one forwarding entry.
type neighbour struct {
	index int
	mac   net.HardwareAddr
	self  bool // the device's own entry, no bridge's
}

// parseNeighbour reads the payload of an RTM_NEWNEIGH message, struct ndmsg and its
// attributes.
func parseNeighbour(b []byte) (neighbour, error) {
	if len(b) < unix.SizeofNdMsg {
		return neighbour{}, fmt.Errorf("%w: %d octets", ErrMalformed, len(b))
	}
	n := neighbour{index: int(int32(binary.NativeEndian.Uint32(b[4:]))), self: b[10]&unix.NTF_SELF != 0}
	return n, EachAttr(b[unix.SizeofNdMsg:], func(typ uint16, v []byte) error {
		if typ == unix.NDA_LLADDR {
			n.mac = v
		}
		return nil
	})
}
