// Package linkproto is the table of link-control protocols: those by which bridges, switches and network cards agree
// on how a link works, on who is at its other end, and on which links carry traffic. A guest is none of them. A guest
// that speaks one can become the root of a spanning tree, make a switch port a trunk, or stop a port's traffic.
//
// Frames are told apart by their destination and by their form: an EtherType, an LLC service access point, or the
// organization and protocol of a SNAP header. Package antispoof has the rule.
package linkproto

import (
	"strings"

	"libvirt-direct/helper/internal/ether"
)

// Prefix is the first digits of a MAC address, or all of them: "01:80:c2", or "01:80:c2:00:00:3" for those that end in
// 30 to 3f.
type Prefix string

// Match returns the prefix as the upper digits of a 48-bit number, and which bits of it count.
func (p Prefix) Match() (value, mask uint64) {
	for i := 0; i < len(p); i++ {
		switch c := p[i]; {
		case '0' <= c && c <= '9':
			value = value<<4 | uint64(c-'0')
		case 'a' <= c && c <= 'f':
			value = value<<4 | uint64(c-'a'+10)
		default:
			continue
		}
		mask = mask<<4 | 0xf
	}
	for mask>>44 == 0 {
		value, mask = value<<4, mask<<4
	}
	return value, mask
}

// Has reports whether dst begins with p.
func (p Prefix) Has(dst ether.MAC) bool {
	value, mask := p.Match()
	var n uint64
	for _, octet := range dst {
		n = n<<8 | uint64(octet)
	}
	return n&mask == value
}

// String is the form in which manuals write a range of addresses: 01:80:c2:xx:xx:xx.
func (p Prefix) String() string {
	const all = "xx:xx:xx:xx:xx:xx"
	return string(p) + all[len(p):]
}

// AnyVendor as a SNAP's OUI stands for each that is neither an EtherType's nor AppleTalk's.
const AnyVendor = 1 << 24

// SNAP is what a SNAP header (IEEE 802-2014 §9.5) names a protocol by.
type SNAP struct {
	OUI    uint32
	PID    uint16
	AnyPID bool
}

// Has reports whether s includes a header's two fields.
func (s SNAP) Has(oui uint32, pid uint16) bool {
	return (s.OUI == AnyVendor || s.OUI == oui) && (s.AnyPID || s.PID == pid)
}

// Protocol is one entry of the table.
type Protocol struct {
	Name      string // in a profile's link-protocols
	Groups    []Prefix
	Types     []uint16 // EtherTypes
	SAPs      []uint8  // LLC service access points
	SNAPs     []SNAP
	Elsewhere bool   // its frames to destinations that are no protocol's pass: they are data
	What      string // for the manual
	Reference string
}

// All returns the table. The caller does not change it.
func All() []Protocol { return table }

// Tags are the EtherTypes of VLAN tags (Linux's if_ether.h has all of them). A profile does not name them in
// link-protocols: guest-vlans decides about them. The first two are the standard's.
var Tags = [...]uint16{0x8100, 0x88a8, 0x9100, 0x9200, 0x9300}

// The forms that SNAP takes, by organization.
const (
	OUIEtherType uint32 = 0x000000 // RFC 1042: the protocol is an EtherType
	OUITunnel    uint32 = 0x0000f8 // IEEE 802.1H: the same
	OUIApple     uint32 = 0x080007
	PIDApple     uint16 = 0x809b // AppleTalk
)

// SAPs of LLC. Either access point of a frame makes it one of these, whatever the group and response bits.
const (
	SAPBridge uint8 = 0x42
	SAPSNAP   uint8 = 0xaa
)

// Set is a set of protocols of the table. The zero value is empty.
type Set [2]uint64

// Add puts the protocol called name into s, and returns false if there is none of that name.
func (s *Set) Add(name string) bool {
	for i := range table {
		if table[i].Name == name {
			s[i/64] |= 1 << (i % 64)
			return true
		}
	}
	return false
}

// Protocols returns the members of s, in the table's order.
func (s Set) Protocols() []*Protocol { return s.choose(true) }

// Others returns the protocols that are not in s.
func (s Set) Others() []*Protocol { return s.choose(false) }

func (s Set) choose(members bool) []*Protocol {
	var out []*Protocol
	for i := range table {
		if (s[i/64]>>(i%64)&1 == 1) == members {
			out = append(out, &table[i])
		}
	}
	return out
}

// Names lists the table's names, for messages.
func Names() string {
	var names []string
	for i := range table {
		names = append(names, table[i].Name)
	}
	return strings.Join(names, " ")
}
