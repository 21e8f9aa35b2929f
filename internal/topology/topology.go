// Package topology is a model of how guests hang on their host's network: guests, taps
// and macvtaps, VLAN sub-interfaces and bridges, virtual and physical functions, VSIs and
// the switch ports at the other end.
//
// A Topology is data and its Graph pure. Collect asks a host for one.
package topology

import (
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/ovs"
	"libvirt-direct/vdp/control"
)

// Topology is a host's network as libvirt, the kernel, the journals, Open vSwitch and vdpd
// have it. Any part may be missing; the zero value is a host that has nothing.
type Topology struct {
	// Guests run. AllGuests: no other does, so that what is of none of them is nobody's.
	Guests    []Guest
	AllGuests bool
	// Links are the network devices, in any order.
	Links []link.Link
	// OwnAlias is what the alias of a device begins with that libvirt-direct has made; ""
	// where that cannot be told.
	OwnAlias string
	PFs      []PF
	Journals []Journal
	Uplinks  map[string]string // the configuration's names, by device
	// VirtualSwitches are Open vSwitch's bridges, which the kernel does not show.
	VirtualSwitches []ovs.Bridge
	Stations        []control.Uplink // vdpd's
	VSIs            []control.VSIStatus
}

// Guest is a running domain.
type Guest struct {
	Name, UUID string
	NICs       []NIC
}

// NIC is an <interface> of a guest.
type NIC struct {
	ID     string // by which the guest's other NICs are told from it: its MAC, or more
	Type   string // libvirt's
	MAC    string
	Target string // its device on the host; "" where libvirt shows none
	PCI    string // address of the virtual function that it is; "" for none
}

// Journal is what is held for one guest, which need not run.
type Journal struct {
	Name, UUID string
	Holdings   []Holding
	Error      string // why the journal cannot be trusted, "" if it can
}

// Holding is one thing that is held for a guest: a virtual function, or else a device.
type Holding struct {
	NIC    string // the ID of the guest's NIC that it is for, or its MAC where a network handed it out
	VF     string // the virtual function's PCI address
	Device string
	// Class is the class in the graph of a device that is gone.
	Class   string
	Profile string // of an 802.1Qbh port
	// Difference says how it is not as the journal has it; "" where it is.
	Difference string
}
