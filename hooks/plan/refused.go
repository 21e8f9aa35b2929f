package plan

import (
	"cmp"
	"slices"

	"libvirt-direct/hooks/step"
	"libvirt-direct/xmlfilter"
)

// A Refusal is something that a NIC's XML says and libvirt does not do.
type Refusal struct {
	// What is said, and Fix what to say in its place.
	What, Fix string
	// Ignored: libvirt takes it and does nothing.
	Ignored bool
	// Before is the first release of libvirt that takes it, "" where none does.
	Before string
	// Define: libvirt refuses already to define the domain.
	Define bool
}

func (r Refusal) String() string {
	text := "libvirt refuses "
	switch {
	case r.Ignored:
		text = "libvirt ignores "
	case r.Before != "":
		text = "libvirt before " + r.Before + " refuses "
	}
	text += r.What
	if r.Fix != "" {
		text += "; " + r.Fix
	}
	return text
}

// certain reports whether every release of libvirt refuses it.
func (r Refusal) certain() bool { return !r.Ignored && r.Before == "" }

// rule is a row of the table of what libvirt refuses.
type rule struct {
	Refusal
	is func(f facts) bool
}

// facts are what rules ask of a NIC.
type facts struct {
	*xmlfilter.NIC
	mode     string // of a macvtap
	vf       bool   // its <source> is a virtual function, as far as that is known here
	there    bool   // the device of its <source> is known here
	hostdev  bool
	direct   bool
	virtio   bool   // its model is one
	emulated bool   // its model is another one; both are false where libvirt chooses
	port     string // type of its <virtualport>
}

func factsOf(host Snapshot, n *xmlfilter.NIC) facts {
	f := facts{NIC: n, hostdev: n.Type == "hostdev", direct: n.Type == "direct"}
	if f.direct {
		f.mode = n.Source.Mode
	}
	dev, there := host.Devices[n.Source.Dev]
	f.there, f.vf = there, there && dev.VF
	f.virtio = slices.Contains([]string{"virtio", "virtio-transitional", "virtio-non-transitional"}, n.Model)
	f.emulated = n.Model != "" && !f.virtio
	if n.VirtualPort != nil {
		f.port = n.VirtualPort.Type
	}
	return f
}

func (f facts) trunk() bool { return f.VLAN != nil && (f.VLAN.Trunk || len(f.VLAN.Tags) > 1) }

// onPort reports whether the NIC is a tap that is put into a bridge of Linux, by itself or by
// its network.
func (f facts) onPort() bool { return f.Type == "bridge" || f.Type == "network" }

// rules are what libvirt refuses, or ignores, although its schema has it: by
// virDomainActualNetDefValidate and qemuDomainValidateActualNetDef at the start,
// virDomainNetDefValidate and qemuValidateDomainDeviceDefNetwork when a domain is defined,
// virNetDevSetNetConfig and virHostdevSetNetConfig when a virtual function is set. What a
// newer release takes has Before, and is refused by nobody here.
func rules() []rule {
	vfVLAN := "give it one <tag>, or a port of a bridge or of Open vSwitch"
	return []rule{
		{Refusal{What: "a trunk on a virtual function (<vlan> with trunk, nativeMode or several tags)", Fix: vfVLAN},
			func(f facts) bool { return f.trunk() && (f.hostdev || f.mode == "passthrough") }},
		{Refusal{What: "<vlan> with <virtualport type='802.1Qbh'>", Fix: "leave <vlan> out: the port profile has the VLAN"},
			func(f facts) bool { return f.VLAN != nil && f.port == qbh && (f.hostdev || f.mode == "passthrough") }},
		{Refusal{What: "<vlan> on a device that is no virtual function", Fix: "name the VLAN's own device, <source dev='DEVICE.VID'>"},
			func(f facts) bool {
				return f.VLAN != nil && !f.trunk() && f.mode == "passthrough" && f.there && !f.vf && f.Source.Network == ""
			}},
		{Refusal{What: "<vlan> on a macvtap that is not in passthrough mode", Fix: "name the VLAN's own device, <source dev='DEVICE.VID'>"},
			func(f facts) bool { return f.VLAN != nil && f.direct && f.mode != "passthrough" }},
		{Refusal{What: "<vlan> on a Linux bridge", Before: "11.0", Fix: "say vlan, trunk and native in its settings"},
			func(f facts) bool { return f.VLAN != nil && f.Type == "bridge" && f.port == "" }},
		{Refusal{What: "<vlan> on a bridge with this <virtualport>", Fix: "leave one of them out"},
			func(f facts) bool {
				return f.VLAN != nil && f.Type == "bridge" && f.port != "" && f.port != typeOVS
			}},
		{Refusal{What: "<vlan> on this type", Fix: "leave it out"},
			func(f facts) bool {
				return f.VLAN != nil && !f.direct && !f.hostdev && !f.onPort()
			}},
		{Refusal{What: "<virtualport> of another type than 802.1Qbh on a virtual function that the guest has by VFIO", Fix: "leave it out"},
			func(f facts) bool { return f.hostdev && f.port != "" && f.port != qbh }},
		{Refusal{What: "<virtualport> on this type", Define: true, Fix: "leave it out"},
			func(f facts) bool { return f.VirtualPort != nil && !f.direct && !f.hostdev && !f.onPort() }},
		{Refusal{What: "<virtualport type='802.1Qbg'> or 802.1Qbh on a bridge, and puts the tap into none: the guest has no network", Ignored: true, Fix: "they are for type='direct'"},
			func(f facts) bool { return f.Type == "bridge" && (f.port == typeQbg || f.port == qbh) }},
		{Refusal{What: "this <virtualport> on a macvtap", Ignored: true, Fix: "it is for bridges; a macvtap takes 802.1Qbg and 802.1Qbh"},
			func(f facts) bool { return f.direct && f.port != "" && f.port != typeQbg && f.port != qbh }},
		{Refusal{What: "<bandwidth> on a virtual function that the guest has by VFIO", Fix: "say maxrate in its settings"},
			func(f facts) bool { return f.hostdev && f.Bandwidth }},
		{Refusal{What: "<filterref> here: nothing filters the guest", Ignored: true, Fix: "filters are for taps in a bridge and type='ethernet'"},
			func(f facts) bool { return f.Filter && (f.direct || f.hostdev) }},
		{Refusal{What: "<filterref> on a bridge with <virtualport>", Fix: "leave it out: libvirt filters taps in Linux bridges alone"},
			func(f facts) bool { return f.Filter && f.Type == "bridge" && f.port != "" }},
		{Refusal{What: "<script> on this type", Fix: "scripts are for type='ethernet'"},
			func(f facts) bool { return f.Script && (f.direct || f.Type == "bridge") }},
		{Refusal{What: "<backend tap=> on this type", Fix: "leave it out: the guest has no tap"},
			func(f facts) bool { return f.TapPath && (f.direct || f.hostdev) }},
		{Refusal{What: "<mtu> on this type", Define: true, Fix: "set the MTU of the device that <source> names"},
			func(f facts) bool { return f.MTU != 0 && (f.direct || f.hostdev) && f.Source.Network == "" }},
		{Refusal{What: "<port isolated='yes'> outside a Linux bridge", Define: true, Fix: "leave it out"},
			func(f facts) bool { return f.Isolated && (!f.onPort() || f.port != "") }},
		{Refusal{What: "<driver queues=> on a virtual function that the guest has by VFIO", Fix: "leave it out: the guest's driver has its queues"},
			func(f facts) bool { return f.hostdev && f.virtio && f.Queues > 1 }},
		{Refusal{What: "<driver queues=> with a model that is not virtio", Ignored: true, Fix: "say <model type='virtio'/>"},
			func(f facts) bool { return f.Queues > 1 && f.emulated }},
		{Refusal{What: "trustGuestRxFilters with a model that is not virtio", Ignored: true, Fix: "say <model type='virtio'/>, or allmulticast in its settings"},
			func(f facts) bool { return f.RxFilters && f.direct && f.emulated }},
		{Refusal{What: "trustGuestRxFilters on this type", Ignored: true, Fix: "say allmulticast in its settings"},
			func(f facts) bool { return f.RxFilters && f.Type == "ethernet" }},
		{Refusal{What: "<target managed='no'> on this type", Define: true, Fix: "leave it out"},
			func(f facts) bool { return f.Managed == "no" && f.Type != "ethernet" }},
		{Refusal{What: "<teaming type='persistent'> with a model that is not virtio", Define: true, Fix: "say <model type='virtio'/>"},
			func(f facts) bool { return f.Teaming.Type == "persistent" && f.emulated }},
		{Refusal{What: "<teaming type='transient'> on this type", Define: true, Fix: "the transient one is a hostdev NIC"},
			func(f facts) bool { return f.Teaming.Type == "transient" && !f.hostdev && f.Type != "network" }},
		{Refusal{What: "<teaming type='transient'> without persistent=", Define: true, Fix: "name the alias of the other NIC in it"},
			func(f facts) bool { return f.Teaming.Type == "transient" && f.Teaming.Persistent == "" }},
		{Refusal{What: "<teaming persistent=> in a persistent one", Define: true, Fix: "leave that attribute out"},
			func(f facts) bool { return f.Teaming.Type == "persistent" && f.Teaming.Persistent != "" }},
	}
}

// Refusals are what libvirt refuses of a NIC as it is, or ignores.
func Refusals(host Snapshot, n *xmlfilter.NIC) []Refusal {
	f := factsOf(host, n)
	var found []Refusal
	for _, r := range rules() {
		if r.is(f) {
			found = append(found, r.Refusal)
		}
	}
	return found
}

// libvirtRefuses is an error for what every libvirt refuses of a NIC: it is said before
// anything is done.
func libvirtRefuses(host Snapshot, n *xmlfilter.NIC) error {
	for _, r := range Refusals(host, n) {
		if r.certain() {
			return step.Hint(ErrLibvirtRefuses, "%s; %s", r.What, r.Fix)
		}
	}
	return nil
}

// changed is a NIC as it is after a change, as far as rules ask.
func changed(n *xmlfilter.NIC, c xmlfilter.Change) *xmlfilter.NIC {
	after := *n
	after.Source.Dev = cmp.Or(c.SourceDev, n.Source.Dev)
	after.Source.Mode = cmp.Or(c.SourceMode, n.Source.Mode)
	if c.DropVLAN || c.Ethernet != "" {
		after.VLAN = nil
	}
	if c.DropVirtualPort || c.Ethernet != "" {
		after.VirtualPort = nil
	}
	if c.Ethernet != "" {
		after.Type, after.Target, after.Managed = "ethernet", c.Ethernet, "no"
	}
	return &after
}
