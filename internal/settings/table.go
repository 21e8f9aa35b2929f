package settings

import (
	"slices"

	"libvirt-direct/internal/link"
)

// Kinds are the kinds of NIC that a setting is for.
type Kinds uint

// The kinds of NIC.
const (
	OnMacvtap Kinds = 1 << iota // made by libvirt or by the hook
	OnVF                        // a virtual function, or a macvtap in passthrough mode on one
	OnBridge                    // a tap in a Linux bridge
	OnOVS                       // a tap in Open vSwitch

	onAny = OnMacvtap | OnVF | OnBridge | OnOVS
)

// Places are where a setting may stand.
type Places uint

// The places.
const (
	InNIC     Places = 1 << iota // <ld:nic> in a domain's metadata
	InNetwork                    // <ld:network> and <ld:portgroup> in a network's metadata
	InProfile                    // [profile.NAME] of config.toml
	InUplink                     // [uplink.NAME] of config.toml
	InOVS                        // [profile.NAME.ovs] of config.toml

	// MisplacedInNetwork is for what a network's metadata cannot say, and is understood
	// there so that the hook can tell where it belongs.
	MisplacedInNetwork
)

// Change is when a changed value takes effect for a guest that runs. No setting can be
// changed at once: libvirt calls no hook when metadata changes.
type Change int

// The times of change.
const (
	// AtStart: the guest has to be started again.
	AtStart Change = iota
	// AtReconnect: it is set again when libvirtd is restarted.
	AtReconnect
)

// Restriction is for which of its values a setting restricts the guest: Never, Always, or one
// value as text.
type Restriction string

// The restrictions.
const (
	Never  Restriction = "never"
	Always Restriction = "always"
	IfYes  Restriction = "yes"
	IfNo   Restriction = "no"
)

// String says when, in a word of the manual's tables.
func (c Change) String() string {
	if c == AtReconnect {
		return "reconnect"
	}
	return "start"
}

// Setting is one setting, with all that parsers, messages, completion and documents know
// of it. A new one is an entry of the table and a field of NIC.
type Setting struct {
	// Name is the attribute in metadata and the key in config.toml.
	Name   string
	NICs   Kinds
	Places Places
	// Restricts says for which values it keeps the guest from something, so that a guest
	// without it could do more. Every setting says so.
	Restricts Restriction
	// Since is the first release that has it.
	Since  string
	Change Change
	// Help says in a phrase what it does, in Markdown; it begins in lower case.
	Help string

	// Values are the texts that Parse takes, in their preferred spelling. nil for a
	// setting whose values are not a list.
	Values []string
	// Form describes the values that are no list, in Markdown.
	Form string

	want   string // the values, for messages: "yes or no"
	typ    valueType
	blank  bool // an empty text is no error: it leaves the setting unset
	access access
}

// In reports whether the setting may stand in a place.
func (s Setting) In(p Places) bool { return s.Places&p != 0 }

// Restricting lists the settings by which a NIC restricts its guest, those of its profile not
// included.
func (n NIC) Restricting() []Setting {
	return slices.DeleteFunc(All(), func(s Setting) bool {
		text, set := s.Text(n)
		return !set || s.Restricts != Always && string(s.Restricts) != text
	})
}

// All lists every setting, in the order in which they are written and documented.
func All() []Setting { return slices.Clone(table) }

// At lists the settings that may stand in a place.
func At(p Places) []Setting {
	return slices.DeleteFunc(All(), func(s Setting) bool { return !s.In(p) })
}

// Names lists the names of the settings that may stand in a place.
func Names(p Places) []string {
	var names []string
	for _, s := range At(p) {
		names = append(names, s.Name)
	}
	return names
}

// Lookup finds a setting that may stand in a place by its name.
func Lookup(p Places, name string) (Setting, bool) {
	i := slices.IndexFunc(table, func(s Setting) bool { return s.In(p) && s.Name == name })
	if i < 0 {
		return Setting{}, false
	}
	return table[i], true
}

const (
	inBoth      = InNIC | InProfile
	ofDomain    = inBoth | MisplacedInNetwork
	everywhere  = InNIC | InNetwork | InProfile
	release0    = "0.1.0"
	mbits       = "Mbit/s, 0 for no bound"
	formMbits   = "Mbit/s"
	formVLANs   = "as in `100,200-299`"
	wantVLANs   = "VLAN identifiers and ranges within 1-4094, as in 100,200-299"
	formProfile = "name of a `[profile.NAME]`"
)

// table is the table of settings. It is never changed.
var table = slices.Concat([]Setting{
	{
		Name: NameUplink, NICs: onAny, Places: inBoth, Restricts: Never, Since: release0, Form: "name of an `[uplink.NAME]`", blank: true,
		Help:   "the network the NIC belongs to, whatever its device is called on a host",
		access: text(func(n *NIC) *string { return &n.Uplink }, anyText),
	}, {
		Name: NameProfile, NICs: onAny, Places: InNIC | InNetwork, Restricts: Never, Since: release0, Form: formProfile, blank: true,
		Help:   "settings that hold where the NIC has none",
		access: text(func(n *NIC) *string { return &n.Profile }, anyText),
	}, {
		Name: NameDev, NICs: OnMacvtap | OnVF, Places: InNIC, Restricts: Never, Since: release0, Form: "device name", blank: true,
		Help:   "the lower device, or the VLAN's parent, where no uplink is named",
		access: text(func(n *NIC) *string { return &n.Dev }, anyText),
	}, {
		Name: NameMode, NICs: OnMacvtap | OnVF, Places: inBoth, Restricts: Never, Since: release0, Values: Modes(),
		want: "vepa, bridge, private, passthrough", typ: typeString,
		Help:   "macvtap mode",
		access: choice(func(n *NIC) *string { return &n.Mode }, Modes()...),
	}, {
		Name: NameVLAN, NICs: onAny, Places: inBoth, Restricts: Always, Since: release0, Form: "1 to 4094", want: "1 to 4094", typ: typeNumber,
		Help: "VLAN identifier: the NIC stands on a VLAN sub-interface of its uplink; a virtual function's card adds the tag; " +
			"on a bridge its port is an access port of that VLAN, or has it as native one beside `trunk`",
		access: number(func(n *NIC) *int { return &n.VLAN }, 1, 4094),
	}, {
		Name: NameOwn, NICs: OnMacvtap | OnVF | OnOVS, Places: inBoth, Restricts: Never, Since: release0, Values: []string{OwnHook, OwnLibvirt},
		want: "hook or libvirt", typ: typeString,
		Help:   "who makes the device; see [metadata](metadata.md)",
		access: choice(func(n *NIC) *string { return &n.Own }, OwnHook, OwnLibvirt),
	},
	yesNoSetting("allmulticast", OnMacvtap, inBoth|InUplink, Never,
		"the macvtap receives all multicast frames; without it (or `trustGuestRxFilters='yes'`) neighbours cannot find the guest by IPv6",
		func(n *NIC) **bool { return &n.AllMulticast }),
	{
		Name: "ifaceid", NICs: OnOVS, Places: InNIC, Restricts: Never, Since: release0, Change: AtReconnect, Form: "at most 255 octets",
		want: "the name of a logical port, at most 255 octets", blank: true,
		Help:   "the port's `external_ids:iface-id`, a logical port of OVN; libvirt's own `interfaceid` can only be a UUID",
		access: text(func(n *NIC) *string { return &n.IfaceID }, short(255)),
	}, {
		Name: "qos", NICs: OnVF, Places: ofDomain, Restricts: Never, Since: release0, Change: AtReconnect, Form: "0 to 7", want: "0 to 7", typ: typeNumber,
		Help:   "priority of the VLAN (`vlan`, or the NIC's `<vlan>`)",
		access: optionalNumber(func(n *NIC) **int { return &n.QoS }, 0, 7),
	}, {
		Name: "proto", NICs: OnVF, Places: ofDomain, Restricts: Never, Since: release0, Change: AtReconnect, Values: []string{link.Dot1Q, link.Dot1AD},
		want: "802.1Q or 802.1ad", typ: typeString, blank: true,
		Help:   "tag protocol of the VLAN",
		access: value(func(n *NIC) *string { return &n.Proto }, stringText, anyCase(link.Dot1Q, link.Dot1AD)),
	},
}, vfSettings(), []Setting{
	{
		Name: NamePortProfile, NICs: OnVF | OnMacvtap, Places: ofDomain, Restricts: Always, Since: release0, Form: "at most 39 octets", want: "at most 39 octets",
		typ: typeString, blank: true,
		Help:   "802.1Qbh port profile that the hook associates",
		access: text(func(n *NIC) *string { return &n.PortProfile }, short(39)),
	},
	yesNoSetting("isolated", OnBridge|OnOVS, inBoth, IfYes, "no frames to or from other isolated ports", func(n *NIC) **bool { return &n.Isolated }),
	yesNoSetting("learning", OnBridge, inBoth, IfNo, "the bridge learns MAC addresses from the guest's frames; with `no` the NIC's own is entered",
		func(n *NIC) **bool { return &n.Learning }),
	yesNoSetting("hairpin", OnBridge, inBoth, Never, "frames may leave by the port that they came in by (reflective relay, for a VEPA inside the guest)",
		func(n *NIC) **bool { return &n.Hairpin }),
	yesNoSetting("bpduguard", OnBridge, inBoth, IfYes, "a spanning tree BPDU from the guest disables the port", func(n *NIC) **bool { return &n.BPDUGuard }),
	yesNoSetting("flood", OnBridge, inBoth, IfNo, "frames to MAC addresses that the bridge does not know are sent to the guest too",
		func(n *NIC) **bool { return &n.Flood }),
	yesNoSetting("mcastflood", OnBridge, inBoth, IfNo, "frames to multicast groups that the guest is not known to have joined are sent to it too",
		func(n *NIC) **bool { return &n.MulticastFlood }),
	yesNoSetting("neighsuppress", OnBridge, inBoth, Never, "the bridge answers ARP and neighbour solicitations for the guest out of its own neighbour table",
		func(n *NIC) **bool { return &n.NeighSuppress }),
	yesNoSetting("locked", OnBridge, inBoth, IfYes, "the guest can send from the NIC's own MAC address alone; includes `learning='no'` (Linux 5.18)",
		func(n *NIC) **bool { return &n.Locked }),
	{
		Name: "fdb", NICs: OnBridge | OnOVS, Places: inBoth | InUplink, Restricts: Never, Since: release0, Change: AtReconnect, Values: []string{"pf", "no"},
		want: "pf or no", typ: typeString,
		Help:   "`pf`: the MAC is entered in the forwarding table of each network card below the bridge that has virtual functions; without it guests on those do not reach this one",
		access: choice(func(n *NIC) *string { return &n.FDB }, "pf", "no"),
	},
	{
		Name: NameTrunk, NICs: OnBridge | OnOVS, Places: inBoth, Restricts: Always, Since: release0, Change: AtReconnect, Form: formVLANs, want: wantVLANs,
		typ: typeString, blank: true,
		Help: "the VLANs that the guest gets tagged",
		access: text(func(n *NIC) *string { return &n.Trunk }, func(s string) bool {
			_, err := ParseVLANs(s)
			return err == nil
		}),
	}, {
		Name: NameNative, NICs: OnBridge | OnOVS, Places: inBoth, Restricts: Never, Since: release0, Change: AtReconnect, Values: []string{"untagged", "tagged"},
		want: "untagged or tagged", typ: typeString, blank: true,
		Help:   "with `trunk`: how frames of `vlan` leave to the guest; `untagged` when unset",
		access: choice(func(n *NIC) *string { return &n.Native }, "untagged", "tagged"),
	}, {
		Name: "optional", NICs: OnVF, Places: InProfile, Restricts: Never, Since: release0, Values: link.VFAttrs(), typ: typeList,
		Help:   "attributes of a virtual function whose refusal by the driver is a warning, not an error",
		access: list(func(n *NIC) *[]string { return &n.Optional }, link.VFAttrs()),
	}, {
		Name: "ovs", NICs: OnOVS, Places: InProfile, Restricts: Never, Since: release0, Change: AtReconnect, Form: "a table", typ: typeTable,
		Help:   "ports of Open vSwitch: see below",
		access: ovsTable(),
	},
}, ovsSettings())

// vfSettings are the attributes of a VF that libvirt does not set, out of link's table.
func vfSettings() []Setting {
	var all []Setting
	for _, a := range link.VFAttributes() {
		if a.Libvirt {
			continue
		}
		s := Setting{
			Name: a.Name, NICs: OnVF, Places: everywhere, Restricts: restrictsVF(a.Name), Since: a.Since, Change: AtReconnect, Help: a.Help,
			Values: a.Values, want: a.Want, typ: typeNumber, Form: formMbits, access: vfAttribute(a),
		}
		switch {
		case a.Flag():
			s.Values, s.want, s.typ, s.Form = yesNo(), "yes or no", typeFlag, ""
		case a.Values != nil:
			s.typ, s.Form, s.blank = typeString, "", true
		}
		all = append(all, s)
	}
	return all
}

// restrictsVF is the Restriction of an attribute of a VF, none for one that is not known here.
func restrictsVF(attr string) Restriction {
	switch attr {
	case link.AttrSpoofChk:
		return IfYes
	case link.AttrTrust, link.AttrQueryRSS:
		return IfNo
	case link.AttrMinRate, link.AttrMaxRate:
		return Always
	case link.AttrLinkState:
		return link.LinkDisable
	}
	return ""
}

// ovsSettings are those of [profile.NAME.ovs].
func ovsSettings() []Setting {
	all := []Setting{
		{
			Name: "tunnel", Restricts: IfYes, Values: yesNo(), want: "true or false", typ: typeFlag, access: ovsFlag(func(o *OVS) *bool { return &o.Tunnel }),
			Help: "all of the guest's frames, whatever tags they have, go into the port's VLAN, with a tag of 802.1ad (`vlan_mode` dot1q-tunnel)",
		},
		ovsRate("ingressrate", Always, "kbit/s", "what the guest may send at most (`ingress_policing_rate`)", func(o *OVS) *int { return &o.IngressRate }),
		ovsRate("ingressburst", Never, "kbit", "how much of it at once; Open vSwitch's default is 8000", func(o *OVS) *int { return &o.IngressBurst }),
		ovsRate("minrate", Always, formMbits, "what the guest receives at least", func(o *OVS) *int { return &o.MinRate }),
		ovsRate("maxrate", Always, formMbits, "what the guest receives at most", func(o *OVS) *int { return &o.MaxRate }),
		{
			Name: "queueing", Restricts: Never, Values: []string{"linux-htb", "linux-hfsc", "egress-policer"}, want: "linux-htb, linux-hfsc or egress-policer", typ: typeString,
			access: inOVS(func(o *OVS) *string { return &o.QoS }, stringText, oneOf("linux-htb", "linux-hfsc", "egress-policer")), blank: true,
			Help: "how that is done: the type of the port's QoS; `linux-htb` when unset",
		},
		{
			Name: "mtu", Restricts: Never, Form: "68 to 65535", want: "68 to 65535", typ: typeNumber,
			access: inOVS(func(o *OVS) *int { return &o.MTU }, numberText, within(68, 65535)),
			Help:   "the interface's `mtu_request`",
		},
		{
			Name: "mirror", Restricts: Always, Form: "name of a port", want: "the name of a port", typ: typeString,
			access: inOVS(func(o *OVS) *string { return &o.Mirror }, stringText, func(s string) (string, bool) { return s, link.ValidName(s) }), blank: true,
			Help: "gets a copy of each of the guest's frames, both ways",
		},
		{
			Name: "ovn", Restricts: Never, Values: yesNo(), want: "true or false", typ: typeFlag, access: ovsFlag(func(o *OVS) *bool { return &o.OVN }),
			Help: "a start waits until ovn-controller has bound the port",
		},
	}
	for i := range all {
		all[i].NICs, all[i].Places, all[i].Since = OnOVS, InOVS, release0
		if all[i].Name != "ovn" {
			all[i].Change = AtReconnect
		}
	}
	return all
}

func ovsRate(name string, restricts Restriction, unit, help string, at func(*OVS) *int) Setting {
	return Setting{
		Name: name, Restricts: restricts, Form: unit, want: unit + ", 0 for no bound", typ: typeNumber, Help: help,
		access: inOVS(at, numberText, within(0, 1<<30)),
	}
}

// yesNoSetting is a setting that is yes or no. That of a bridge's port is set again when libvirtd
// is restarted, as allmulticast is.
func yesNoSetting(name string, nics Kinds, places Places, restricts Restriction, help string, at func(*NIC) **bool) Setting {
	return Setting{
		Name: name, NICs: nics, Places: places, Restricts: restricts, Since: release0, Change: AtReconnect, Help: help,
		Values: yesNo(), want: "yes or no", typ: typeFlag,
		access: pointer(at, flagText, parseFlag),
	}
}
