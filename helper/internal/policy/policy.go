// Package policy reads /etc/libvirt-direct/helper.conf: the profiles that users may name, and who may use which.
//
// The format is the package's own; see Parse for it. Nothing is allowed that the file does not allow.
package policy

import (
	"errors"
	"strconv"

	"libvirt-direct/helper/internal/ether"
	"libvirt-direct/helper/internal/linkproto"
)

// Path is the file.
const Path = "/etc/libvirt-direct/helper.conf"

// Kind is what a profile hands out.
type Kind uint8

// Kinds of profile.
const (
	Macvtap Kind = iota + 1 // a macvtap device on a lower device
	Bridge                  // a TAP device in a Linux bridge
	OVS                     // a TAP device in a bridge of Open vSwitch
)

func (k Kind) String() string {
	switch k {
	case Macvtap:
		return "macvtap"
	case Bridge:
		return "bridge"
	case OVS:
		return "ovs"
	}
	return "unknown"
}

// Mode is a macvtap's mode, in the kernel's numbers (enum macvlan_mode, linux/if_link.h).
type Mode uint32

// Modes of a macvtap.
const (
	Private     Mode = 1 // guests on one lower device do not reach each other
	VEPA        Mode = 2 // they do by way of an external switch that reflects (802.1Qbg)
	BridgeMode  Mode = 4 // they reach each other directly
	Passthrough Mode = 8 // one guest has the lower device to itself
)

func (m Mode) String() string {
	switch m {
	case Private:
		return "private"
	case VEPA:
		return "vepa"
	case BridgeMode:
		return "bridge"
	case Passthrough:
		return "passthrough"
	}
	return "unknown"
}

// Device is what stands between the descriptor and the bridge or the lower device.
type Device uint8

// Kinds of device.
const (
	// Isolated is a macvtap in a network namespace of its own, behind a veth pair. The holder of its descriptor cannot
	// change the port's address, owner or life.
	Isolated Device = iota + 1
	// Plain is a TAP device that is itself the bridge's port, or a macvtap directly on the lower device.
	Plain
)

func (d Device) String() string {
	switch d {
	case Isolated:
		return "isolated"
	case Plain:
		return "plain"
	}
	return "unknown"
}

// plainDevice is how a profile of kind k writes Plain.
func (k Kind) plainDevice() string {
	if k == Macvtap {
		return "macvtap"
	}
	return "tap"
}

// Defaults and limits of a profile's numbers.
const (
	DefaultMaxPerUser = 4
	DefaultMax        = 64
	DefaultQueues     = 8
	LimitPerUser      = 256
	LimitMax          = 4096
	LimitQueues       = 64
)

// Profile is one [section] of the file.
type Profile struct {
	Name string
	Line int // of its heading, from 1

	Kind     Kind
	Device   Device
	Mode     Mode     // macvtap
	Lower    []string // macvtap: one device, or for passthrough the devices of which the first free one is taken
	Visible  bool     // macvtap: in the caller's network namespace instead of an anonymous one
	Bridge   string   // bridge and ovs
	Isolated bool     // bridge: IFLA_BRPORT_ISOLATED
	Learning bool     // bridge: IFLA_BRPORT_LEARNING
	Trunks   VLANSet  // ovs: the VLANs that the port carries with their tags
	// OVSSocket is the file's, for kind ovs.
	OVSSocket string
	Ingress   int    // ovs: kbit/s that the guest may send at most, 0 for any
	VLAN      uint16 // 1–4094, 0 for none: the sub-interface, the bridge port's untagged VLAN, or the tag of Open vSwitch's port

	Allow      []Subject
	MaxPerUser int // devices one user may have at once
	Max        int // devices all users may have at once
	Queues     int // descriptors of one device
	MACRules   []MACRule
	AntiSpoof  bool
	GuestVLANs VLANSet // tags of frames from and to the guest, where AntiSpoof is on

	LinkProtocols linkproto.Set // what else the guest may send, where AntiSpoof is on
}

// Config is the whole file.
type Config struct {
	Passthrough []string // devices that a profile may take whole
	OVSSocket   string   // where Open vSwitch's database listens, "" for where packages have it
	Profiles    []Profile
}

// Profile returns the profile called name, nil if there is none.
func (c *Config) Profile(name string) *Profile {
	for i := range c.Profiles {
		if c.Profiles[i].Name == name {
			return &c.Profiles[i]
		}
	}
	return nil
}

// SubjectKind says how a Subject is matched.
type SubjectKind uint8

// Kinds of subject.
const (
	Everyone SubjectKind = iota + 1
	UID
	GID
	User  // by name in /etc/passwd
	Group // by name in /etc/group
)

// Subject is one word of an allow line.
type Subject struct {
	Kind SubjectKind
	ID   uint32 // UID and GID
	Name string // User and Group
}

// Caller is who asks: the real ids of the process and its supplementary groups. The group list of the process counts,
// not the one in /etc/group.
type Caller struct {
	UID    uint32
	GID    uint32
	Groups []uint32
}

func (c Caller) inGroup(gid uint32) bool {
	if c.GID == gid {
		return true
	}
	for _, g := range c.Groups {
		if g == gid {
			return true
		}
	}
	return false
}

// Names finds the ids of local users and groups; false for a name that does not exist, which then matches nobody.
type Names struct {
	User  func(name string) (uint32, bool, error)
	Group func(name string) (uint32, bool, error)
}

// Allows reports whether p may be used by c. Names are looked up only if no number decides.
func (p *Profile) Allows(c Caller, names Names) (bool, error) {
	for _, s := range p.Allow {
		if s.Kind == Everyone || s.Kind == UID && s.ID == c.UID || s.Kind == GID && c.inGroup(s.ID) {
			return true, nil
		}
	}
	for _, s := range p.Allow {
		switch s.Kind {
		case User:
			id, ok, err := names.User(s.Name)
			if err != nil {
				return false, err
			}
			if ok && id == c.UID {
				return true, nil
			}
		case Group:
			id, ok, err := names.Group(s.Name)
			if err != nil {
				return false, err
			}
			if ok && c.inGroup(id) {
				return true, nil
			}
		}
	}
	return false, nil
}

// MACRuleKind says which addresses a MACRule lets pass.
type MACRuleKind uint8

// Kinds of MAC rule.
const (
	AnyMAC     MACRuleKind = iota + 1
	DerivedMAC             // those of ether.Derive for the caller
	PrefixMAC              // those with the same first octets
	FixedMAC               // one address
	LowerMAC               // the lower device's own (passthrough)
)

// MACRule is one word of a mac line.
type MACRule struct {
	Kind   MACRuleKind
	MAC    ether.MAC // FixedMAC; PrefixMAC: its first Octets octets
	Octets int       // PrefixMAC: 1–5
}

// Errors of a choice of MAC, matched with errors.Is.
var (
	ErrMACDenied = errors.New("the profile does not allow this MAC address")
	ErrMACNeeded = errors.New("the profile needs the guest's MAC address: give it as PROFILE/MAC")
)

// Candidate is one address that a device may get.
type Candidate struct {
	MAC  ether.MAC
	Slot int  // the caller's slot the address belongs to, -1 if any slot will do
	None bool // no address was named and none is needed: the guest chooses
}

// MACs returns the addresses to try, best first, for a caller who named mac, or named none if it is nil. lower is the
// address of the lower device, derive the caller's own address of a slot. More than one is returned only where the
// caller leaves the choice to the profile.
func (p *Profile) MACs(mac *ether.MAC, lower ether.MAC, derive func(slot int) ether.MAC) ([]Candidate, error) {
	if mac != nil {
		return p.checkMAC(*mac, lower, derive)
	}
	var out []Candidate
	for _, r := range p.MACRules {
		switch {
		case r.Kind == DerivedMAC:
			for slot := 0; slot < p.MaxPerUser; slot++ {
				out = append(out, Candidate{MAC: derive(slot), Slot: slot})
			}
		case r.Kind == FixedMAC:
			out = append(out, Candidate{MAC: r.MAC, Slot: -1})
		case r.Kind == LowerMAC:
			out = append(out, Candidate{MAC: lower, Slot: -1})
		case r.Kind == AnyMAC && p.Kind != Macvtap && !p.AntiSpoof:
			out = append(out, Candidate{Slot: -1, None: true})
		}
	}
	if len(out) == 0 {
		return nil, ErrMACNeeded
	}
	return out, nil
}

func (p *Profile) checkMAC(mac, lower ether.MAC, derive func(int) ether.MAC) ([]Candidate, error) {
	for _, r := range p.MACRules {
		switch r.Kind {
		case DerivedMAC:
			for slot := 0; slot < p.MaxPerUser; slot++ {
				if derive(slot) == mac {
					return []Candidate{{MAC: mac, Slot: slot}}, nil
				}
			}
			continue
		case FixedMAC:
			if r.MAC != mac {
				continue
			}
		case PrefixMAC:
			if string(r.MAC[:r.Octets]) != string(mac[:r.Octets]) {
				continue
			}
		case LowerMAC:
			if lower != mac {
				continue
			}
		}
		return []Candidate{{MAC: mac, Slot: -1}}, nil
	}
	return nil, ErrMACDenied
}

// Error is a fault of the file.
type Error struct {
	Line int // from 1
	Text string
}

func (e *Error) Error() string { return Path + ":" + strconv.Itoa(e.Line) + ": " + e.Text }

// VLANSet says which VLAN tags (IEEE 802.1Q, TPID 0x8100 or 0x88a8) frames from and to a guest may have. The zero value
// allows none.
type VLANSet struct {
	All    bool // any tag, of the other TPIDs in linkproto.Tags too, and two of them
	Ranges []VLANRange
}

// VLANRange is first to last VLAN ID, both included; 0 is a priority tag.
type VLANRange struct{ First, Last uint16 }
