package link

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Errors of virtual functions.
var (
	// ErrVFRefused: the driver does not do what was asked of it, or not with that
	// value (EOPNOTSUPP, EPROTONOSUPPORT, EINVAL, ERANGE, EPERM).
	ErrVFRefused = errors.New("refused by the driver")
	// ErrVFIgnored: the driver took the write and does not show it.
	ErrVFIgnored = errors.New("taken by the driver and not done")
	// ErrNoVF: the PF has no VF of that number, or none at all.
	ErrNoVF = errors.New("no such virtual function")
)

// The attributes of a VF, by the names that messages, `optional` and the words use.
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

// VFAttrs lists the attributes in the order in which SetVF writes them: trust before
// the MAC, which the VF's own driver may only then change; the VLAN before what
// limits and opens the link; a minimum and a maximum rate travel together.
func VFAttrs() []string {
	return []string{AttrTrust, AttrSpoofChk, AttrMAC, AttrVLAN, AttrMinRate, AttrMaxRate, AttrQueryRSS, AttrLinkState}
}

// VFVLAN is the VLAN that the card adds to a VF's frames and takes off. ID 0 is none.
type VFVLAN struct {
	ID    int    `json:"id"`            // 0..4094
	QoS   int    `json:"qos,omitempty"` // priority code point, 0..7
	Proto string `json:"proto"`         // Dot1Q or Dot1AD
}

// The tag protocols of a VFVLAN: 0x8100 and 0x88a8.
const (
	Dot1Q  = "802.1Q"
	Dot1AD = "802.1ad"
)

func (v VFVLAN) String() string {
	if v.ID == 0 && v.QoS == 0 {
		return "none"
	}
	s := fmt.Sprintf("%d", v.ID)
	if v.QoS != 0 {
		s += fmt.Sprintf(" qos %d", v.QoS)
	}
	if v.Proto == Dot1AD {
		s += " " + v.Proto
	}
	return s
}

// The values of VFSettings.LinkState (IFLA_VF_LINK_STATE_…).
const (
	LinkAuto    = "auto"
	LinkEnable  = "enable"
	LinkDisable = "disable"
)

var linkStates = [...]string{LinkAuto, LinkEnable, LinkDisable}

// VFSettings are values for a VF's attributes, wanted or read. A nil field is not
// wanted, or was not reported by the driver.
type VFSettings struct {
	// MAC is the address that the PF has given the VF, six octets with colons;
	// 00:00:00:00:00:00 where it has given none.
	MAC  *string `json:"mac,omitempty"`
	VLAN *VFVLAN `json:"vlan,omitempty"`
	// Trust lets the VF's driver change its MAC and become promiscuous.
	Trust *bool `json:"trust,omitempty"`
	// SpoofChk drops frames from other MACs than the VF's.
	SpoofChk *bool `json:"spoofchk,omitempty"`
	// MinRate and MaxRate bound what the VF sends, in Mbit/s; 0 is no bound.
	MinRate *int `json:"minrate,omitempty"`
	MaxRate *int `json:"maxrate,omitempty"`
	// LinkState is what the VF sees of the link: LinkAuto (the PF's), LinkEnable
	// or LinkDisable.
	LinkState *string `json:"linkstate,omitempty"`
	// QueryRSS lets the VF's driver read the receive-side-scaling key.
	QueryRSS *bool `json:"queryrss,omitempty"`
}

// Value returns an attribute as text, and whether it is set.
func (s VFSettings) Value(attr string) (string, bool) {
	switch attr {
	case AttrMAC:
		return textOf(s.MAC)
	case AttrVLAN:
		return textOf(s.VLAN)
	case AttrTrust:
		return onOff(s.Trust)
	case AttrSpoofChk:
		return onOff(s.SpoofChk)
	case AttrMinRate:
		return textOf(s.MinRate)
	case AttrMaxRate:
		return textOf(s.MaxRate)
	case AttrLinkState:
		return textOf(s.LinkState)
	case AttrQueryRSS:
		return onOff(s.QueryRSS)
	}
	return "", false
}

func textOf[T any](v *T) (string, bool) {
	if v == nil {
		return "", false
	}
	return fmt.Sprint(*v), true
}

func onOff(v *bool) (string, bool) {
	switch {
	case v == nil:
		return "", false
	case *v:
		return "on", true
	}
	return "off", true
}

// Only returns the settings with no attributes but those of which keep says true.
func (s VFSettings) Only(keep func(attr string) bool) VFSettings {
	if !keep(AttrMAC) {
		s.MAC = nil
	}
	if !keep(AttrVLAN) {
		s.VLAN = nil
	}
	if !keep(AttrTrust) {
		s.Trust = nil
	}
	if !keep(AttrSpoofChk) {
		s.SpoofChk = nil
	}
	if !keep(AttrMinRate) {
		s.MinRate = nil
	}
	if !keep(AttrMaxRate) {
		s.MaxRate = nil
	}
	if !keep(AttrLinkState) {
		s.LinkState = nil
	}
	if !keep(AttrQueryRSS) {
		s.QueryRSS = nil
	}
	return s
}

// Over returns the settings that hold when s's go before others'.
func (s VFSettings) Over(others VFSettings) VFSettings {
	return VFSettings{
		MAC: cmp.Or(s.MAC, others.MAC), VLAN: cmp.Or(s.VLAN, others.VLAN), Trust: cmp.Or(s.Trust, others.Trust),
		SpoofChk: cmp.Or(s.SpoofChk, others.SpoofChk), MinRate: cmp.Or(s.MinRate, others.MinRate), MaxRate: cmp.Or(s.MaxRate, others.MaxRate),
		LinkState: cmp.Or(s.LinkState, others.LinkState), QueryRSS: cmp.Or(s.QueryRSS, others.QueryRSS),
	}
}

// Differ lists the attributes that want sets and s does not have, those that s does
// not report included.
func (s VFSettings) Differ(want VFSettings) []string {
	var attrs []string
	for _, a := range VFAttrs() {
		w, set := want.Value(a)
		if have, said := s.Value(a); set && (!said || have != w) {
			attrs = append(attrs, a)
		}
	}
	return attrs
}

// String lists what is set, as "trust on, vlan 42 qos 3".
func (s VFSettings) String() string {
	var words []string
	for _, a := range VFAttrs() {
		if v, set := s.Value(a); set {
			words = append(words, a+" "+v)
		}
	}
	return strings.Join(words, ", ")
}

// Check refuses values that no driver can be asked for.
func (s VFSettings) Check() error {
	if s.MAC != nil {
		if mac, err := parseMAC(*s.MAC); err != nil || mac[0]&1 != 0 {
			return fmt.Errorf("mac %q: want a unicast address of six octets", *s.MAC)
		}
	}
	if v := s.VLAN; v != nil {
		switch {
		case v.ID < 0 || v.ID > 4094:
			return fmt.Errorf("vlan %d: want 0 to 4094", v.ID)
		case v.QoS < 0 || v.QoS > 7:
			return fmt.Errorf("qos %d: want 0 to 7", v.QoS)
		case v.Proto != Dot1Q && v.Proto != Dot1AD:
			return fmt.Errorf("VLAN protocol %q: want %s or %s", v.Proto, Dot1Q, Dot1AD)
		case v.ID == 0 && (v.QoS != 0 || v.Proto == Dot1AD):
			return errors.New("qos and 802.1ad need a VLAN")
		}
	}
	for _, r := range []*int{s.MinRate, s.MaxRate} {
		if r != nil && *r < 0 {
			return fmt.Errorf("rate %d: want Mbit/s, 0 for none", *r)
		}
	}
	if s.MinRate != nil && s.MaxRate != nil && *s.MaxRate != 0 && *s.MinRate > *s.MaxRate {
		return fmt.Errorf("minrate %d is above maxrate %d", *s.MinRate, *s.MaxRate)
	}
	if s.LinkState != nil {
		if _, ok := linkStateValue(*s.LinkState); !ok {
			return fmt.Errorf("link state %q: want %s", *s.LinkState, strings.Join(linkStates[:], ", "))
		}
	}
	return nil
}

func linkStateValue(word string) (uint32, bool) {
	for i, w := range linkStates {
		if w == word {
			return uint32(i), true
		}
	}
	return 0, false
}

// VF is what a PF's driver says of one virtual function. Number is the kernel's own,
// which is not the position in the list: a VF of which the driver says nothing is
// left out there.
type VF struct {
	Number int `json:"number"`
	VFSettings
	// VLANs is IFLA_VF_VLAN_LIST where it has more than the one of VLAN.
	VLANs []VFVLAN `json:"vlans,omitempty"`
}

// parseVFs reads the IFLA_VFINFO_LIST of an RTM_NEWLINK payload. The order is the
// kernel's.
func parseVFs(b []byte) ([]VF, error) {
	if len(b) < unix.SizeofIfInfomsg {
		return nil, fmt.Errorf("%w: %d octets", ErrMalformed, len(b))
	}
	var vfs []VF
	err := eachAttr(b[unix.SizeofIfInfomsg:], func(typ uint16, v []byte) error {
		if typ != unix.IFLA_VFINFO_LIST {
			return nil
		}
		return eachAttr(v, func(typ uint16, v []byte) error {
			if typ != nl.IFLA_VF_INFO {
				return nil
			}
			vf, err := parseVF(v)
			if err == nil {
				vfs = append(vfs, vf)
			}
			return err
		})
	})
	return vfs, err
}

// parseVF reads one IFLA_VF_INFO. Every attribute starts with the VF's number; they
// must agree.
func parseVF(b []byte) (VF, error) {
	vf := VF{Number: -1}
	number := func(v []byte, size int) error {
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
	// struct ifla_vf_…: the VF's number, then one u32.
	setting := func(v []byte) (uint32, error) {
		if err := number(v, 8); err != nil {
			return 0, err
		}
		return binary.NativeEndian.Uint32(v[4:]), nil
	}
	err := eachAttr(b, func(typ uint16, v []byte) error {
		switch typ {
		case nl.IFLA_VF_MAC: // struct ifla_vf_mac: 32 octets for any link layer
			if err := number(v, 36); err != nil {
				return err
			}
			mac := net.HardwareAddr(v[4:10]).String()
			vf.MAC = &mac
		case nl.IFLA_VF_VLAN:
			if err := number(v, 12); err != nil {
				return err
			}
			// The list says the same and the protocol; it comes behind this.
			vf.VLAN = &VFVLAN{
				ID: int(binary.NativeEndian.Uint32(v[4:])), QoS: int(binary.NativeEndian.Uint32(v[8:])), Proto: Dot1Q,
			}
		case nl.IFLA_VF_VLAN_LIST:
			return eachAttr(v, func(typ uint16, v []byte) error {
				if typ != nl.IFLA_VF_VLAN_INFO {
					return nil
				}
				if err := number(v, 16); err != nil { // two octets of padding at the end count
					return err
				}
				vlan := VFVLAN{
					ID: int(binary.NativeEndian.Uint32(v[4:])), QoS: int(binary.NativeEndian.Uint32(v[8:])), Proto: Dot1Q,
				}
				if binary.BigEndian.Uint16(v[12:]) == unix.ETH_P_8021AD {
					vlan.Proto = Dot1AD
				}
				vf.VLANs = append(vf.VLANs, vlan)
				return nil
			})
		case nl.IFLA_VF_RATE: // struct ifla_vf_rate: min, max
			if err := number(v, 12); err != nil {
				return err
			}
			low, high := int(int32(binary.NativeEndian.Uint32(v[4:]))), int(int32(binary.NativeEndian.Uint32(v[8:])))
			vf.MinRate, vf.MaxRate = &low, &high
		case nl.IFLA_VF_SPOOFCHK:
			return triState(&vf.SpoofChk, v, setting)
		case nl.IFLA_VF_TRUST:
			return triState(&vf.Trust, v, setting)
		case nl.IFLA_VF_RSS_QUERY_EN:
			return triState(&vf.QueryRSS, v, setting)
		case nl.IFLA_VF_LINK_STATE:
			state, err := setting(v)
			if err != nil {
				return err
			}
			if int(state) < len(linkStates) {
				vf.LinkState = &linkStates[state]
			}
		}
		return nil
	})
	if err == nil && vf.Number < 0 {
		err = fmt.Errorf("%w: a VF without a number", ErrMalformed)
	}
	if len(vf.VLANs) > 0 {
		vf.VLAN = &vf.VLANs[0]
	}
	if len(vf.VLANs) < 2 {
		vf.VLANs = nil
	}
	return vf, err
}

// triState reads 1 and 0. The kernel presets -1, which stays where the driver says
// nothing (rtnl_fill_vfinfo in net/core/rtnetlink.c).
func triState(to **bool, v []byte, read func([]byte) (uint32, error)) error {
	n, err := read(v)
	if err == nil && n <= 1 {
		on := n == 1
		*to = &on
	}
	return err
}
