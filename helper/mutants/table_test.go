package mutants

// mutant is a defence taken away: in file, old, which stands there once, becomes new, and test fails. What follows a
// slash in test names a subtest, as in go test -run.
type mutant struct {
	name string
	file string // below helper/
	old  string
	new  string
	test string
}

var mutants = []mutant{
	// A device is its user's.
	{
		"a TAP device has no owner", "internal/tap/tap.go",
		"if err := tundev.SetOwner(fd, 0); err != nil {", "if false {",
		"TestStrangerTakesOverAPersistentDevice",
	},
	{
		"a TAP device is its caller's", "internal/tap/tap.go",
		"tundev.SetOwner(fd, 0)", "tundev.SetOwner(fd, uint32(unix.Getuid()))",
		"TestHolderReturnsToAPersistentDevice",
	},
	{
		"a device of several queues is made where everybody is", "grant.go",
		"\t\t\terr = s.enter(index)\n", "\t\t\ts.anon = &netns.Namespace{Conn: s.host}\n",
		"TestStrangerSpoilsATAPDeviceInTheMomentItIsMade",
	},
	{
		"an isolated port is a TAP device", "grant.go",
		"if kind == policy.Plain {", "if kind != 0 {",
		"TestHolderGivesHisPortALifeOfItsOwn",
	},
	{
		"an isolated macvtap is a plain one", "grant.go",
		"isolated, whole := p.Device == policy.Isolated, ", "isolated, whole := false, ",
		"TestHolderTakesAnotherUsersFirstAddress",
	},
	{
		"the node is whosever it is", "internal/macvtap/macvtap.go",
		"if name != d.Name || mac != d.MAC {", `if name == "" && mac == d.MAC {`,
		"TestStrangerIsThereBeforeTheNode",
	},
	{
		"the number of a macvtap's node is its namespace's", "grant.go",
		"Index: newIndex(random[0]), Name: d.name, MAC: d.mac}", "Index: s.anon.ID, Name: d.name, MAC: d.mac}",
		"TestStrangerKeepsAnotherUserFromStartingWithANodeOfHisOwn/macvtap_plain",
	},
	{
		"a hub learns where its guest is", "internal/hub/hub.go",
		"m.BridgePort(port, false, false)", "m.BridgePort(port, false, true)",
		"TestWireMakesAGuestDeafByItsOwnAddress",
	},
	{
		"a hub takes its guest's address for its own", "internal/hub/hub.go",
		"m.ForgetAddress(port, h.Guest)", "m.ForgetAddress(port, ether.MAC{2})",
		"TestGuestIsDeafToMulticast/macvtap_isolated",
	},
	{
		"a hub passes on the sender's own frames", "internal/rtnl/link.go",
		"m.link(unix.AF_UNSPEC, index, unix.IFF_PROMISC, unix.IFF_PROMISC)", "m.link(unix.AF_UNSPEC, index, 0, 0)",
		"TestNeighbourKeepsADeadGuestsPlaceByReadingNothing",
	},
	{
		"a hub keeps what is for bridges", "internal/hub/hub.go",
		"m.ForwardLinkLocal(port)", "",
		"TestGuestUsesOneAllowedProtocolForAnother/macvtap_isolated",
	},
	{
		"a station's hub keeps what is for bridges", "grant.go",
		"LinkLocal: len(p.LinkProtocols.Protocols()) > 0,", "LinkLocal: false,",
		"TestGuestUsesOneAllowedProtocolForAnother/macvtap_isolated",
	},
	{
		"a port's address is lower than the bridge's own", "grant.go",
		"return ether.MAC{0xfe,", "return ether.MAC{0x00,",
		"TestHolderTakesTheBridgesAddress",
	},

	// The host does not speak on it.
	{
		"a visible macvtap answers ARP", "internal/macvtap/macvtap.go",
		"const flags = unix.IFF_NOARP | unix.IFF_ALLMULTI", "const flags = unix.IFF_ALLMULTI",
		"TestWireHearsTheHostAnswerARPOnADeadGuestsDevice",
	},
	{
		"a macvtap gets no multicast frames", "internal/macvtap/macvtap.go",
		"const flags = unix.IFF_NOARP | unix.IFF_ALLMULTI", "const flags = unix.IFF_NOARP",
		"TestGuestIsDeafToMulticast/macvtap_plain",
	},
	{
		"a visible macvtap has IPv6", "internal/sysctl/sysctl.go",
		`device+"/disable_ipv6", "1"`, `device+"/disable_ipv6", "0"`,
		"TestWireHearsTheHostsIPv6OnAGuestsDevice",
	},
	{
		"a visible macvtap takes IPv4", "internal/sysctl/sysctl.go",
		`err := set(n.ipv4, device+"/rp_filter", "1")`, "err := error(nil)",
		"TestWireReachesTheHostThroughADeadGuestsDevice",
	},
	{
		"a visible macvtap is not muted", "grant.go",
		"return s.net.Mute(s.host, dev.Index, dev.Name)", "return nil",
		"TestWireGivesTheHostAnAddressOnAGuestsDevice",
	},
	{
		"a port of Open vSwitch answers ARP", "internal/rtnl/link.go",
		"\n\tm.link(unix.AF_UNSPEC, d.Index, unix.IFF_NOARP, unix.IFF_NOARP)", "\n\tm.link(unix.AF_UNSPEC, d.Index, 0, 0)",
		"TestGuestReachesTheHostThroughItsPortOfOpenVSwitch/guests",
	},
	{
		"a TAP device in Open vSwitch answers ARP", "internal/tap/tap.go",
		"m.NoARP(s.Index)", "",
		"TestGuestReachesTheHostThroughItsPortOfOpenVSwitch/taps",
	},
	{
		"a port of Open vSwitch is not muted", "internal/port/port.go",
		"if err := s.Port.Silence(host, net, ns.ID, s.Name); err != nil {", "if err := error(nil); err != nil {",
		"TestGuestReachesTheHostThroughItsPortOfOpenVSwitch/guests",
	},
	{
		"a TAP device in Open vSwitch is not muted", "internal/tap/tap.go",
		"if err := s.Port.Silence(host, net, s.Index, s.Name); err != nil {", "if err := error(nil); err != nil {",
		"TestGuestReachesTheHostThroughItsPortOfOpenVSwitch/taps",
	},
	{
		"a bridge's port has IPv6", "internal/bridgeport/bridgeport.go",
		"return net.NoIPv6(host, index, name)", "return nil",
		"TestWireMakesTheHostSpeakOnABridgePort",
	},
	{
		"a router announces itself on a bridge's port", "internal/bridgeport/bridgeport.go",
		"return net.NoIPv6(host, index, name)", "return sysctl.NoIPv6Address(host, index)",
		"TestHostThatRoutesSpeaksOnAGuestsDevice/bridge",
	},
	{
		"a device in a namespace of its own has IPv6", "internal/netns/netns.go",
		`sysctl.Set("ipv6/conf/default/disable_ipv6", "1")`, `sysctl.Set("ipv6/conf/default/disable_ipv6", "0")`,
		"TestHostThatRoutesSpeaksOnAGuestsDevice/macvtap",
	},
	{
		"a host with read-only parameters gives no visible devices", "internal/sysctl/sysctl.go",
		"if err == unix.EROFS { // whoever", "if err == unix.EROFS && index == 0 { // whoever",
		"TestReadOnlyParameters/macvtap_visible",
	},
	{
		"a host with read-only parameters gives no ports", "internal/sysctl/sysctl.go",
		"\terr := set(n.ipv6, device+\"/disable_ipv6\", \"1\")\n\tif err == unix.EROFS {", "\terr := set(n.ipv6, device+\"/disable_ipv6\", \"1\")\n\tif err == unix.EROFS && index == 0 {",
		"TestReadOnlyParameters/bridge_tap",
	},
	{
		"a host with read-only parameters gives no isolated devices", "internal/sysctl/sysctl.go",
		"\tif err == unix.EROFS {\n\t\treturn false, nil", "\tif err == unix.EROFS && path == \"\" {\n\t\treturn false, nil",
		"TestReadOnlyParameters/macvtap_isolated",
	},
	{
		"a visible device on a host with read-only parameters has an IPv6 address", "internal/sysctl/sysctl.go",
		"\t\treturn NoIPv6Address(c, index)\n", "\t\treturn nil\n",
		"TestHostWithReadOnlyParametersSpeaksOnAGuestsDevice",
	},
	{
		"an isolated device on a host with read-only parameters has an IPv6 address", "internal/netns/netns.go",
		"n.ipv6 = !off", "n.ipv6 = off && !off",
		"TestHostWithReadOnlyParametersSpeaksOnAGuestsDevice",
	},

	// In the test machine.
	{
		"a sub-interface is not muted", "lower.go",
		"if err := s.net.Mute(s.host, l.Index, l.Name); err != nil {", "if err := error(nil); err != nil {",
		"TestCallerKillsTheHelperBeforeAVLANIsQuiet",
	},
	{
		"a sub-interface that was not finished stays so", "lower.go",
		"m.SetAlias(index, keptAlias)", "",
		"TestMacvtapOnVLAN",
	},
	{
		"a sub-interface of the hook's stays the hook's", "lower.go",
		" && l.Alias != hookAlias ", " ",
		"TestHooksSubInterfaceGoesUnderAGuest",
	},
	{
		"a sub-interface answers ARP", "lower.go",
		"m.NoARP(l.Index)", "",
		"TestHooksSubInterfaceGoesUnderAGuest",
	},
	{
		"any device of that name is the sub-interface", "lower.go",
		`if v.Kind != "vlan" || v.Lower != l.Index ||`, `if v.Kind == "bridge" ||`,
		"TestSubInterfaceIsAnotherDevice",
	},
	{
		"a port is also in the bridge's default VLAN", "internal/bridgeport/bridgeport.go",
		"m.DelBridgePortVLAN(index, pvid)", "",
		"TestBridgeVLAN",
	},

	// The filters are there.
	{
		"a macvtap's guest is not filtered", "grant.go",
		"m.Filter(dev.Index, to, from)", "m.Filter(dev.Index, to, nil)",
		"TestGuestSpeaksAsItsNeighbour/macvtap_plain",
	},
	{
		"a station's guest is not filtered", "internal/station/station.go",
		"m.Filter(station, s.To, s.From)", "m.Filter(station, s.To, nil)",
		"TestGuestSpeaksAsItsNeighbour/macvtap_isolated",
	},
	{
		"what a macvtap's guest hears is not filtered", "grant.go",
		"m.Filter(dev.Index, to, from)", "m.Filter(dev.Index, nil, from)",
		"TestGuestHearsOtherVLANs/macvtap_plain",
	},
	{
		"what a station's guest hears is not filtered", "internal/station/station.go",
		"m.Filter(station, s.To, s.From)", "m.Filter(station, nil, s.From)",
		"TestGuestHearsOtherVLANs/macvtap_isolated",
	},
	{
		"a bridge's guest is not filtered", "internal/bridgeport/bridgeport.go",
		"m.Filter(index, p.From, p.To)", "m.Filter(index, nil, p.To)",
		"TestGuestSpeaksAsItsNeighbour/bridge",
	},
	{
		"what a bridge's guest hears is not filtered", "internal/bridgeport/bridgeport.go",
		"m.Filter(index, p.From, p.To)", "m.Filter(index, p.From, nil)",
		"TestGuestHearsOtherVLANs/bridge",
	},
	{
		"a guest of Open vSwitch is not filtered", "internal/port/port.go",
		"m.Filter(cable, to, from)", "m.Filter(cable, to, nil)",
		"TestGuestSpeaksAsItsNeighbourOnOpenVSwitch",
	},
	{
		"what a guest of Open vSwitch hears is not filtered", "internal/port/port.go",
		"m.Filter(cable, to, from)", "m.Filter(cable, to[:0], from)",
		"TestGuestHearsOtherVLANsOfOpenVSwitch",
	},
	{
		"a plain macvtap hears every address that its holder gives it", "grant.go",
		"!isolated && (!whole || p.AntiSpoof)", "!isolated && whole && p.AntiSpoof",
		"TestHolderReadsAnotherUsersFrames",
	},
	{
		"a passthrough hears every address", "grant.go",
		"!isolated && (!whole || p.AntiSpoof)", "!isolated && !whole",
		"TestHolderOfAVFReadsOthersFrames",
	},
	{
		"a filtered guest has every VLAN", "grant.go",
		"vlans = p.GuestVLANs", "",
		"TestGuestSpeaksIntoAnotherVLAN",
	},
	{
		"the guest hears every VLAN", "internal/antispoof/antispoof.go",
		"\tif !vlans.All {\n", "\tif false {\n",
		"TestGuestHearsAVLANThatIsNotOnItsList",
	},
	{
		"the guest hears a VLAN behind its own", "internal/antispoof/antispoof.go",
		"f.anyTag(f.pass)", "f.jump(f.pass)",
		"TestGuestHearsAVLANBehindItsOwn",
	},
	{
		"a priority tag is a VLAN", "internal/antispoof/antispoof.go",
		"vlans.Ranges = append([]policy.VLANRange{{}}, vlans.Ranges...)", "",
		"TestGuestHearsPriorityTags",
	},
	{
		"the filter looks at two octets of the source address", "internal/antispoof/antispoof.go",
		"\n\tf.when(unix.BPF_JEQ, word(mac[:4]), next, f.drop)", "\n",
		"TestAntiSpoof/macvtap_guest-vlans_=_none",
	},
	{
		"the filter looks at four octets of the source address", "internal/antispoof/antispoof.go",
		"\tf.when(unix.BPF_JEQ, word(mac[4:]), next, f.drop)\n", "\n",
		"TestAntiSpoof/macvtap_guest-vlans_=_none",
	},
	{
		"the filter looks at four octets of the destination", "internal/antispoof/antispoof.go",
		"f.when(unix.BPF_JEQ, word(mac[4:]), mine, f.drop)", "f.jump(mine)",
		"TestHolderReadsFramesForASimilarAddress",
	},
	{
		"a frame may end within a tag", "internal/antispoof/antispoof.go",
		"f.room(header + tagSize)", "",
		"TestGuestHidesInAFrameThatEndsWithinAHeader",
	},

	{
		"a frame may end within LLC", "internal/antispoof/antispoof.go",
		"f.roomBehind(llcSize)", "",
		"TestGuestHidesInAFrameThatEndsWithinAHeader",
	},
	{
		"a frame may end within SNAP", "internal/antispoof/antispoof.go",
		"f.roomBehind(snapSize)", "",
		"TestGuestHidesInAFrameThatEndsWithinAHeader",
	},

	// Link-control protocols.
	{
		"STP by its access point", "internal/antispoof/antispoof.go",
		"f.when(unix.BPF_JEQ, uint32(sap.is), sap.to, next)", "f.when(unix.BPF_JEQ, uint32(sap.is), f.pass, next)",
		"TestGuestBecomesTheRootOfTheSpanningTree",
	},
	{
		"an EtherType in SNAP", "internal/antispoof/antispoof.go",
		"f.when(unix.BPF_JEQ, control|linkproto.OUIEtherType, f.drop, next)", "f.when(unix.BPF_JEQ, control|linkproto.OUIEtherType, f.pass, next)",
		"TestHolderHasTheKernelWriteAnotherEtherTypeBehindASNAPHeader",
	},
	{
		"an EtherType in SNAP of 802.1H", "internal/antispoof/antispoof.go",
		"f.when(unix.BPF_JEQ, control|linkproto.OUITunnel, f.drop, next)", "f.when(unix.BPF_JEQ, control|linkproto.OUITunnel, f.pass, next)",
		"TestGuestHidesControlInSNAP",
	},
	{
		"SNAP of every vendor", "internal/antispoof/antispoof.go",
		"f.when(unix.BPF_JEQ, control|linkproto.OUIApple, apple, vendor)", "f.when(unix.BPF_JEQ, control|linkproto.OUIApple, apple, f.pass)",
		"TestGuestTurnsThePortIntoATrunk",
	},
	{
		"tags of other types", "internal/antispoof/antispoof.go",
		"\n\t\tf.when(unix.BPF_JEQ, uint32(t), f.drop, next)", "\n\t\tf.when(unix.BPF_JEQ, uint32(t), f.pass, next)",
		"TestGuestHidesBehindATag",
	},
	{
		"protocols' addresses", "internal/antispoof/antispoof.go",
		"\tf.destination()\n", "\n",
		"TestGuestSpeaksToTheBridgesOwnAddresses",
	},
	{
		"an allowed protocol at the addresses of others", "internal/antispoof/antispoof.go",
		"f.begins(p.Groups, f.pass)", "f.jump(f.pass)",
		"TestGuestUsesOneAllowedProtocolForAnother",
	},
	{
		"the block of the bridges' addresses", "internal/linkproto/table.go",
		`Groups: []Prefix{"01:80:c2"},`, "",
		"TestGuestSpeaksToTheBridgesOwnAddresses",
	},
	{
		"the block of Cisco's addresses", "internal/linkproto/table.go",
		`Groups: []Prefix{"01:00:0c"}, `, "",
		"TestGuestSpeaksToTheBridgesOwnAddresses",
	},
	{
		"pause", "internal/linkproto/table.go",
		"Types: []uint16{0x8808},", "",
		"TestGuestStopsTheSwitchWithPause",
	},
	{
		"slow protocols", "internal/linkproto/table.go",
		"Types: []uint16{0x8809},", "",
		"TestGuestJoinsTheLinkAggregation",
	},
	{
		"802.1X", "internal/linkproto/table.go",
		"Types: []uint16{0x888e},", "",
		"TestGuestAuthenticatesThePort",
	},
	{
		"MACsec", "internal/linkproto/table.go",
		"Types: []uint16{0x88e5},", "",
		"TestGuestAuthenticatesThePort",
	},
	{
		"LLDP", "internal/linkproto/table.go",
		"Types: []uint16{0x88cc},", "",
		"TestGuestPosesAsTheSwitchsNeighbour",
	},
	{
		"ECP", "internal/linkproto/table.go",
		"Types: []uint16{0x8940, 0x8890},", "",
		"TestGuestPosesAsAStationOfAnEdgeBridge",
	},
	{
		"vendors' EtherTypes", "internal/linkproto/table.go",
		"Types: []uint16{0x88b7},", "",
		"TestGuestPosesAsAStationOfAnEdgeBridge",
	},
	{
		"MVRP", "internal/linkproto/table.go",
		"Types: []uint16{0x88f5},", "",
		"TestGuestRegistersVLANsWithTheSwitch",
	},
	{
		"E-TAG", "internal/linkproto/table.go",
		"Types: []uint16{0x893f},", "",
		"TestGuestHidesBehindATag",
	},

	// Places and addresses.
	{
		"a device that ended keeps its place", "claim.go",
		"return s.host.HasNamespace(int(r.Index))", "return true",
		"TestHolderPassesItsDeviceOnAndGetsAnother/isolated",
	},
	{
		"a device in a namespace of its own is not counted", "claim.go",
		"return s.host.HasNamespace(int(r.Index))", "return false",
		"TestHolderPassesItsDeviceOnAndGetsAnother/isolated",
	},
	{
		"a TAP device is not counted", "claim.go",
		"return tundev.Exists(s.probe, int(r.Index))", "return r.Pinned && tundev.Exists(s.probe, int(r.Index))",
		"TestHolderOfABridgePortPassesItOnAndGetsAnother/tap",
	},
	{
		"a namespace has no id", "internal/netns/netns.go",
		"m.NameNamespace(id, n.TID)", "",
		"TestHolderPassesItsDeviceOnAndGetsAnother/isolated",
	},
	{
		"a lower device that is taken whole is the kernel's to refuse", "claim.go",
		"Whole:  p.Kind == policy.Macvtap && p.Mode == policy.Passthrough,", "",
		"TestHolderOfAVFKeepsOthersFromThePool",
	},
	{
		"an address is given twice", "internal/registry/registry.go",
		"same := r.MAC == mine.MAC && ", "same := false && ",
		"TestUserTakesAnothersAddressInTheBridge",
	},
	{
		"a user has as many devices as he likes", "internal/registry/registry.go",
		"if live >= w.Profile.MaxPerUser {", "if live < 0 {",
		"TestHolderKeepsMoreDevicesThanALoweredLimit",
	},
	{
		"a profile has as many devices as users like", "internal/registry/registry.go",
		"if total > w.Profile.Max {", "if total < 0 {",
		"TestUsersHaveMoreDevicesThanTheProfile",
	},
	{
		"a claim whose device is not there yet does not count", "internal/registry/registry.go",
		"return g.exists(r) || g.locked(int64(i))", "return g.exists(r)",
		"TestCallerStopsTheHelperBeforeTheDevice",
	},
	{
		"a place that was taken meanwhile is taken again", "internal/registry/registry.go",
		"case r.UID == mine.UID && r.Slot == mine.Slot:", "case r.UID == mine.UID && r.Slot != mine.Slot && total < 0:",
		"TestCallerStopsTheHelperBeforeTheLock",
	},
	{
		"an address that something else has is the end", "grant.go",
		"if errors.Is(err, unix.EADDRINUSE) {", "if false {",
		"TestSystemGuestsAddressKeepsAUserFromStarting",
	},
	{
		"a place that came to nothing is kept", "grant.go",
		"c.release()", "",
		"TestSystemGuestOnAVFKeepsAUserFromThePool",
	},
	{
		"each attempt keeps a descriptor", "claim.go",
		"\tc.reg.Close()\n", "",
		"TestPatientCallKeepsNoDescriptors",
	},
	{
		"a visible device of an earlier helper is swept", "claim.go",
		" || id == l.Index || ", " || ",
		"TestVisibleDeviceOfAnEarlierHelperStays",
	},
	{
		"a station without its address is as good", "internal/station/station.go",
		"m.Up(station)\n\tif err := ns.Do(&m, -1)", "m.Up(station)\n\tif err := ns.Do(&m, 0)",
		"TestSystemGuestsAddressKeepsAUserFromStarting/isolated",
	},
	{
		"a second claim is about another namespace", "claim.go",
		"if s.anon != nil {", "if false {",
		"TestSystemGuestsAddressGivesUsersMoreThanTheProfile",
	},
	{
		"what the rest of a pool lacks is the answer", "grant.go",
		"if err == nil || errors.Is(err, policy.ErrMACDenied) {", "if e != nil {",
		"TestHolderOfAVFKeepsTheNextUserFromItsAddress",
	},
	{
		"a refusal tells strangers whose the address is", "claim.go",
		"case s.caller.UID == 0:", "case s.caller.UID != 0:",
		"TestRefusalTellsAnotherUserWhoHasTheAddress",
	},

	// What holders leave.
	{
		"a visible device is swept while it is held", "claim.go",
		" || s.host.HasNamespace(id) {", " {",
		"TestHolderUnlocksALiveDevice",
	},
	{
		"visible devices are not swept", "grant.go",
		"if p.Visible {\n\t\ts.sweepVisible()", "if false {\n\t\ts.sweepVisible()",
		"TestHolderLeavesAVisibleDeviceInNobodysWay",
	},
	{
		"visible devices stay in others' way", "grant.go",
		"if passing(err) { // what", "if false { // what",
		"TestHolderLeavesAVisibleDeviceOnAVF",
	},
	{
		"visible devices stay in the way of who finds them behind his first try", "grant.go",
		"if passing(err) { // what", "if errors.Is(err, registry.ErrLowerInUse) { // what",
		"TestHolderLeavesAVisibleDeviceWithAnothersAddress",
	},
	{
		"others' macvtaps are swept", "claim.go",
		"l.Index < tapname.MinIndex || id < tapname.MinIndex || id == l.Index || ", "",
		"TestCallerHasASystemGuestsMacvtapRemoved",
	},
	{
		"persistent devices of bridge.conf stay", "grant.go",
		"_ = tap.Sweep(s.host, link.Index)", "",
		"TestHolderLeavesAPersistentPortBehind/br0",
	},
	{
		"persistent devices of profiles stay", "grant.go",
		"_ = tap.Sweep(s.host, master)", "_ = master",
		"TestHolderLeavesAPersistentPortBehind/taps",
	},
	{
		"persistent devices in Open vSwitch stay", "grant.go",
		"\t\t\tmaster = 0\n", "\n",
		"TestHolderLeavesAPersistentPortOfOpenVSwitchBehind",
	},
	{
		"a device whose queues are detached is abandoned", "tapname/tapname.go",
		"return d.Queues == 0 && d.Disabled == 0", "return d.Queues == 0",
		"TestHeldPersistentDeviceIsSwept/detached",
	},
	{
		"a device of one queue is abandoned while it is held", "tapname/tapname.go",
		"return !d.Carrier", "return true",
		"TestHeldPersistentDeviceIsSwept/held",
	},
	{
		"one call removes all that others have left", "internal/tap/sweep.go",
		" && len(left) < maxSweep", "",
		"TestHolderHasAnotherUserClearUp",
	},
	{
		"others' persistent devices are swept", "tapname/tapname.go",
		"d.Index < MinIndex || d.Name != Name(d.Index) || ", "",
		"TestHeldPersistentDeviceIsSwept/system",
	},
	{
		"rows of Open vSwitch stay", "ovs.go",
		"s.sweepPorts(db)\n\t\tif", "if",
		"TestHolderGivesHisOpenVSwitchPortALifeOfItsOwn",
	},
	{
		"rows of Open vSwitch whose devices live are swept", "ovs.go",
		"; errors.Is(err, rtnl.ErrNoLink)", "; !errors.Is(err, rtnl.ErrNoLink)",
		"TestOVS",
	},

	// The log.
	{
		"something is done before there is a log", "internal/audit/audit.go",
		"if l.socket < 0 && l.kernel < 0 {", "if false {",
		"TestHostWithoutALogGrantsUnseen/none",
	},
	{
		"a grant without its line", "main.go",
		"if err := log.Write(s.entry(d, refused)); err != nil && refused == nil {", "if err := log.Write(s.entry(d, refused)); err != nil && refused != nil {",
		"TestCallerFillsTheLog",
	},
	{
		"a full log is as good", "internal/audit/audit.go",
		"\treturn ErrNoLog\n", "\treturn nil\n",
		"TestCallerFillsTheLog",
	},
	{
		"a log that takes nothing is waited for", "internal/audit/audit.go",
		"unix.SO_SNDTIMEO, &unix.Timeval{Usec: patience}", "unix.SO_SNDTIMEO, &unix.Timeval{}",
		"TestCallerFillsTheLog",
	},
	{
		"a grant with two lines", "main.go",
		"log.Write(s.entry(d, refused)); err", "errors.Join(log.Write(s.entry(d, refused)), log.Write(s.entry(d, refused))); err",
		"TestCallerHasARequestLoggedTwice",
	},
	{
		"the answer comes before the line", "main.go",
		"if refused == nil && d.last != nil {", "if refused == nil && fdpass.Send(req.FD, d.fds) == nil && d.last != nil {",
		"TestCallerFillsTheLog",
	},
	{
		"a grant is logged that nobody can get", "internal/fdpass/fdpass.go",
		"err != nil || n != 1 || room[0].Revents != unix.POLLOUT {", "err != nil || n > 1 {",
		"TestCallerBlocksTheAnswer",
	},
	{
		"the program's name is written as it is", "internal/audit/audit.go",
		`c < ' ' || c > '~' || c == '"' || c == '\\'`, "c == 0",
		"TestCallerForgesALineByHisProgramsName",
	},

	// Privileges.
	{
		"privileges remain while the line is written", "main.go",
		"if err := privilege.Drop(); err != nil {", "if err := error(nil); err != nil {",
		"TestCapabilitiesAtEachStage/looking_at_the_caller_for_the_log",
	},
	{
		"privileges remain while the error is written", "main.go",
		"_ = privilege.Drop() // what", "// what",
		"TestCapabilitiesAtEachStage/refusing",
	},
	{
		"privileges remain while the list is written", "list.go",
		"if err := privilege.Drop(); err != nil {", "if err := error(nil); err != nil && privilege.NetAdmin != 0 {",
		"TestCallerKeepsThePrivilegedHelperWaiting/--list",
	},
	{
		"every capability remains", "internal/privilege/privilege.go",
		"return allThreads(NetAdmin|SysAdmin, 0)", "return nil",
		"TestCapabilitiesAtEachStage/reading_the_command_line",
	},
	{
		"a capability stays in effect", "internal/privilege/privilege.go",
		"if e := thread(NetAdmin|SysAdmin, 0); e != nil {", "if e := error(nil); e != nil {",
		"TestCapabilitiesAtEachStage/opening_the_node",
	},
	{
		"the caller's securebits keep capabilities", "internal/privilege/privilege.go",
		"if left != 0 { // SECBIT", "if left == 1 { // SECBIT",
		"TestCapabilitiesAtEachStage/securebits",
	},
	{
		"bridge.conf is read as root", "internal/privilege/privilege.go",
		"if err := setFSUID(unix.Getuid()); err != nil {", "if err := setFSUID(0); err != nil {",
		"TestBridgeACL",
	},
	{
		"the namespace may be another user namespace's", "main.go",
		"|| ours.Ino != theirs.Ino || ours.Dev != theirs.Dev {", "{",
		"TestForeignNetworkNamespace",
	},

	// The process.
	{
		"no time limit", "main.go",
		"err = arm()", "err = nil",
		"TestCallerKeepsThePrivilegedHelperWaiting/--list",
	},
	{
		"signals tell what the program does", "main.go",
		"err := endBySignals()", "err := error(nil)",
		"TestCallerHasTheRuntimeTellWhatItDoes",
	},
	{
		"the error is written to whom reads nothing", "deadline.go",
		"err == nil && n == 1 && room[0].Revents&unix.POLLOUT != 0", "err == nil || n == 1",
		"TestCallerDoesNotReadTheRefusal",
	},
	{
		"the caller's limits remain", "main.go",
		"err = raiseLimits()", "err = nil",
		"TestCallerLimitsWhatTheHelperNeeds",
	},
	{
		"the caller's file size limit remains", "main.go",
		"{unix.RLIMIT_FSIZE, 1 << 20}, ", "",
		"TestCallerLimitsWhatTheHelperNeeds/--fsize",
	},
	{
		"the caller's limit of signals remains", "main.go",
		", {unix.RLIMIT_SIGPENDING, 64}}", "}",
		"TestCallerLimitsWhatTheHelperNeeds/--sigpending",
	},
	{
		"descriptors are not reserved", "main.go",
		"refused := reserve(req.Queues)", "refused := error(nil)",
		"TestCallerWithoutDescriptorsChangesSomething",
	},
	{
		"the runtime acts on the caller's environment", "main.go",
		`strings.HasPrefix(e, "GO")`, `strings.HasPrefix(e, "=GO")`,
		"TestRuntimeVariablesAreDroppedByExecutingAgain",
	},
	{
		"the caller's umask remains", "main.go",
		"unix.Umask(0o077)", "",
		"TestCallerTakesThePermissionsFromTheClaims",
	},

	// What the caller names.
	{
		"a name has any character", "internal/cmdline/cmdline.go",
		"if !nameChar(s[i]) {", "if s[i] == 0 && !nameChar(s[i]) {",
		"TestCallerForgesALine",
	},
	{
		"a name is of any length", "internal/cmdline/cmdline.go",
		"if len(s) > MaxName {", "if len(s) > 1<<20 {",
		"TestCallerForgesALine",
	},
	{
		"the answer goes to standard error", "internal/cmdline/cmdline.go",
		"if r.FD < 3 {", "if r.FD < 0 {",
		"TestCallerNamesAStandardStreamForTheAnswer",
	},
	{
		"a guest has a group address", "internal/ether/mac.go",
		" || m[0]&1 != 0", "",
		"TestUserChoosesAnAddressThatIsNotAllowed",
	},
	{
		"a bridge is any device", "internal/bridgeport/bridgeport.go",
		`case p.Bridge.Kind != "bridge":`, `case p.Bridge.Kind == "none":`,
		"TestUserNamesADeviceThatIsNoBridge",
	},
	{
		"a guest's macvtap is a lower device", "macvlan.go",
		`case l.Kind == "macvtap":`, `case l.Kind == "none":`,
		"TestMacvlanRefused",
	},
	{
		"the group of the program's file counts", "internal/privilege/privilege.go",
		"unix.Getegid() != gid {", "gid < 0 {",
		"TestSetgidBitReadsAnotherGroupsList",
	},
	{
		"the reply goes to anybody's socket", "internal/fdpass/fdpass.go",
		"err != nil || cred.Uid != uid || cred.Pid < 0", "err != nil || cred.Pid < 0",
		"TestDescriptorMustBeTheCallersStreamSocket",
	},
	{
		"the reply goes to a socket of datagrams", "internal/fdpass/fdpass.go",
		"{unix.SO_TYPE, unix.SOCK_STREAM}, ", "",
		"TestDescriptorMustBeTheCallersStreamSocket/datagram",
	},
	{
		"a deny line is no more than a missing allow line", "internal/bridgeconf/bridgeconf.go",
		"if l.denied || !l.allowed {", "if !l.allowed {",
		"TestBridgeACL",
	},
	{
		"a line is about the name that the caller uses", "grant.go",
		"Names: link.Names(), ", "Names: []string{s.request.Name}, ",
		"TestUserNamesADeniedBridgeByAnotherOfItsNames",
	},
	{
		"a line is about the device's first name", "grant.go",
		"Names: link.Names(), ", "Names: []string{link.Name}, ",
		"TestUserNamesABridgeDeniedByAnotherOfItsNames",
	},
	{
		"a line of a device's alias is about nothing", "internal/bridgeconf/bridgeconf.go",
		" || words[1] == l.device.Alias", "",
		"TestDenyUnderAnotherName",
	},
	{
		"who cannot read a file is allowed by it", "internal/bridgeconf/bridgeconf.go",
		"|| match && mayAllow", "|| match",
		"TestBridgeACL",
	},
	{
		"RHEL's list is not read", "internal/bridgeconf/bridgeconf.go",
		"var Paths = []string{Path, PathRHEL}", "var Paths = []string{Path}",
		"TestBothACLs",
	},
	{
		"a denial tells what exists", "grant.go",
		"if err := bridgeconf.Check(aclFiles{}, bridgeconf.Paths, named); err != nil {", "if err := bridgeconf.Check(aclFiles{}, bridgeconf.Paths, named); err != nil && missing == nil {",
		"TestDenialDoesNotTellWhatExists",
	},
	{
		"a configuration of others counts", "internal/trusted/file.go",
		"|| st.Uid != 0 {", "{",
		"TestUntrustedConfiguration/another's",
	},
	{
		"a configuration that others may write counts", "internal/trusted/file.go",
		"if st.Mode&0o022 != 0 && !sticky {", "if false && !sticky {",
		"TestUntrustedConfiguration/group_writable",
	},
	{
		"a profile is for everyone", "grant.go",
		"\tif !ok {\n", "\tif false && !ok {\n",
		"TestCallerHasARequestLoggedTwice",
	},
	{
		"an address that the profile does not allow", "internal/policy/policy.go",
		"if string(r.MAC[:r.Octets]) != string(mac[:r.Octets]) {", "if r.Octets == 0 {",
		"TestUserChoosesAnAddressThatIsNotAllowed",
	},
	{
		"a profile takes any device whole", "internal/policy/check.go",
		"if !slices.Contains(p.config.Passthrough, d) {", "if !slices.Contains(f.Lower, d) {",
		"TestPassthrough",
	},
	{
		"more queues than the profile has", "grant.go",
		"if s.request.Queues > p.Queues {", "if s.request.Queues > cmdline.MaxQueues {",
		"TestUserHasMoreQueuesThanTheProfile",
	},
}
