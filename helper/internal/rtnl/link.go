package rtnl

import (
	"errors"

	"golang.org/x/sys/unix"

	"libvirt-direct/helper/devgroup"
	"libvirt-direct/helper/internal/ether"
)

// Link is what the helper has to know of a network device.
type Link struct {
	Index    int
	Name     string
	Type     uint16 // ARPHRD_*
	Flags    uint32 // IFF_*
	MTU      uint32
	MAC      ether.MAC
	Kind     string // IFLA_INFO_KIND, empty for hardware
	Master   int    // 0 if it has none
	Lower    int    // IFLA_LINK, 0 if it has none
	VLAN     uint16 // of kind vlan
	VLANTPID uint16 // of kind vlan, host byte order
	Alias    string // IFLA_IFALIAS
	AltNames []string
	Carrier  bool

	// Operational: the state that bridges go by (RFC 2863) is up, or the kind of device has none.
	Operational bool

	// LowerElsewhere: Lower is an index of another network namespace.
	LowerElsewhere bool

	VLANFiltering bool   // of kind bridge
	DefaultPVID   uint16 // of kind bridge
	MacvlanMode   uint32 // of kinds macvlan and macvtap (enum macvlan_mode)
	Tun           Tun    // of kind tun
}

// Tun is what the kernel says of a TUN or TAP device.
type Tun struct {
	Persist    bool
	MultiQueue bool
	Queues     uint32 // with MultiQueue
	Disabled   uint32 // with MultiQueue: queues detached by TUNSETQUEUE
}

// Names are the device's name and its alternative names, each of which LinkByName takes.
func (l *Link) Names() []string { return append([]string{l.Name}, l.AltNames...) }

// ErrNoLink is a device that does not exist.
var ErrNoLink = errors.New("no such network device")

// LinkByName looks a device up, without asking for its statistics and virtual functions: the cost does not depend on
// how many there are of either, nor on the number of links.
func (c *Conn) LinkByName(name string) (Link, error) {
	return c.get(0, func(m *Batch) { m.attrString(unix.IFLA_IFNAME, name) })
}

// LinkByIndex looks a device up, at the same cost.
func (c *Conn) LinkByIndex(index int) (Link, error) { return c.get(index, func(*Batch) {}) }

func (c *Conn) get(index int, name func(*Batch)) (Link, error) {
	var m Batch
	m.begin(unix.RTM_GETLINK, 0)
	m.link(unix.AF_UNSPEC, index, 0, 0)
	name(&m)
	m.attr32(unix.IFLA_EXT_MASK, extMaskSkipStats)
	m.end()
	msg, err := c.ask(&m)
	if err != nil {
		return Link{}, err
	}
	switch get16(msg[4:]) {
	case unix.RTM_NEWLINK:
		return parseLink(msg[unix.SizeofNlMsghdr:])
	case unix.NLMSG_ERROR:
		err = parseError(msg, 0)
	}
	switch {
	case errors.Is(err, unix.ENODEV):
		return Link{}, ErrNoLink
	case err == nil:
		return Link{}, ErrMalformed
	}
	return Link{}, err
}

// parseLink reads a struct ifinfomsg and the attributes behind it.
func parseLink(b []byte) (Link, error) {
	if len(b) < unix.SizeofIfInfomsg {
		return Link{}, ErrMalformed
	}
	l := Link{Type: get16(b[2:]), Index: int(int32(get32(b[4:]))), Flags: get32(b[8:])}
	attributes(b[unix.SizeofIfInfomsg:], func(kind uint16, v []byte) {
		switch {
		case kind == unix.IFLA_IFNAME:
			l.Name = cString(v)
		case kind == unix.IFLA_LINKINFO:
			l.parseInfo(v)
		case kind == unix.IFLA_IFALIAS:
			l.Alias = cString(v)
		case kind == unix.IFLA_PROP_LIST:
			attributes(v, func(kind uint16, v []byte) {
				if kind == unix.IFLA_ALT_IFNAME {
					l.AltNames = append(l.AltNames, cString(v))
				}
			})
		case kind == unix.IFLA_CARRIER && len(v) == 1:
			l.Carrier = v[0] != 0
		case kind == unix.IFLA_OPERSTATE && len(v) == 1:
			l.Operational = v[0] == operUp || v[0] == operUnknown
		case kind == unix.IFLA_LINK_NETNSID:
			l.LowerElsewhere = true
		case kind == unix.IFLA_ADDRESS && len(v) == len(l.MAC):
			copy(l.MAC[:], v)
		case len(v) != 4:
		case kind == unix.IFLA_MTU:
			l.MTU = get32(v)
		case kind == unix.IFLA_MASTER:
			l.Master = int(int32(get32(v)))
		case kind == unix.IFLA_LINK:
			l.Lower = int(int32(get32(v)))
		}
	})
	return l, nil
}

func (l *Link) parseInfo(b []byte) {
	var data []byte
	attributes(b, func(kind uint16, v []byte) {
		switch kind {
		case unix.IFLA_INFO_KIND:
			l.Kind = cString(v)
		case unix.IFLA_INFO_DATA:
			data = v
		}
	})
	attributes(data, func(kind uint16, v []byte) {
		switch {
		case l.Kind == "vlan" && kind == unix.IFLA_VLAN_ID && len(v) == 2:
			l.VLAN = get16(v)
		case l.Kind == "vlan" && kind == unix.IFLA_VLAN_PROTOCOL && len(v) == 2:
			l.VLANTPID = uint16(v[0])<<8 | uint16(v[1])
		case l.Kind == "bridge" && kind == unix.IFLA_BR_VLAN_FILTERING && len(v) == 1:
			l.VLANFiltering = v[0] != 0
		case l.Kind == "bridge" && kind == unix.IFLA_BR_VLAN_DEFAULT_PVID && len(v) == 2:
			l.DefaultPVID = get16(v)
		case (l.Kind == "macvlan" || l.Kind == "macvtap") && kind == unix.IFLA_MACVLAN_MODE && len(v) == 4:
			l.MacvlanMode = get32(v)
		case l.Kind == "tun":
			l.Tun.parse(kind, v)
		}
	})
}

func (t *Tun) parse(kind uint16, v []byte) {
	switch {
	case kind == tunPersist && len(v) == 1:
		t.Persist = v[0] != 0
	case kind == tunMultiQueue && len(v) == 1:
		t.MultiQueue = v[0] != 0
	case kind == tunNumQueues && len(v) == 4:
		t.Queues = get32(v)
	case kind == tunNumDisabledQueues && len(v) == 4:
		t.Disabled = get32(v)
	}
}

// Macvlan is a macvlan or macvtap device to be made.
type Macvlan struct {
	Tap   bool // macvtap
	Index int  // of the new device
	Name  string
	Lower int
	MAC   *ether.MAC // nil leaves it to the kernel
	Mode  uint32     // enum macvlan_mode
	Flags uint32     // IFF_*
	NSPid int        // thread whose network namespace takes the device; 0 for that of the socket
}

// AddMacvlan asks for a new device, which is down.
func (m *Batch) AddMacvlan(d Macvlan) {
	kind := "macvlan"
	if d.Tap {
		kind = "macvtap"
	}
	m.begin(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	m.link(unix.AF_UNSPEC, d.Index, d.Flags, d.Flags)
	m.attrString(unix.IFLA_IFNAME, d.Name)
	m.group()
	m.attr32(unix.IFLA_LINK, uint32(d.Lower))
	if d.MAC != nil {
		m.attr(unix.IFLA_ADDRESS, d.MAC[:])
	}
	if d.NSPid != 0 {
		m.attr32(unix.IFLA_NET_NS_PID, uint32(d.NSPid))
	}
	m.nest(unix.IFLA_LINKINFO, func() {
		m.attrString(unix.IFLA_INFO_KIND, kind)
		m.nest(unix.IFLA_INFO_DATA, func() { m.attr32(unix.IFLA_MACVLAN_MODE, d.Mode) })
	})
	m.end()
}

// Veth is a veth pair to be made.
type Veth struct {
	Name      string // of the end in the socket's namespace
	Index     int
	MAC       ether.MAC
	MTU       uint32
	Peer      string // the other end
	PeerIndex int
	PeerMAC   ether.MAC
	PeerNSPid int // thread whose network namespace takes the other end
}

// AddVeth asks for the pair. Both ends are down; on the socket's end the host answers no ARP requests.
func (m *Batch) AddVeth(d Veth) {
	m.begin(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	m.link(unix.AF_UNSPEC, d.Index, unix.IFF_NOARP, unix.IFF_NOARP)
	m.attrString(unix.IFLA_IFNAME, d.Name)
	m.group()
	m.attr(unix.IFLA_ADDRESS, d.MAC[:])
	m.attr32(unix.IFLA_MTU, d.MTU)
	m.nest(unix.IFLA_LINKINFO, func() {
		m.attrString(unix.IFLA_INFO_KIND, "veth")
		m.nest(unix.IFLA_INFO_DATA, func() {
			m.nest(vethInfoPeer, func() {
				m.link(unix.AF_UNSPEC, d.PeerIndex, 0, 0)
				m.attrString(unix.IFLA_IFNAME, d.Peer)
				m.attr(unix.IFLA_ADDRESS, d.PeerMAC[:])
				m.attr32(unix.IFLA_MTU, d.MTU)
				m.attr32(unix.IFLA_NET_NS_PID, uint32(d.PeerNSPid))
			})
		})
	})
	m.end()
}

// AddBridge asks for a new bridge without spanning tree and multicast snooping, which is down, and promiscuous.
func (m *Batch) AddBridge(index int, name string, mac ether.MAC) {
	m.begin(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	m.link(unix.AF_UNSPEC, index, unix.IFF_PROMISC, unix.IFF_PROMISC)
	m.attrString(unix.IFLA_IFNAME, name)
	m.attr(unix.IFLA_ADDRESS, mac[:])
	m.nest(unix.IFLA_LINKINFO, func() {
		m.attrString(unix.IFLA_INFO_KIND, "bridge")
		m.nest(unix.IFLA_INFO_DATA, func() { m.attr8(unix.IFLA_BR_MCAST_SNOOPING, 0) })
	})
	m.end()
}

// AddVLAN asks for a new 802.1Q sub-interface, which is down and on which the host answers no ARP requests.
func (m *Batch) AddVLAN(name string, index, lower int, vid uint16) {
	m.begin(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	m.link(unix.AF_UNSPEC, index, unix.IFF_NOARP, unix.IFF_NOARP)
	m.attrString(unix.IFLA_IFNAME, name)
	m.group()
	m.attr32(unix.IFLA_LINK, uint32(lower))
	m.nest(unix.IFLA_LINKINFO, func() {
		m.attrString(unix.IFLA_INFO_KIND, "vlan")
		m.nest(unix.IFLA_INFO_DATA, func() { m.attr16(unix.IFLA_VLAN_ID, vid) })
	})
	m.end()
}

// group marks a device that is being made as one that the host's network managers leave alone.
func (m *Batch) group() { m.attr32(unix.IFLA_GROUP, devgroup.Group) }

// SetGroup marks a device that could not be marked when it was made.
func (m *Batch) SetGroup(index int) {
	m.begin(unix.RTM_SETLINK, 0)
	m.link(unix.AF_UNSPEC, index, 0, 0)
	m.group()
	m.end()
}

// NoIPv6Address keeps the kernel from giving the device a link-local address of its own, and from announcing it on the
// wire under the guest's MAC address, when it comes up. A kernel without IPv6 answers EAFNOSUPPORT.
func (m *Batch) NoIPv6Address(index int) {
	m.begin(unix.RTM_SETLINK, 0)
	m.link(unix.AF_UNSPEC, index, 0, 0)
	m.nest(unix.IFLA_AF_SPEC, func() {
		m.nest(unix.AF_INET6, func() { m.attr8(unix.IFLA_INET6_ADDR_GEN_MODE, addrGenModeNone) })
	})
	m.end()
}

// SetMAC gives the device another address.
func (m *Batch) SetMAC(index int, mac ether.MAC) {
	m.begin(unix.RTM_SETLINK, 0)
	m.link(unix.AF_UNSPEC, index, 0, 0)
	m.attr(unix.IFLA_ADDRESS, mac[:])
	m.end()
}

// SetAlias sets the text that people see with the device.
func (m *Batch) SetAlias(index int, alias string) {
	m.begin(unix.RTM_SETLINK, 0)
	m.link(unix.AF_UNSPEC, index, 0, 0)
	m.attr(unix.IFLA_IFALIAS, []byte(alias))
	m.end()
}

// SetMTU sets the largest payload of a frame, in octets.
func (m *Batch) SetMTU(index int, mtu uint32) {
	m.begin(unix.RTM_SETLINK, 0)
	m.link(unix.AF_UNSPEC, index, 0, 0)
	m.attr32(unix.IFLA_MTU, mtu)
	m.end()
}

// NoARP keeps the host from answering ARP requests on the device.
func (m *Batch) NoARP(index int) {
	m.begin(unix.RTM_SETLINK, 0)
	m.link(unix.AF_UNSPEC, index, unix.IFF_NOARP, unix.IFF_NOARP)
	m.end()
}

// Move moves the device to the network namespace of an open file (ns(7)).
func (m *Batch) Move(index, ns int) {
	m.begin(unix.RTM_SETLINK, 0)
	m.link(unix.AF_UNSPEC, index, 0, 0)
	m.attr32(unix.IFLA_NET_NS_FD, uint32(ns))
	m.end()
}

// SetMaster makes the device a port of a bridge.
func (m *Batch) SetMaster(index, master int) {
	m.begin(unix.RTM_SETLINK, 0)
	m.link(unix.AF_UNSPEC, index, 0, 0)
	m.attr32(unix.IFLA_MASTER, uint32(master))
	m.end()
}

// Up brings the device up.
func (m *Batch) Up(index int) {
	m.begin(unix.RTM_SETLINK, 0)
	m.link(unix.AF_UNSPEC, index, unix.IFF_UP, unix.IFF_UP)
	m.end()
}

// Delete removes the device.
func (m *Batch) Delete(index int) {
	m.begin(unix.RTM_DELLINK, 0)
	m.link(unix.AF_UNSPEC, index, 0, 0)
	m.end()
}

// BridgePort sets a port's flags.
func (m *Batch) BridgePort(index int, isolated, learning bool) {
	m.begin(unix.RTM_SETLINK, 0)
	m.link(unix.AF_BRIDGE, index, 0, 0)
	m.nest(unix.IFLA_PROTINFO, func() {
		m.attr8(unix.IFLA_BRPORT_ISOLATED, bit(isolated))
		m.attr8(unix.IFLA_BRPORT_LEARNING, bit(learning))
	})
	m.end()
}

// ForwardLinkLocal has a bridge pass on what comes in at a port for the group addresses that are for bridges themselves,
// but for pause frames.
func (m *Batch) ForwardLinkLocal(index int) {
	m.begin(unix.RTM_SETLINK, 0)
	m.link(unix.AF_BRIDGE, index, 0, 0)
	m.nest(unix.IFLA_PROTINFO, func() { m.attr16(unix.IFLA_BRPORT_GROUP_FWD_MASK, 0xffff&^(1<<1)) })
	m.end()
}

// ForgetAddress has the bridge of a port no longer take an address for that port's own. It is ENOENT if it does not.
func (m *Batch) ForgetAddress(port int, mac ether.MAC) {
	m.begin(unix.RTM_DELNEIGH, 0)
	m.b = append(m.b, unix.AF_BRIDGE, 0, 0, 0) // struct ndmsg
	m.u32(uint32(port))
	m.u16(0)
	m.b = append(m.b, unix.NTF_MASTER, 0)
	m.attr(unix.NDA_LLADDR, mac[:])
	m.end()
}

func bit(v bool) uint8 {
	if v {
		return 1
	}
	return 0
}

// BridgePortVLAN makes a port an untagged member of vid.
func (m *Batch) BridgePortVLAN(index int, vid uint16) {
	m.bridgeVLAN(unix.RTM_SETLINK, index, bridgeVLANPVID|bridgeVLANUntagged, vid)
}

// DelBridgePortVLAN ends a port's membership in vid.
func (m *Batch) DelBridgePortVLAN(index int, vid uint16) {
	m.bridgeVLAN(unix.RTM_DELLINK, index, 0, vid)
}

func (m *Batch) bridgeVLAN(kind uint16, index int, flags, vid uint16) {
	m.begin(kind, 0)
	m.link(unix.AF_BRIDGE, index, 0, 0)
	m.nest(unix.IFLA_AF_SPEC, func() {
		m.u16(8) // struct bridge_vlan_info
		m.u16(bridgeVLANInfo)
		m.u16(flags)
		m.u16(vid)
	})
	m.end()
}
