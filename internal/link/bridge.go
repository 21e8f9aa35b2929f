package link

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Bridge is what the kernel says of a Linux bridge (IFLA_BR_* of
// include/uapi/linux/if_link.h).
type Bridge struct {
	STP           bool `json:"stp"` // the kernel's or a daemon's
	VLANFiltering bool `json:"vlan_filtering"`
	// GroupFwdMask has bit n set when frames to 01:80:C2:00:00:0n, which a bridge
	// keeps to itself (IEEE 802.1D, table 7-10), are forwarded all the same.
	GroupFwdMask uint16 `json:"group_fwd_mask"`
}

// PortFlags are settings of a bridge's port. nil: not wanted, or not said by this
// kernel.
type PortFlags struct {
	// Isolated keeps frames of the port from other isolated ports.
	Isolated *bool `json:"isolated,omitempty" toml:"isolated"`
	// Learning lets the bridge learn where MAC addresses are from the port's frames.
	Learning *bool `json:"learning,omitempty" toml:"learning"`
	// Hairpin lets a frame leave by the port that it came in by: reflective relay
	// (IEEE 802.1Qbg), what VEPA asks of a switch.
	Hairpin *bool `json:"hairpin,omitempty" toml:"hairpin"`
	// BPDUGuard disables the port when a spanning tree BPDU comes in by it. The kernel
	// looks only where the bridge runs its own STP (br_stp_rcv).
	BPDUGuard *bool `json:"bpduguard,omitempty" toml:"bpduguard"`
	// Flood lets frames to an address that the bridge does not know leave by the port.
	Flood *bool `json:"flood,omitempty" toml:"flood"`
	// MulticastFlood lets frames to a multicast group leave by the port although nobody
	// behind it is known to have joined.
	MulticastFlood *bool `json:"mcastflood,omitempty" toml:"mcastflood"`
	// NeighSuppress lets the bridge answer ARP requests and neighbour solicitations for
	// what is behind the port, out of its own neighbour table, and keeps them from it.
	NeighSuppress *bool `json:"neighsuppress,omitempty" toml:"neighsuppress"`
	// Locked drops frames that come in by the port unless the bridge knows their source
	// address to be behind it (Linux 5.18). A locked port that learns is none: what a
	// link-local frame, which the lock lets pass, says of its source is learnt.
	Locked *bool `json:"locked,omitempty" toml:"locked"`
}

// BridgePort is what the kernel says of a port of a Linux bridge.
type BridgePort struct {
	PortFlags
	// State is BR_STATE_* of include/uapi/linux/if_bridge.h; 3 is forwarding.
	State int `json:"state"`
}

// attrs pairs the flags with their attributes.
func (f *PortFlags) attrs() []portFlag {
	return []portFlag{
		{"isolated", unix.IFLA_BRPORT_ISOLATED, &f.Isolated},
		{"learning", unix.IFLA_BRPORT_LEARNING, &f.Learning},
		{"hairpin", unix.IFLA_BRPORT_MODE, &f.Hairpin},
		{"bpduguard", unix.IFLA_BRPORT_GUARD, &f.BPDUGuard},
		{"flood", unix.IFLA_BRPORT_UNICAST_FLOOD, &f.Flood},
		{"mcastflood", unix.IFLA_BRPORT_MCAST_FLOOD, &f.MulticastFlood},
		{"neighsuppress", unix.IFLA_BRPORT_NEIGH_SUPPRESS, &f.NeighSuppress},
		{"locked", unix.IFLA_BRPORT_LOCKED, &f.Locked},
	}
}

type portFlag struct {
	name  string
	attr  uint16
	value **bool
}

// String lists what is set: "isolated on, learning off".
func (f PortFlags) String() string {
	var parts []string
	for _, a := range f.attrs() {
		if v := *a.value; v != nil {
			parts = append(parts, a.name+" "+map[bool]string{true: "on", false: "off"}[*v])
		}
	}
	return strings.Join(parts, ", ")
}

// Differ names the first flag that is not as wanted, "" when all are.
func (f PortFlags) Differ(want PortFlags) string {
	have := f.attrs()
	for i, w := range want.attrs() {
		if *w.value != nil && (*have[i].value == nil || **have[i].value != **w.value) {
			return w.name
		}
	}
	return ""
}

func octet(v []byte) (int, error) {
	if len(v) != 1 {
		return 0, fmt.Errorf("%w: octet of %d octets", ErrMalformed, len(v))
	}
	return int(v[0]), nil
}

// parseBridge reads IFLA_INFO_DATA of a bridge.
func parseBridge(data []byte) (*Bridge, error) {
	b := &Bridge{}
	return b, EachAttr(data, func(typ uint16, v []byte) error {
		var err error
		switch typ {
		case unix.IFLA_BR_STP_STATE:
			var state int
			state, err = u32(v)
			b.STP = state != 0
		case unix.IFLA_BR_VLAN_FILTERING:
			var on int
			on, err = octet(v)
			b.VLANFiltering = on != 0
		case unix.IFLA_BR_GROUP_FWD_MASK:
			if len(v) != 2 {
				return fmt.Errorf("%w: group_fwd_mask of %d octets", ErrMalformed, len(v))
			}
			b.GroupFwdMask = binary.NativeEndian.Uint16(v)
		}
		return err
	})
}

// parseBridgePort reads IFLA_INFO_SLAVE_DATA of a bridge's port.
func parseBridgePort(data []byte) (*BridgePort, error) {
	p := &BridgePort{}
	attrs := p.attrs()
	return p, EachAttr(data, func(typ uint16, v []byte) error {
		if typ == unix.IFLA_BRPORT_STATE {
			var err error
			p.State, err = octet(v)
			return err
		}
		for _, a := range attrs {
			if a.attr == typ {
				n, err := octet(v)
				on := n != 0
				*a.value = &on
				return err
			}
		}
		return nil
	})
}

// SetPortFlags sets flags of a bridge's port and reads them back: a kernel that does
// not know one passes over it without a word, which is ErrNotSupported here. A port that
// is to be locked forgets what it has learnt, and keeps its static addresses.
func (c *Conn) SetPortFlags(ctx context.Context, index int, want PortFlags) error {
	const op = "set port flags of"
	req := message(unix.RTM_NEWLINK, unix.NLM_F_ACK, index) // RTM_SETLINK passes over IFLA_LINKINFO
	info := nl.NewRtAttr(unix.IFLA_LINKINFO|unix.NLA_F_NESTED, nil)
	info.AddRtAttr(unix.IFLA_INFO_SLAVE_KIND, []byte("bridge"))
	data := nl.NewRtAttr(unix.IFLA_INFO_SLAVE_DATA|unix.NLA_F_NESTED, nil)
	for _, a := range want.attrs() {
		if *a.value != nil {
			v := uint8(0)
			if **a.value {
				v = 1
			}
			data.AddRtAttr(int(a.attr), []byte{v})
		}
	}
	if want.Locked != nil && *want.Locked {
		data.AddRtAttr(unix.IFLA_BRPORT_FLUSH, nil)
	}
	info.AddChild(data)
	req.AddData(info)
	if _, err := c.do(ctx, op, "index "+strconv.Itoa(index), req); err != nil {
		return err
	}
	have, err := c.ByIndex(ctx, index)
	if err != nil {
		return err
	}
	fail := func(err error) error { return &OpError{Op: op, Link: have.Name, Err: err} }
	if have.Port == nil {
		return fail(errNoBridgePort)
	}
	if name := have.Port.Differ(want); name != "" {
		return fail(fmt.Errorf("%s: %w", name, ErrNotSupported))
	}
	return nil
}

var errNoBridgePort = fmt.Errorf("it is no port of a Linux bridge: %w", ErrNotFound)

// PortVLAN is one VLAN of a bridge's port.
type PortVLAN struct {
	ID int `json:"id"` // 1..4094
	// PVID: untagged frames that come in by the port belong to it. One VLAN of a port
	// can have it; where none has, such frames are dropped.
	PVID bool `json:"pvid,omitempty"`
	// Untagged: its frames leave by the port without a tag.
	Untagged bool `json:"untagged,omitempty"`
}

// struct bridge_vlan_info and its flags, struct br_vlan_msg and BRIDGE_VLANDB_* are
// those of include/uapi/linux/if_bridge.h.
const (
	vlanPVID       = 1 << 1
	vlanUntagged   = 1 << 2
	vlanRangeBegin = 1 << 3
	vlanRangeEnd   = 1 << 4

	vlanDBEntry      = 1
	vlanDBEntryInfo  = 1
	vlanDBEntryRange = 2

	sizeofBrVLANMsg = 8
)

// PortVLANs returns the VLANs of a bridge's port, by number. It asks for that port
// alone (RTM_GETVLAN, Linux 5.6); ErrNotSupported where the kernel cannot.
func (c *Conn) PortVLANs(ctx context.Context, index int) ([]PortVLAN, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETVLAN, 0)
	req.AddData(brVLANMsg(index))
	what := "index " + strconv.Itoa(index)
	out, err := c.list(ctx, "list VLANs of", what, req)
	if err != nil {
		return nil, err
	}
	var all []PortVLAN
	for _, b := range out {
		vlans, err := parsePortVLANs(b)
		if err != nil {
			return nil, &OpError{Op: "list VLANs of", Link: what, Err: err}
		}
		all = append(all, vlans...)
	}
	slices.SortFunc(all, func(a, b PortVLAN) int { return a.ID - b.ID })
	return all, nil
}

type brVLANMsg int

func (m brVLANMsg) Len() int { return sizeofBrVLANMsg }

func (m brVLANMsg) Serialize() []byte {
	return binary.NativeEndian.AppendUint32([]byte{unix.AF_BRIDGE, 0, 0, 0}, uint32(m))
}

// parsePortVLANs reads the payload of an RTM_NEWVLAN message.
func parsePortVLANs(b []byte) ([]PortVLAN, error) {
	if len(b) < sizeofBrVLANMsg {
		return nil, fmt.Errorf("%w: %d octets", ErrMalformed, len(b))
	}
	var all []PortVLAN
	err := EachAttr(b[sizeofBrVLANMsg:], func(typ uint16, v []byte) error {
		if typ != vlanDBEntry {
			return nil
		}
		var flags, first, last uint16
		err := EachAttr(v, func(typ uint16, v []byte) error {
			switch {
			case typ == vlanDBEntryInfo && len(v) == 4:
				flags, first = binary.NativeEndian.Uint16(v), binary.NativeEndian.Uint16(v[2:])
				last = max(last, first)
			case typ == vlanDBEntryRange && len(v) == 2:
				last = binary.NativeEndian.Uint16(v)
			case typ == vlanDBEntryInfo || typ == vlanDBEntryRange:
				return fmt.Errorf("%w: VLAN entry of %d octets", ErrMalformed, len(v))
			}
			return nil
		})
		if err != nil {
			return err
		}
		if first == 0 || last > 4095 {
			return fmt.Errorf("%w: VLANs %d to %d", ErrMalformed, first, last)
		}
		for id := first; id <= last; id++ {
			all = append(all, PortVLAN{ID: int(id), PVID: flags&vlanPVID != 0, Untagged: flags&vlanUntagged != 0})
		}
		return nil
	})
	return all, err
}

// SetPortVLANs gives a bridge's port these VLANs and no others, and reads them back.
// What the port has already is not touched, so that a running guest notices nothing.
func (c *Conn) SetPortVLANs(ctx context.Context, index int, want []PortVLAN) error {
	const op = "set VLANs of"
	want = slices.SortedFunc(slices.Values(want), func(a, b PortVLAN) int { return a.ID - b.ID })
	have, err := c.PortVLANs(ctx, index)
	if err != nil {
		return err
	}
	missing := slices.DeleteFunc(slices.Clone(want), func(v PortVLAN) bool { return slices.Contains(have, v) })
	surplus := slices.DeleteFunc(slices.Clone(have), func(v PortVLAN) bool {
		return slices.ContainsFunc(want, func(w PortVLAN) bool { return w.ID == v.ID })
	})
	what := "index " + strconv.Itoa(index)
	for _, part := range []struct {
		message int
		vlans   []PortVLAN
	}{{unix.RTM_SETLINK, missing}, {unix.RTM_DELLINK, surplus}} {
		if len(part.vlans) == 0 {
			continue
		}
		req := nl.NewNetlinkRequest(part.message, unix.NLM_F_ACK)
		msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
		msg.Index = int32(index)
		req.AddData(msg)
		req.AddData(vlanSpec(part.vlans))
		if _, err := c.do(ctx, op, what, req); err != nil {
			return err
		}
	}
	if len(missing)+len(surplus) == 0 {
		return nil
	}
	if have, err = c.PortVLANs(ctx, index); err != nil {
		return err
	}
	if !slices.Equal(have, want) {
		return &OpError{Op: op, Link: what, Err: fmt.Errorf("it has %v now, not %v", have, want)}
	}
	return nil
}

// vlanSpec is IFLA_AF_SPEC with VLANs in order, neighbours with equal flags as ranges.
func vlanSpec(vlans []PortVLAN) *nl.RtAttr {
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC|unix.NLA_F_NESTED, nil)
	add := func(id, flags int) {
		b := binary.NativeEndian.AppendUint16(nil, uint16(flags))
		spec.AddRtAttr(nl.IFLA_BRIDGE_VLAN_INFO, binary.NativeEndian.AppendUint16(b, uint16(id)))
	}
	for i := 0; i < len(vlans); {
		v, j := vlans[i], i+1
		for j < len(vlans) && !v.PVID && vlans[j] == (PortVLAN{ID: v.ID + j - i, Untagged: v.Untagged}) {
			j++
		}
		flags := 0
		if v.PVID {
			flags |= vlanPVID
		}
		if v.Untagged {
			flags |= vlanUntagged
		}
		if j-i == 1 {
			add(v.ID, flags)
		} else {
			add(v.ID, flags|vlanRangeBegin)
			add(vlans[j-1].ID, flags|vlanRangeEnd)
		}
		i = j
	}
	return spec
}

// AddPortMAC tells a bridge that an address is behind a port, for as long as the port
// is one, in each of the port's VLANs (`bridge fdb replace … master static sticky`). For
// ports that do not learn. Were it not sticky, a frame with that source address that comes
// in by another port, as while the guest migrates, would take the address there for good.
func (c *Conn) AddPortMAC(ctx context.Context, index int, mac string) error {
	const op = "add a static address to"
	b, err := parseMAC(mac)
	if err != nil {
		return &OpError{Op: op, Link: "index " + strconv.Itoa(index), Err: err}
	}
	req := nl.NewNetlinkRequest(unix.RTM_NEWNEIGH, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	req.AddData(ndMsg(index))
	req.AddData(nl.NewRtAttr(unix.NDA_LLADDR, b))
	_, err = c.do(ctx, op, "index "+strconv.Itoa(index), req)
	return err
}

// ntfSticky is NTF_STICKY of include/uapi/linux/neighbour.h (Linux 4.20; older ones pass over it).
const ntfSticky = 1 << 6

// ndMsg is struct ndmsg (include/uapi/linux/neighbour.h) of a static address.
type ndMsg int

func (m ndMsg) Len() int { return unix.SizeofNdMsg }

func (m ndMsg) Serialize() []byte {
	b := binary.NativeEndian.AppendUint32([]byte{unix.AF_BRIDGE, 0, 0, 0}, uint32(m))
	b = binary.NativeEndian.AppendUint16(b, unix.NUD_NOARP|unix.NUD_REACHABLE)
	return append(b, unix.NTF_MASTER|ntfSticky, 0)
}
