package link

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The attributes of a VF, by the names that messages, `optional` and the settings use.
const (
	AttrMAC       = "mac"
	AttrVLAN      = "vlan"
	AttrTrust     = "trust"
	AttrSpoofChk  = "spoofchk"
	AttrMinRate   = "minrate"
	AttrMaxRate   = "maxrate"
	AttrLinkState = "linkstate"
	AttrQueryRSS  = "queryrss"
)

const release0 = "0.1.0"

// VFAttribute is one attribute of a virtual function: its name, its values as text,
// and its form on the wire. Everything that deals with all attributes goes through
// VFAttributes, so that a new one is one entry there and a field of VFSettings.
type VFAttribute struct {
	Name string
	// Help says in a few words what it does; it begins in lower case.
	Help string
	// Since is the first release that can set it.
	Since string
	// Values are the texts that Parse takes, in their preferred spelling. nil for an
	// attribute whose values are not a list.
	Values []string
	// Want describes the values for an error message: "on or off".
	Want string
	// Libvirt is true for what libvirt sets itself and the guest's XML says: a VF's
	// setting for the hook is every other attribute.
	Libvirt bool

	fresh  string // what a new VF has
	access vfAccess
	check  func(VFSettings) error // of a value that is set; nil: Parse says it all
	// build is the attribute as the kernel takes it (struct ifla_vf_… of
	// include/uapi/linux/if_link.h). want has it; now is what the driver shows.
	build func(number int, want, now VFSettings) (*nl.RtAttr, error)
	// read takes it out of one attribute of an IFLA_VF_INFO, if it is in there.
	read func(vf *VF, typ uint16, v vfPayload) error
	// rated: drivers measure the value against the speed of the PF's link.
	rated bool
}

// vfAccess gets at an attribute's field, whatever its type.
type vfAccess struct {
	text  func(VFSettings) (string, bool)
	parse func(*VFSettings, string) bool
	move  func(to *VFSettings, from VFSettings) // with what from has, nothing included
}

// Parse sets the attribute to a value that is given as text. The error says which
// values there are.
func (a VFAttribute) Parse(to *VFSettings, text string) error {
	if !a.access.parse(to, text) {
		return errors.New("want " + a.Want)
	}
	return nil
}

// Flag reports whether the attribute is on or off.
func (a VFAttribute) Flag() bool { return len(a.Values) == 2 && a.Values[0] == "on" }

// VFAttributes lists the attributes in the order in which SetVF writes them: trust
// before the MAC, which the VF's own driver may only then change; the VLAN before what
// limits and opens the link; a minimum and a maximum rate travel together.
func VFAttributes() []VFAttribute { return slices.Clone(vfTable) }

// VFAttrs lists their names.
func VFAttrs() []string {
	names := make([]string, len(vfTable))
	for i, a := range vfTable {
		names[i] = a.Name
	}
	return names
}

// FreshVF returns what a VF has that nobody has set up.
func FreshVF() VFSettings {
	var s VFSettings
	for _, a := range vfTable {
		a.access.parse(&s, a.fresh)
	}
	return s
}

// vfTable is the table of attributes. It is never changed.
var vfTable = []VFAttribute{
	flagAttr(AttrTrust, nl.IFLA_VF_TRUST, "off", "the guest may change its MAC and become promiscuous",
		func(s *VFSettings) **bool { return &s.Trust }),
	flagAttr(AttrSpoofChk, nl.IFLA_VF_SPOOFCHK, "on", "frames from other MACs are dropped",
		func(s *VFSettings) **bool { return &s.SpoofChk }),
	{
		Name: AttrMAC, Help: "the address that the PF gives the VF", Since: release0, Want: "six octets", Libvirt: true, fresh: "00:00:00:00:00:00",
		access: fieldAt(func(s *VFSettings) **string { return &s.MAC }, textOf, func(v string) (string, bool) { return v, true }),
		check:  checkMAC, build: buildMAC, read: readMAC,
	},
	{
		Name: AttrVLAN, Help: "the VLAN that the card adds and takes off", Since: release0, Want: "0 to 4094", Libvirt: true, fresh: "0",
		access: fieldAt(func(s *VFSettings) **VFVLAN { return &s.VLAN }, textOf, parseVFVLAN),
		check:  checkVLAN, build: buildVLAN, read: readVLAN,
	},
	rateAttr(AttrMinRate, 4, "what it may send at least; `0` takes the bound away", func(s *VFSettings) **int { return &s.MinRate }),
	rateAttr(AttrMaxRate, 8, "what it may send at most; `0` takes the bound away", func(s *VFSettings) **int { return &s.MaxRate }),
	flagAttr(AttrQueryRSS, nl.IFLA_VF_RSS_QUERY_EN, "off", "the guest may read the receive-side-scaling key",
		func(s *VFSettings) **bool { return &s.QueryRSS }),
	{
		Name: AttrLinkState, Help: "the link that the guest sees: the port's, always up, always down", Since: release0,
		Values: linkStates[:], Want: "auto, enable or disable", fresh: LinkAuto,
		access: fieldAt(func(s *VFSettings) **string { return &s.LinkState }, textOf, parseLinkState),
		build:  buildLinkState, read: readLinkState,
	},
}

// fieldAt is the access to a field of type T.
func fieldAt[T any](at func(*VFSettings) **T, text func(T) string, parse func(string) (T, bool)) vfAccess {
	return vfAccess{
		text: func(s VFSettings) (string, bool) {
			if v := *at(&s); v != nil {
				return text(*v), true
			}
			return "", false
		},
		parse: func(to *VFSettings, s string) bool {
			v, ok := parse(s)
			if ok {
				*at(to) = &v
			}
			return ok
		},
		move: func(to *VFSettings, from VFSettings) { *at(to) = *at(&from) },
	}
}

func textOf[T any](v T) string { return fmt.Sprint(v) }

// flagAttr is an attribute that is on or off, and a u32 of 1 or 0 to the kernel.
func flagAttr(name string, typ int, fresh, help string, at func(*VFSettings) **bool) VFAttribute {
	return VFAttribute{
		Name: name, Help: help, Since: release0, Values: []string{"on", "off"}, Want: "on or off", fresh: fresh,
		access: fieldAt(at, onOff, parseFlag),
		build: func(number int, want, _ VFSettings) (*nl.RtAttr, error) {
			v := 0
			if **at(&want) {
				v = 1
			}
			return nl.NewRtAttr(typ, vfWords(number, v)), nil
		},
		read: func(vf *VF, t uint16, v vfPayload) error {
			if t != uint16(typ) {
				return nil
			}
			n, err := v.setting(vf)
			// The kernel presets -1, which stays where the driver says nothing
			// (rtnl_fill_vfinfo in net/core/rtnetlink.c).
			if err == nil && n <= 1 {
				on := n == 1
				*at(&vf.VFSettings) = &on
			}
			return err
		},
	}
}

func onOff(v bool) string {
	if v {
		return "on"
	}
	return "off"
}

// parseFlag reads a flag as iproute2 or libvirt writes it.
func parseFlag(s string) (on, ok bool) {
	on = s == "on" || s == "yes"
	return on, on || s == "off" || s == "no"
}

// maxRate is more than any card has, and fits the kernel's int.
const maxRate = 1 << 30

// rateAttr is one of the two bounds of IFLA_VF_RATE, struct ifla_vf_rate. The two are one
// attribute there: the one that is not wanted is sent as it is now.
func rateAttr(name string, offset int, help string, at func(*VFSettings) **int) VFAttribute {
	return VFAttribute{
		Name: name, Help: help, Since: release0, Want: "Mbit/s, 0 for no bound", fresh: "0", rated: true,
		access: fieldAt(at, textOf, func(s string) (int, bool) {
			n, err := strconv.Atoi(s)
			return n, err == nil && n >= 0 && n <= maxRate
		}),
		check: func(s VFSettings) error {
			if v := **at(&s); v < 0 {
				return fmt.Errorf("rate %d: want Mbit/s, 0 for none", v)
			}
			if s.MinRate != nil && s.MaxRate != nil && *s.MaxRate != 0 && *s.MinRate > *s.MaxRate {
				return fmt.Errorf("minrate %d is above maxrate %d", *s.MinRate, *s.MaxRate)
			}
			return nil
		},
		build: func(number int, want, now VFSettings) (*nl.RtAttr, error) {
			low, high := cmp.Or(want.MinRate, now.MinRate, new(int)), cmp.Or(want.MaxRate, now.MaxRate, new(int))
			return nl.NewRtAttr(nl.IFLA_VF_RATE, vfWords(number, *low, *high)), nil
		},
		read: func(vf *VF, typ uint16, v vfPayload) error {
			if typ != nl.IFLA_VF_RATE {
				return nil
			}
			if err := v.of(vf, 12); err != nil {
				return err
			}
			n := int(int32(binary.NativeEndian.Uint32(v[offset:])))
			*at(&vf.VFSettings) = &n
			return nil
		},
	}
}

func checkMAC(s VFSettings) error {
	if mac, err := parseMAC(*s.MAC); err != nil || mac[0]&1 != 0 {
		return fmt.Errorf("mac %q: want a unicast address of six octets", *s.MAC)
	}
	return nil
}

func buildMAC(number int, want, _ VFSettings) (*nl.RtAttr, error) {
	mac, err := parseMAC(*want.MAC)
	if err != nil {
		return nil, err
	}
	return nl.NewRtAttr(nl.IFLA_VF_MAC, append(vfWords(number), append(mac, make([]byte, 26)...)...)), nil
}

func readMAC(vf *VF, typ uint16, v vfPayload) error {
	if typ != nl.IFLA_VF_MAC { // struct ifla_vf_mac: 32 octets for any link layer
		return nil
	}
	if err := v.of(vf, 36); err != nil {
		return err
	}
	mac := net.HardwareAddr(v[4:10]).String()
	vf.MAC = &mac
	return nil
}

// parseVFVLAN reads an identifier; priority and protocol are settings of their own.
func parseVFVLAN(s string) (VFVLAN, bool) {
	id, err := strconv.Atoi(s)
	return VFVLAN{ID: id, Proto: Dot1Q}, err == nil
}

func checkVLAN(s VFSettings) error {
	switch v := s.VLAN; {
	case v.ID < 0 || v.ID > 4094:
		return fmt.Errorf("vlan %d: want 0 to 4094", v.ID)
	case v.QoS < 0 || v.QoS > 7:
		return fmt.Errorf("qos %d: want 0 to 7", v.QoS)
	case v.Proto != Dot1Q && v.Proto != Dot1AD:
		return fmt.Errorf("VLAN protocol %q: want %s or %s", v.Proto, Dot1Q, Dot1AD)
	case v.ID == 0 && (v.QoS != 0 || v.Proto == Dot1AD):
		return errors.New("qos and 802.1ad need a VLAN")
	}
	return nil
}

func buildVLAN(number int, want, _ VFSettings) (*nl.RtAttr, error) {
	v := want.VLAN
	if v.Proto != Dot1AD { // as every driver takes it
		return nl.NewRtAttr(nl.IFLA_VF_VLAN, vfWords(number, v.ID, v.QoS)), nil
	}
	info := binary.BigEndian.AppendUint16(vfWords(number, v.ID, v.QoS), unix.ETH_P_8021AD)
	list := nl.NewRtAttr(nl.IFLA_VF_VLAN_LIST|unix.NLA_F_NESTED, nil)
	list.AddRtAttr(nl.IFLA_VF_VLAN_INFO, append(info, 0, 0))
	return list, nil
}

func readVLAN(vf *VF, typ uint16, v vfPayload) error {
	vlan := func(v vfPayload) VFVLAN {
		return VFVLAN{ID: int(binary.NativeEndian.Uint32(v[4:])), QoS: int(binary.NativeEndian.Uint32(v[8:])), Proto: Dot1Q}
	}
	switch typ {
	case nl.IFLA_VF_VLAN:
		if err := v.of(vf, 12); err != nil {
			return err
		}
		// The list says the same and the protocol; it comes behind this.
		one := vlan(v)
		vf.VLAN = &one
	case nl.IFLA_VF_VLAN_LIST:
		return EachAttr(v, func(typ uint16, b []byte) error {
			if typ != nl.IFLA_VF_VLAN_INFO {
				return nil
			}
			v := vfPayload(b)
			if err := v.of(vf, 16); err != nil { // two octets of padding at the end count
				return err
			}
			one := vlan(v)
			if binary.BigEndian.Uint16(v[12:]) == unix.ETH_P_8021AD {
				one.Proto = Dot1AD
			}
			vf.VLANs = append(vf.VLANs, one)
			return nil
		})
	}
	return nil
}

// The values of VFSettings.LinkState (IFLA_VF_LINK_STATE_…).
const (
	LinkAuto    = "auto"
	LinkEnable  = "enable"
	LinkDisable = "disable"
)

var linkStates = [...]string{LinkAuto, LinkEnable, LinkDisable}

// parseLinkState also reads a flag's values, as systemd does.
func parseLinkState(s string) (string, bool) {
	if on, ok := parseFlag(s); ok {
		s = LinkDisable
		if on {
			s = LinkEnable
		}
	}
	return s, slices.Contains(linkStates[:], s)
}

func buildLinkState(number int, want, _ VFSettings) (*nl.RtAttr, error) {
	state := slices.Index(linkStates[:], *want.LinkState)
	if state < 0 {
		return nil, fmt.Errorf("link state %q: want %s", *want.LinkState, strings.Join(linkStates[:], ", "))
	}
	return nl.NewRtAttr(nl.IFLA_VF_LINK_STATE, vfWords(number, state)), nil
}

func readLinkState(vf *VF, typ uint16, v vfPayload) error {
	if typ != nl.IFLA_VF_LINK_STATE {
		return nil
	}
	state, err := v.setting(vf)
	if err == nil && int(state) < len(linkStates) {
		vf.LinkState = &linkStates[state]
	}
	return err
}

// vfWords starts a struct ifla_vf_…: the VF's number, then u32s.
func vfWords(number int, more ...int) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(number))
	for _, w := range more {
		b = binary.NativeEndian.AppendUint32(b, uint32(w))
	}
	return b
}

// vfPayload is the payload of one attribute of an IFLA_VF_INFO: the VF's number, then
// what the attribute says.
type vfPayload []byte

// of checks the payload's size and whose it is: all attributes must say one number.
func (v vfPayload) of(vf *VF, size int) error {
	if len(v) < size {
		return fmt.Errorf("%w: VF attribute of %d octets, want %d", ErrMalformed, len(v), size)
	}
	n := int(int32(binary.NativeEndian.Uint32(v)))
	if n < 0 || vf.Number >= 0 && vf.Number != n {
		return fmt.Errorf("%w: attribute of VF %d among those of VF %d", ErrMalformed, n, vf.Number)
	}
	vf.Number = n
	return nil
}

// setting reads a payload that is one u32.
func (v vfPayload) setting(vf *VF) (uint32, error) {
	if err := v.of(vf, 8); err != nil {
		return 0, err
	}
	return binary.NativeEndian.Uint32(v[4:]), nil
}
