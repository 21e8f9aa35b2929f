package link

import (
	"errors"
	"fmt"
	"slices"
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

// VFSettings are values for a VF's attributes, wanted or read. A nil field is not
// wanted, or was not reported by the driver. The toml tags are the settings' names in
// the host's configuration; what has none there is libvirt's.
type VFSettings struct {
	// MAC is the address that the PF has given the VF, six octets with colons;
	// 00:00:00:00:00:00 where it has given none.
	MAC  *string `json:"mac,omitempty" toml:"-"`
	VLAN *VFVLAN `json:"vlan,omitempty" toml:"-"`
	// Trust lets the VF's driver change its MAC and become promiscuous.
	Trust *bool `json:"trust,omitempty" toml:"trust"`
	// SpoofChk drops frames from other MACs than the VF's.
	SpoofChk *bool `json:"spoofchk,omitempty" toml:"spoofchk"`
	// MinRate and MaxRate bound what the VF sends, in Mbit/s; 0 is no bound.
	MinRate *int `json:"minrate,omitempty" toml:"minrate"`
	MaxRate *int `json:"maxrate,omitempty" toml:"maxrate"`
	// LinkState is what the VF sees of the link: LinkAuto (the PF's), LinkEnable
	// or LinkDisable.
	LinkState *string `json:"linkstate,omitempty" toml:"linkstate"`
	// QueryRSS lets the VF's driver read the receive-side-scaling key.
	QueryRSS *bool `json:"queryrss,omitempty" toml:"queryrss"`
}

// Value returns an attribute as text, and whether it is set.
func (s VFSettings) Value(attr string) (string, bool) {
	for _, a := range vfTable {
		if a.Name == attr {
			return a.access.text(s)
		}
	}
	return "", false
}

// Only returns the settings with no attributes but those of which keep says true.
func (s VFSettings) Only(keep func(attr string) bool) VFSettings {
	for _, a := range vfTable {
		if !keep(a.Name) {
			a.access.move(&s, VFSettings{})
		}
	}
	return s
}

// Override returns the settings that hold when s's go before others'.
func (s VFSettings) Override(others VFSettings) VFSettings {
	for _, a := range vfTable {
		if _, set := a.access.text(s); !set {
			a.access.move(&s, others)
		}
	}
	return s
}

// Differ lists the attributes that want sets and s does not have, those that s does
// not report included.
func (s VFSettings) Differ(want VFSettings) []string {
	var attrs []string
	for _, a := range vfTable {
		w, set := a.access.text(want)
		if have, said := a.access.text(s); set && (!said || have != w) {
			attrs = append(attrs, a.Name)
		}
	}
	return attrs
}

// String lists what is set, as "trust on, vlan 42 qos 3".
func (s VFSettings) String() string {
	var set []string
	for _, a := range vfTable {
		if v, ok := a.access.text(s); ok {
			set = append(set, a.Name+" "+v)
		}
	}
	return strings.Join(set, ", ")
}

// Check refuses values that no driver can be asked for.
func (s VFSettings) Check() error {
	for _, a := range vfTable {
		text, set := a.access.text(s)
		switch {
		case !set:
		case a.check != nil:
			if err := a.check(s); err != nil {
				return err
			}
		case a.Values != nil && !slices.Contains(a.Values, text):
			return fmt.Errorf("%s %q: want %s", a.Name, text, a.Want)
		}
	}
	return nil
}

// Spoofs says why whoever has the VF can send frames from addresses that are not the VF's:
// such a frame passes for one from the wire at the PF. "" where the driver keeps it from
// that, or does not say.
func (s VFSettings) Spoofs() string {
	var why []string
	if s.SpoofChk != nil && !*s.SpoofChk {
		why = append(why, "spoof check is off")
	}
	if s.Trust != nil && *s.Trust { // it may take any address, and several
		why = append(why, "trust is on")
	}
	return strings.Join(why, ", ")
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
	err := EachAttr(b[unix.SizeofIfInfomsg:], func(typ uint16, v []byte) error {
		if typ != unix.IFLA_VFINFO_LIST {
			return nil
		}
		return EachAttr(v, func(typ uint16, v []byte) error {
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
	err := EachAttr(b, func(typ uint16, v []byte) error {
		for _, a := range vfTable {
			if err := a.read(&vf, typ, v); err != nil {
				return err
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
