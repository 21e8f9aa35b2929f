// Package settings is the vocabulary in which a domain's metadata, a network's and the
// host's profiles say what a NIC should be beyond what libvirt has XML for.
//
// All lists the settings, one entry each. Parsing, checking, overriding, the shell's
// completion and the tables of the manual come from there.
package settings

import "libvirt-direct/internal/link"

// NIC are the settings of one NIC, from its metadata or from a profile. The zero value
// of each field means that it is not set: the profile's value holds, or else libvirt's.
//
// The toml tags are the keys of [profile.NAME]; "-" is for what a profile cannot say.
type NIC struct {
	// Uplink is the name of a network that hosts know under [uplink.NAME].
	Uplink string `toml:"uplink"`
	// Profile is the name of a [profile.NAME] whose settings hold where these are unset.
	Profile string `toml:"-"`
	// Dev is the lower device, or the parent of the VLAN sub-interface, where no
	// uplink is named.
	Dev string `toml:"-"`
	// Mode is the macvtap mode: "vepa", "bridge", "private" or "passthrough".
	Mode string `toml:"mode"`
	// VLAN is an 802.1Q VLAN identifier, 1..4094; 0 when unset.
	VLAN int `toml:"vlan"`
	// Own says who makes the device: OwnHook or OwnLibvirt.
	Own string `toml:"own"`
	// AllMulticast makes the macvtap receive all multicast frames.
	AllMulticast *bool `toml:"allmulticast"`
	// IfaceID is Open vSwitch's external_ids:iface-id of the NIC's port: the logical
	// port of OVN that it is.
	IfaceID string `toml:"-"`
	// FDB is "pf" where physical functions below the NIC's bridge are to know its MAC, "no" where
	// they are not.
	FDB string `toml:"fdb"`
	// VF is for a NIC that is a virtual function, or stands on one.
	VF
	// Port is for a NIC whose tap is a bridge's port.
	Port
	// Optional names attributes of a VF (link.VFAttrs) whose refusal by the driver is
	// a warning.
	Optional []string `toml:"optional"`
	// OVS is for NICs on Open vSwitch; nil when nothing is set.
	OVS *OVS `toml:"ovs"`
}

// VFAttributes are the fields of link.VFSettings. Those that libvirt sets, MAC and VLAN,
// are never set here.
type VFAttributes link.VFSettings

// VF are settings of a virtual function. The zero value of each field means that it is
// unset: the attribute stays as it is.
type VF struct {
	// QoS is the priority code point of the VLAN, 0..7.
	QoS *int `toml:"qos"`
	// Proto is the VLAN's tag protocol, link.Dot1Q or link.Dot1AD.
	Proto string `toml:"proto"`
	VFAttributes
	// PortProfile is the 802.1Qbh port profile to associate, at most 39 octets.
	PortProfile string `toml:"portprofile"`
}

// Set reports whether anything is set.
func (v VF) Set() bool { return v != VF{} }

// Override returns the settings that hold when v's go before others'.
func (v VF) Override(others VF) VF { return NIC{VF: v}.Override(NIC{VF: others}).VF }

// PortFlags are the flags of a port of a Linux bridge; of those, Open vSwitch knows Isolated.
// Without Learning the NIC's own address is entered; Locked takes Learning away.
type PortFlags link.PortFlags

// Port are settings of the bridge port that a NIC's tap is. The zero value of each field
// means that it is unset.
type Port struct {
	PortFlags
	// Trunk are the VLANs that the guest gets tagged: "100,200-299" (ParseVLANs).
	Trunk string `toml:"trunk"`
	// Native says how frames of the native VLAN leave to the guest of a trunk,
	// "untagged" or "tagged"; those that come in untagged are its either way.
	Native string `toml:"native"`
}

// Set reports whether anything is set.
func (p Port) Set() bool { return p != Port{} }

// OVS are a profile's settings of ports of Open vSwitch. Zero values leave it to libvirt
// and Open vSwitch (ovs-vswitchd.conf.db(5)).
type OVS struct {
	// Tunnel puts all of the guest's frames, with their own tags, into the port's VLAN
	// (vlan_mode dot1q-tunnel).
	Tunnel bool `toml:"tunnel"`
	// IngressRate and IngressBurst bound what the guest sends, in kbit/s and kbit.
	IngressRate  int `toml:"ingressrate"`
	IngressBurst int `toml:"ingressburst"`
	// MinRate and MaxRate are for what the guest receives, in Mbit/s; QoS is the kind
	// of queueing, "linux-htb" where it is empty.
	MinRate int    `toml:"minrate"`
	MaxRate int    `toml:"maxrate"`
	QoS     string `toml:"queueing"`
	// MTU is the interface's mtu_request.
	MTU int `toml:"mtu"`
	// Mirror is the port that gets a copy of the guest's frames.
	Mirror string `toml:"mirror"`
	// OVN makes a start wait until ovn-controller has bound the port.
	OVN bool `toml:"ovn"`
}

// Override returns the settings that hold when n's go before others'. A profile's OVS
// is taken as a whole.
func (n NIC) Override(others NIC) NIC {
	for _, s := range table {
		if s.Places&^InOVS == 0 {
			continue
		}
		if _, set := s.access.text(&n); !set {
			s.access.move(&n, &others)
		}
	}
	return n
}

// Check refuses values that mean nothing, and brings others into their preferred
// spelling. The error is a *ValueError; its name has the table before the key, "ovs.mtu".
func (n *NIC) Check() error {
	for _, s := range table {
		text, set := s.access.text(n)
		if !set {
			continue
		}
		if err := s.Parse(n, text); err != nil {
			return err
		}
	}
	if o := n.OVS; o != nil && o.MaxRate > 0 && o.MinRate > o.MaxRate {
		return &ValueError{Name: "ovs.minrate", Value: Number(o.MinRate), Want: "no more than maxrate"}
	}
	return nil
}

// The settings' names that other packages deal with.
const (
	NameUplink      = "uplink"
	NameProfile     = "profile"
	NameDev         = "dev"
	NameMode        = "mode"
	NameVLAN        = "vlan"
	NameOwn         = "own"
	NamePortProfile = "portprofile"
	NameTrunk       = "trunk"
	NameNative      = "native"
)

// Modes lists the macvtap modes, in libvirt's spelling.
func Modes() []string { return []string{"vepa", "bridge", "private", "passthrough"} }

// Owners: who makes a NIC's device.
const (
	OwnHook    = "hook"
	OwnLibvirt = "libvirt"
)
