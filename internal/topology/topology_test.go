package topology

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/internal/graph"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/ovs"
	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const aVSI = "09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f"

func up(l link.Link) link.Link { l.Up, l.Carrier = true, true; return l }

// everything has one of each that a graph draws, and some of it is broken.
func everything() *Topology {
	const own = "libvirt-direct"
	settings := link.VFSettings{VLAN: &link.VFVLAN{ID: 42, QoS: 3, Proto: link.Dot1Q}, Trust: new(bool)}
	const web, db, desk, cloud, old = "aaaaaaaa-0000-4000-8000-000000000001", "aaaaaaaa-0000-4000-8000-000000000002",
		"aaaaaaaa-0000-4000-8000-000000000003", "aaaaaaaa-0000-4000-8000-000000000004", "aaaaaaaa-0000-4000-8000-000000000005"
	return &Topology{
		AllGuests: true,
		OwnAlias:  own,
		Guests: []Guest{
			{Name: "cloud", UUID: cloud, NICs: []NIC{
				{Type: "bridge", MAC: "52:54:00:00:00:07", Target: "vnet7"},
				{Type: "user", MAC: "52:54:00:00:00:08"},
			}},
			{Name: "db", UUID: db, NICs: []NIC{
				{Type: "hostdev", MAC: "52:54:00:00:00:02", PCI: "0000:05:10.1"},
				{Type: "direct", MAC: "52:54:00:00:00:03", Target: "macvtap3"},
			}},
			{Name: `desk "<b>" & \N #1`, UUID: desk, NICs: []NIC{
				{Type: "bridge", MAC: "52:54:00:00:00:04", Target: "vnet4"},
				{Type: "bridge", MAC: "52:54:00:00:00:05", Target: "vnet5"},
			}},
			{Name: "web", UUID: web, NICs: []NIC{{Type: "direct", MAC: "52:54:00:00:00:01", Target: "macvtap0"}}},
		},
		Links: []link.Link{
			up(link.Link{Index: 1, Name: "lo", MAC: "00:00:00:00:00:00"}),
			up(link.Link{Index: 2, Name: "eth0", MAC: "02:aa:00:00:00:01"}),
			up(link.Link{Index: 3, Name: "eth1", MAC: "02:aa:00:00:00:02"}),
			{Index: 4, Name: "eth2", MAC: "02:aa:00:00:00:03", Up: true, Master: 10},
			up(link.Link{Index: 5, Name: "eth1v0", MAC: "52:54:00:00:00:03"}),
			up(link.Link{Index: 7, Name: "eth3", MAC: "02:aa:00:00:00:04"}),
			up(link.Link{Index: 8, Name: "br-int", Kind: "tun"}),
			up(link.Link{Index: 6, Name: "eth1v2", MAC: "02:aa:00:00:00:06"}),
			up(link.Link{Index: 10, Name: "br0", Kind: "bridge"}),
			up(link.Link{Index: 11, Name: "vnet4", Kind: "tun", Master: 10}),
			up(link.Link{Index: 12, Name: "vnet7", Kind: "tun"}),
			up(link.Link{Index: 13, Name: "macvtap0", Kind: "macvtap", Mode: "vepa", Parent: 20}),
			up(link.Link{Index: 14, Name: "macvtap3", Kind: "macvtap", Mode: "passthrough", Parent: 5}),
			up(link.Link{Index: 15, Name: "mvt5f3a1c02", Kind: "macvtap", Mode: "bridge", Parent: 2}),
			up(link.Link{Index: 16, Name: "elsewhere", Kind: "macvtap", Mode: "bridge", Parent: 2, ParentElsewhere: true}),
			up(link.Link{Index: 20, Name: "eth0.100", Kind: "vlan", VLANID: 100, Parent: 2, Alias: own}),
			{Index: 21, Name: "eth0.200", Kind: "vlan", VLANID: 200, Parent: 2, Alias: own},
		},
		PFs: []PF{{Name: "eth1", Driver: "igb", VFs: []VF{
			{Number: 0, Device: "0000:05:10.0", Driver: "igbvf", Netdev: "eth1v0"},
			{Number: 1, Device: "0000:05:10.1", Driver: "vfio-pci", Owner: "db", Wanted: settings},
			{Number: 2, Device: "0000:05:10.2", Driver: "igbvf", Netdev: "eth1v2"},
		}}},
		Journals: []Journal{
			{Name: "web", UUID: web, Holdings: []Holding{{NIC: "52:54:00:00:00:01", Device: "eth0.100", Class: graph.VLAN}}},
			{Name: "db", UUID: db, Holdings: []Holding{{NIC: "52:54:00:00:00:02", VF: "0000:05:10.1", Difference: "trust is on, not off"}}},
			{Name: "old", UUID: old, Holdings: []Holding{
				{Device: "eth0.200", Class: graph.VLAN},
				{Device: "ldt0123456789", Class: graph.Tap, Difference: "gone"},
			}},
		},
		Uplinks:         map[string]string{"eth0": "storage"},
		VirtualSwitches: []ovs.Bridge{{Name: "br-int", Devices: []ovs.Device{{Name: "br-int"}, {Name: "eth3"}, {Name: "geneve0"}, {Name: "vnet7", Tag: 100}}}},
		Stations: []control.Uplink{
			{Name: "eth0", Edition: "2012", Switch: &control.Switch{Chassis: "02:bb:00:00:00:01", Port: "ge-0/0/7", ReflectiveRelay: true}},
			{Name: "eth1", Edition: "auto", Error: control.NewError(vdp.ErrNoEVB)},
		},
		VSIs: []control.VSIStatus{
			{Uplink: "eth0", State: "established", VSI: control.VSI{ID: aVSI, Manager: control.Manager{11}, TypeID: 1193047, TypeVersion: 2, Filters: []control.Filter{{MAC: "52:54:00:00:00:01", VID: 100}}}},
			{Uplink: "eth0", State: "lost", Error: control.NewError(vdp.ErrNoLink), VSI: control.VSI{ID: "19b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f", Filters: []control.Filter{{MAC: "52:54:00:00:00:99", VID: 300}}}},
		},
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	path := filepath.Join("testdata", file)
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
		return
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

func TestGraphOfEverything(t *testing.T) {
	g := everything().Graph()
	require.Equal(t, g, everything().Graph())
	golden(t, "whole.dot", graph.DOT(g))
	golden(t, "whole.svg", graph.SVG(g))
	golden(t, "whole.mmd", graph.Mermaid(g))
}

func TestGraphLeavesItsTopologyAsItIs(t *testing.T) {
	topology := everything()
	slices.Reverse(topology.Links)
	want := slices.Clone(topology.Links)
	require.Equal(t, everything().Graph(), topology.Graph(), "whatever the order of links")
	require.Equal(t, want, topology.Links)
}

func TestGraphOfNothing(t *testing.T) {
	g := (&Topology{}).Graph()
	require.Empty(t, g.Nodes)
	require.NotEmpty(t, graph.DOT(g))
}

func TestGraphWithoutLibvirtDoesNotCallGuestsDead(t *testing.T) {
	topology := everything()
	topology.Guests, topology.AllGuests = nil, false
	text := graph.DOT(topology.Graph())
	require.Contains(t, text, `label="web"`, "by the journal")
	require.NotContains(t, text, "does not run")
	require.NotContains(t, text, "of no guest")
}

// drawn is the box of a device in a topology of devices alone.
func drawn(t *testing.T, topology *Topology, title string) graph.Node {
	t.Helper()
	g := topology.Graph()
	i := slices.IndexFunc(g.Nodes, func(n graph.Node) bool { return n.Title == title })
	require.GreaterOrEqual(t, i, 0, "%s in %v", title, g.Nodes)
	return g.Nodes[i]
}

// Each kind of device as an uplink, which is drawn whatever it is.
func TestDevices(t *testing.T) {
	for _, c := range []struct {
		l     link.Link
		class string
		lines []string
		fault bool
	}{
		{up(link.Link{MAC: "02:aa:00:00:00:01"}), graph.NIC, []string{"02:aa:00:00:00:01", "uplink u"}, false},
		{up(link.Link{MAC: "02:aa:00:00:00:01", Kind: "veth"}), graph.NIC, []string{"02:aa:00:00:00:01", "veth", "uplink u"}, false},
		{link.Link{MAC: "02:aa:00:00:00:01"}, graph.NIC, []string{"02:aa:00:00:00:01", "uplink u", "down"}, true},
		{link.Link{MAC: "02:aa:00:00:00:01", Up: true}, graph.NIC, []string{"02:aa:00:00:00:01", "uplink u", "no carrier"}, true},
		{link.Link{Kind: "bridge", Up: true}, graph.Bridge, []string{"bridge", "uplink u"}, false},
		{link.Link{Kind: "bond", Up: true}, graph.Bridge, []string{"bond", "uplink u", "no carrier"}, true},
		{up(link.Link{Kind: "vlan", VLANID: 7}), graph.VLAN, []string{"VLAN 7", "uplink u"}, false},
		{up(link.Link{Kind: "vlan", VLANID: 7, Alias: "libvirt-direct"}), graph.VLAN, []string{"VLAN 7", "uplink u", "made by libvirt-direct"}, false},
		{up(link.Link{Kind: "macvtap", Mode: "vepa"}), graph.Tap, []string{"macvtap vepa", "uplink u"}, false},
		{up(link.Link{Kind: "macvlan"}), graph.Tap, []string{"macvlan", "uplink u"}, false},
	} {
		c.l.Index, c.l.Name = 2, "dev"
		n := drawn(t, &Topology{Links: []link.Link{c.l}, Uplinks: map[string]string{"dev": "u"}, OwnAlias: "libvirt-direct"}, "dev")
		require.Equal(t, c.class, n.Class, c.l)
		require.Equal(t, c.lines, n.Lines)
		require.Equal(t, c.fault, n.Fault)
	}
}

// What a device stands on, and what it does not.
func TestBelow(t *testing.T) {
	const tap, nic, port, bridge = "link tap", "link nic", "link port", "link br"
	nicLink := up(link.Link{Index: 2, Name: "nic"})
	bridgeLink := up(link.Link{Index: 3, Name: "br", Kind: "bridge"})
	for _, c := range []struct {
		name  string
		links []link.Link
		edges []graph.Edge
	}{
		{"a macvtap on its lower device", []link.Link{nicLink, up(link.Link{Index: 9, Name: "tap", Kind: "macvtap", Parent: 2})}, []graph.Edge{{From: tap, To: nic}}},
		{"whose index is another namespace's", []link.Link{nicLink, up(link.Link{Index: 9, Name: "tap", Kind: "macvtap", Parent: 2, ParentElsewhere: true})}, nil},
		{"a tap in a bridge with a port", []link.Link{bridgeLink, up(link.Link{Index: 4, Name: "port", Master: 3}), up(link.Link{Index: 9, Name: "tap", Kind: "tun", Master: 3})},
			[]graph.Edge{{From: bridge, To: port}, {From: tap, To: bridge}}},
		{"a veth does not stand on its other end", []link.Link{up(link.Link{Index: 2, Name: "nic", Kind: "veth", Parent: 3}), up(link.Link{Index: 3, Name: "tap", Kind: "tun"})}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			topology := &Topology{Links: c.links, Uplinks: map[string]string{"nic": "u"}}
			require.Equal(t, c.edges, topology.Graph().Edges)
		})
	}
}

func TestNIC(t *testing.T) {
	const uuid = "aaaaaaaa-0000-4000-8000-000000000001"
	pfs := []PF{{Name: "eth1", VFs: []VF{{Number: 3, Device: "0000:05:10.3"}}}}
	for _, c := range []struct {
		name     string
		nic      NIC
		holdings []Holding
		title    string
		fault    bool
	}{
		{"by its address", NIC{PCI: "0000:05:10.3"}, nil, "VF 3 of eth1", false},
		{"from a pool, by the journal", NIC{Type: "network", MAC: "m"}, []Holding{{NIC: "other", VF: "0000:05:10.4"}, {NIC: "m", VF: "0000:05:10.3"}}, "VF 3 of eth1", false},
		{"another NIC's virtual function", NIC{Type: "network", MAC: "m"}, []Holding{{NIC: "other", VF: "0000:05:10.3"}}, "type 'network'", false},
		{"a device that is gone", NIC{Type: "direct", Target: "macvtap0"}, nil, "macvtap0", true},
		{"one that the kernel never shows", NIC{Type: "user", Target: "vnet0"}, nil, "type 'user'", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			topology := &Topology{Guests: []Guest{{Name: "g", UUID: uuid, NICs: []NIC{c.nic}}}, PFs: pfs,
				Journals: []Journal{{UUID: uuid, Holdings: c.holdings}}}
			require.Equal(t, c.fault, drawn(t, topology, c.title).Fault)
		})
	}
}

// Two NICs of one MAC, as a team's are, which took their virtual functions from a pool.
func TestNICsOfOneMAC(t *testing.T) {
	const uuid, mac = "aaaaaaaa-0000-4000-8000-000000000001", "52:54:00:00:00:01"
	guest := Guest{Name: "g", UUID: uuid, NICs: []NIC{
		{ID: mac + " #0", Type: "network", MAC: mac}, {ID: mac + " #1", Type: "network", MAC: mac}, {ID: mac + " ua-c", Type: "network", MAC: mac},
	}}
	topology := &Topology{Guests: []Guest{guest}, PFs: []PF{{Name: "eth1", VFs: []VF{
		{Number: 2, Device: "0000:05:10.2"}, {Number: 3, Device: "0000:05:10.3"}, {Number: 4, Device: "0000:05:10.4"},
	}}}, Journals: []Journal{{UUID: uuid, Holdings: []Holding{
		{NIC: mac, VF: "0000:05:10.2"}, {NIC: mac + " #1", VF: "0000:05:10.3"}, {NIC: mac + " ua-c", VF: "0000:05:10.4"},
	}}}}
	for _, title := range []string{"VF 2 of eth1", "VF 3 of eth1", "VF 4 of eth1"} {
		require.Equal(t, mac, drawn(t, topology, title).Lines[0], title)
	}
}
