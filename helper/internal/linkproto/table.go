package linkproto

func cisco(pid uint16) []SNAP { return []SNAP{{OUI: 0x00000c, PID: pid}} }

// The bridges' group addresses are those of IEEE 802.1Q-2022 tables 8-1 to 8-3. EtherTypes, vendors' addresses and SNAP
// protocols were gathered from the IEEE's registry, Linux's if_ether.h, and Wireshark's etypes.h and wka.
var table = []Protocol{
	// IEEE 802.1 and 802.3, and what stands on them
	{
		Name: "stp", What: "STP, RSTP, MSTP", Reference: "IEEE 802.1Q-2022 §13, §14",
		Groups: []Prefix{"01:80:c2:00:00:00", "01:80:c2:00:00:08"}, SAPs: []uint8{SAPBridge},
	},
	{
		Name: "garp", What: "GVRP, GMRP", Reference: "IEEE 802.1D-2004 §12",
		Groups: []Prefix{"01:80:c2:00:00:2"}, SAPs: []uint8{SAPBridge},
	},
	{
		Name: "mvrp", What: "MVRP: VLAN registration", Reference: "IEEE 802.1Q-2022 §11.2",
		Groups: []Prefix{"01:80:c2:00:00:0d", "01:80:c2:00:00:21"}, Types: []uint16{0x88f5},
	},
	{
		Name: "mmrp", What: "MMRP: address registration", Reference: "IEEE 802.1Q-2022 §10.9",
		Groups: []Prefix{"01:80:c2:00:00:20"}, Types: []uint16{0x88f6},
	},
	{
		Name: "msrp", What: "MSRP: stream reservation", Reference: "IEEE 802.1Q-2022 §35",
		Groups: []Prefix{"01:80:c2:00:00:0e"}, Types: []uint16{0x22ea},
	},
	{
		Name: "mirp", What: "MIRP: backbone service registration", Reference: "IEEE 802.1Q-2022 §39.2",
		Groups: []Prefix{"01:80:c2:00:00:00", "01:80:c2:00:00:08"}, Types: []uint16{0x8929},
	},
	{
		Name: "pause", What: "MAC control: pause, PFC, MPCP", Reference: "IEEE 802.3-2022 §31, IEEE 802.1Q-2022 §36",
		Groups: []Prefix{"01:80:c2:00:00:01"}, Types: []uint16{0x8808},
	},
	{
		Name: "congestion", What: "CNM, CN-TAG: congestion notification", Reference: "IEEE 802.1Q-2022 §33",
		Types: []uint16{0x22e7, 0x22e9},
	},
	{
		Name: "lacp", What: "slow protocols: LACP, marker, OAM, ESMC", Reference: "IEEE 802.3-2022 annex 57A, IEEE 802.1AX-2020 §6",
		Groups: []Prefix{"01:80:c2:00:00:00", "01:80:c2:00:00:02", "01:80:c2:00:00:03"}, Types: []uint16{0x8809},
	},
	{
		Name: "eapol", What: "802.1X, MKA", Reference: "IEEE 802.1X-2020 §11",
		Groups: []Prefix{"01:80:c2:00:00:00", "01:80:c2:00:00:03", "01:80:c2:00:00:0e"}, Types: []uint16{0x888e},
	},
	{
		Name: "wlan", What: "802.11 pre-authentication, TDLS, WAPI", Reference: "IEEE 802.11-2020 §12, annex H; GB 15629.11",
		Types: []uint16{0x88c7, 0x890d, 0x88b4},
	},
	{
		Name: "macsec", What: "MACsec", Reference: "IEEE 802.1AE-2018 §9",
		Types: []uint16{0x88e5},
	},
	{
		Name: "lldp", What: "LLDP, DCBX, CDCP", Reference: "IEEE 802.1AB-2016 §7",
		Groups: []Prefix{"01:80:c2:00:00:00", "01:80:c2:00:00:03", "01:80:c2:00:00:0e"}, Types: []uint16{0x88cc},
	},
	{
		Name: "ecp", What: "ECP: VDP, PE-CSP", Reference: "IEEE 802.1Q-2022 §43, IEEE 802.1BR-2012",
		Groups: []Prefix{"01:80:c2:00:00:00", "01:80:c2:00:00:03", "01:80:c2:00:00:0e"}, Types: []uint16{0x8940, 0x8890},
	},
	{
		Name: "ptp-link", What: "PTP between neighbours: peer delay, gPTP", Reference: "IEEE 1588-2019 annex E, IEEE 802.1AS-2020 §10",
		Groups: []Prefix{"01:80:c2:00:00:0e"}, Types: []uint16{0x88f7}, Elsewhere: true,
	},
	{
		Name: "cfm", What: "CFM, Y.1731, G.8032 ring protection", Reference: "IEEE 802.1Q-2022 §18, ITU-T G.8013, G.8032",
		Groups: []Prefix{"01:80:c2:00:00:3", "01:19:a7"}, Types: []uint16{0x8902},
	},
	{
		Name: "e-lmi", What: "Ethernet local management interface", Reference: "MEF 16",
		Groups: []Prefix{"01:80:c2:00:00:07"}, Types: []uint16{0x88ee},
	},
	{
		Name: "isis-802", What: "IS-IS to the 802.1 addresses", Reference: "ISO/IEC 10589 §8.4.8",
		Groups: []Prefix{"01:80:c2:00:00:14", "01:80:c2:00:00:15"}, SAPs: []uint8{0xfe}, Elsewhere: true,
	},
	{
		Name: "trill", What: "TRILL, its IS-IS, fine-grained labels, channels", Reference: "RFC 6325, RFC 7172, RFC 7178",
		Groups: []Prefix{"01:80:c2:00:00:4"}, Types: []uint16{0x22f3, 0x22f4, 0x893b, 0x8946},
	},
	{
		Name: "ieee-1905", What: "IEEE 1905.1: home network control", Reference: "IEEE 1905.1-2013",
		Groups: []Prefix{"01:80:c2:00:00:13"}, Types: []uint16{0x893a},
	},
	{
		Name: "ieee-groups", What: "every other use of the bridges' block of addresses", Reference: "IEEE 802.1Q-2022 §8.6.3, §8.13",
		Groups: []Prefix{"01:80:c2"},
	},

	// Tags that are not a VLAN's, and carriers in which any of the above could hide
	{
		Name: "i-tag", What: "I-TAG: backbone service", Reference: "IEEE 802.1Q-2022 §9.7",
		Types: []uint16{0x88e7},
	},
	{
		Name: "e-tag", What: "E-TAG: port extender", Reference: "IEEE 802.1BR-2012 §7",
		Types: []uint16{0x893f},
	},
	{
		Name: "vn-tag", What: "VN-Tag", Reference: "Cisco",
		Types: []uint16{0x8926},
	},
	{
		Name: "r-tag", What: "R-TAG: frame replication", Reference: "IEEE 802.1CB-2017 §7.8",
		Types: []uint16{0xf1c1},
	},
	{
		Name: "cmd-tag", What: "TrustSec metadata", Reference: "Cisco",
		Types: []uint16{0x8909},
	},
	{
		Name: "fabricpath", What: "FabricPath", Reference: "Cisco",
		Groups: []Prefix{"01:0f:ff:c1"}, Types: []uint16{0x8903},
	},
	{
		Name: "dsa-tag", What: "tags of switch chips: EDSA, DSA by 802.1Q, Broadcom", Reference: "Linux net/dsa, Broadcom",
		Types: []uint16{0xdada, 0xdadb, 0x8874},
	},
	{
		Name: "jumbo-llc", What: "LLC behind an EtherType", Reference: "draft-ietf-isis-ext-eth",
		Types: []uint16{0x8870},
	},
	{
		Name: "oui-extended", What: "vendors' protocols by OUI", Reference: "IEEE 802-2014 §9.2.4",
		Types: []uint16{0x88b7},
	},
	{
		Name: "snap-vendor", What: "every other vendor's SNAP", Reference: "IEEE 802-2014 §9.5",
		SNAPs: []SNAP{{OUI: AnyVendor, AnyPID: true}},
	},

	// Cisco
	{
		Name: "cdp", What: "CDP", Reference: "Cisco",
		Groups: []Prefix{"01:00:0c:cc:cc:cc"}, SNAPs: cisco(0x2000),
	},
	{
		Name: "vtp", What: "VTP", Reference: "Cisco",
		Groups: []Prefix{"01:00:0c:cc:cc:cc"}, SNAPs: cisco(0x2003),
	},
	{
		Name: "dtp", What: "DTP", Reference: "Cisco",
		Groups: []Prefix{"01:00:0c:cc:cc:cc"}, SNAPs: cisco(0x2004),
	},
	{
		Name: "pagp", What: "PAgP", Reference: "Cisco",
		Groups: []Prefix{"01:00:0c:cc:cc:cc"}, SNAPs: cisco(0x0104),
	},
	{
		Name: "udld", What: "UDLD", Reference: "Cisco",
		Groups: []Prefix{"01:00:0c:cc:cc:cc"}, SNAPs: cisco(0x0111),
	},
	{
		Name: "pvst", What: "PVST+, RPVST+", Reference: "Cisco",
		Groups: []Prefix{"01:00:0c:cc:cc:cd"}, SNAPs: cisco(0x010b),
	},
	{
		Name: "uplinkfast", What: "STP UplinkFast", Reference: "Cisco",
		Groups: []Prefix{"01:00:0c:cd:cd:cd"}, SNAPs: cisco(0x200a),
	},
	{
		Name: "vlan-bridge", What: "VLAN-bridge STP", Reference: "Cisco",
		Groups: []Prefix{"01:00:0c:cd:cd:ce"}, SNAPs: cisco(0x010c),
	},
	{
		Name: "cgmp", What: "CGMP", Reference: "Cisco",
		Groups: []Prefix{"01:00:0c:dd:dd:dd"}, Types: []uint16{0x2001}, SNAPs: cisco(0x2001),
	},
	{
		Name: "isl", What: "ISL", Reference: "Cisco",
		Groups: []Prefix{"01:00:0c:00:00", "03:00:0c:00:00", "0c:00:0c:00:00"}, SNAPs: []SNAP{{OUI: 0x00000c, AnyPID: true}},
	},
	{
		Name: "l2pt", What: "layer 2 protocol tunnelling", Reference: "Cisco",
		Groups: []Prefix{"01:00:0c:cd:cd:d0"},
	},
	{
		Name: "aci", What: "ACI ARP gleaning", Reference: "Cisco",
		Types: []uint16{0xfff2},
	},
	{
		Name: "cisco-groups", What: "every other use of Cisco's group addresses and SNAP", Reference: "Cisco",
		Groups: []Prefix{"01:00:0c"}, SNAPs: []SNAP{{OUI: 0x00000c, AnyPID: true}},
	},

	// Other vendors
	{
		Name: "extreme", What: "EDP, EAPS, ESRP, ELRP, EPSR", Reference: "Extreme, RFC 3619",
		Groups: []Prefix{"00:e0:2b:00:00", "01:e0:2b"}, Types: []uint16{0xe555}, SNAPs: []SNAP{{OUI: 0x00e02b, AnyPID: true}},
	},
	{
		Name: "foundry", What: "FDP, MRP, VSRP", Reference: "Foundry, Brocade",
		Groups: []Prefix{"01:e0:52", "03:04:80"}, Types: []uint16{0x885a}, SNAPs: []SNAP{{OUI: 0x00e052, AnyPID: true}},
	},
	{
		Name: "nortel", What: "SONMP, SLPP, VLACP", Reference: "Nortel, Avaya",
		Groups: []Prefix{"01:00:81"}, Types: []uint16{0x8102, 0x8103, 0x8104}, SNAPs: []SNAP{{OUI: 0x000081, AnyPID: true}},
	},
	{
		Name: "rrpp", What: "RRPP: ring protection", Reference: "H3C, Huawei",
		Groups: []Prefix{"00:0f:e2:07:82", "00:0f:e2:07:83", "00:0f:e2:07:84"}, SNAPs: []SNAP{{OUI: 0x00e02b, AnyPID: true}},
	},
	{
		Name: "h3c", What: "Smart Link, HGMP, BPDU tunnels", Reference: "H3C, Huawei",
		Groups: []Prefix{"01:0f:e2"},
	},
	{
		Name: "alcatel", What: "AMAP, GMAP", Reference: "Alcatel",
		Groups: []Prefix{"01:20:da"}, SNAPs: []SNAP{{OUI: 0x0020da, AnyPID: true}},
	},
	{
		Name: "cabletron", What: "VLSP, ISMP, SFVLAN, PVST", Reference: "Cabletron, Enterasys",
		Groups: []Prefix{"01:00:1d"}, Types: []uint16{0x81fd, 0x81ff}, SNAPs: []SNAP{{OUI: 0x00001d, AnyPID: true}},
	},
	{
		Name: "hp", What: "loop protection, NIC teaming", Reference: "Hewlett-Packard",
		Groups: []Prefix{"09:00:09:09:13:a6", "03:00:c7:00:00:ee"},
	},
	{
		Name: "teaming", What: "beacons of teamed NICs: Intel ANS, VMware", Reference: "Intel, VMware",
		Types: []uint16{0x886d, 0x8922},
	},
	{
		Name: "realtek", What: "RRCP, loop detection, switch tags", Reference: "Realtek",
		Types: []uint16{0x8899},
	},
	{
		Name: "homepna", What: "HomePNA, Broadcom link control", Reference: "ITU-T G.9954",
		Types: []uint16{0x886c},
	},
	{
		Name: "homeplug", What: "HomePlug management", Reference: "IEEE 1901-2010",
		Types: []uint16{0x887b, 0x88e1},
	},
	{
		Name: "ncsi", What: "sideband control of NICs", Reference: "DMTF DSP0222",
		Types: []uint16{0x88f8},
	},
	{
		Name: "bddp", What: "discovery by OpenFlow controllers", Reference: "ONOS, Floodlight, OpenDaylight",
		Types: []uint16{0x8942},
	},
	{
		Name: "timestamp-tag", What: "time stamps and headers of tap aggregators", Reference: "Arista, Gigamon",
		Types: []uint16{0xd28b, 0x22e5},
	},
	{
		Name: "docsis", What: "cable modems' control", Reference: "DOCSIS",
		Groups: []Prefix{"01:e0:2f"},
	},

	// Loops and rings
	{
		Name: "loopback", What: "ECTP, keepalive; loop detection of 3Com, D-Link, MikroTik", Reference: "Ethernet 2.0 §8, vendors",
		Groups: []Prefix{"cf:00:00:00:00:00"}, Types: []uint16{0x9000, 0x9001, 0x9002, 0x9003},
	},
	{
		Name: "media-redundancy", What: "MRP of PROFINET", Reference: "IEC 62439-2",
		Groups: []Prefix{"01:15:4e:00:01", "01:15:4e:00:02"}, Types: []uint16{0x88e3},
	},
	{
		Name: "hsr-prp", What: "HSR, PRP", Reference: "IEC 62439-3",
		Groups: []Prefix{"01:15:4e:00:01"}, Types: []uint16{0x892f, 0x88fb},
	},
	{
		Name: "dlr", What: "device level ring of EtherNet/IP", Reference: "ODVA CIP volume 2",
		Groups: []Prefix{"01:21:6c"}, Types: []uint16{0x80e1},
	},
	{
		Name: "hiper-ring", What: "HiPER-Ring", Reference: "Hirschmann",
		Groups: []Prefix{"01:80:63"}, SNAPs: []SNAP{{OUI: 0x008063, AnyPID: true}},
	},
	{
		Name: "tte-pcf", What: "TTEthernet protocol control", Reference: "SAE AS6802",
		Types: []uint16{0x891d},
	},

	// Of before 802.1D
	{
		Name: "dec-stp", What: "LANbridge", Reference: "DEC",
		Groups: []Prefix{"09:00:2b:01:00"}, Types: []uint16{0x8038},
	},
	{
		Name: "old-bridges", What: "spanning trees of Ungermann-Bass, BICC, Retix, Vitalink, Kalpana, and by EtherType", Reference: "Wireshark wka, RFC 1700",
		Groups: []Prefix{"01:dd:01:00:00:00", "09:00:4c", "09:00:77", "09:00:7c", "01:80:24:00:00:00"}, Types: []uint16{0x8181},
	},
}
