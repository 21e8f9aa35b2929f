package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/graph"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/ovs"
	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
	"libvirt-direct/xmlfilter"
)

func domainOf(t *testing.T, name, uuid string, nics ...string) *xmlfilter.Domain {
	t.Helper()
	d, err := xmlfilter.Parse([]byte("<domain type='kvm'><name>" + name + "</name><uuid>" + uuid + "</uuid><devices>" + strings.Join(nics, "") + "</devices></domain>"))
	require.NoError(t, err)
	return d
}

// wholeScene has one of everything that graph draws, and some of it is broken.
func wholeScene(t *testing.T) *scene {
	up := func(l link.Link) link.Link { l.Up, l.Carrier = true, true; return l }
	ours := step.Alias
	settings := link.VFSettings{VLAN: &link.VFVLAN{ID: 42, QoS: 3, Proto: link.Dot1Q}, Trust: new(bool)}
	vfPlace := link.VFPlace{PF: "0000:05:00.0", Number: 1, Device: "0000:05:10.1"}
	const web, db, desk, cloud, old = "aaaaaaaa-0000-4000-8000-000000000001", "aaaaaaaa-0000-4000-8000-000000000002",
		"aaaaaaaa-0000-4000-8000-000000000003", "aaaaaaaa-0000-4000-8000-000000000004", "aaaaaaaa-0000-4000-8000-000000000005"
	vlan := hooks.Held{Step: step.Step{NIC: "52:54:00:00:00:01", Kind: &step.VLAN{Name: "eth0.100", Parent: "eth0", ID: 100, Made: true}}}
	return &scene{
		libvirt: true,
		guests: []*xmlfilter.Domain{
			domainOf(t, "cloud", cloud, `<interface type='bridge'><mac address='52:54:00:00:00:07'/><source bridge='br-int'/><virtualport type='openvswitch'/><target dev='vnet7'/></interface>`,
				`<interface type='user'><mac address='52:54:00:00:00:08'/></interface>`),
			domainOf(t, "db", db, `<interface type='hostdev'><mac address='52:54:00:00:00:02'/><source><address type='pci' domain='0x0000' bus='0x05' slot='0x10' function='0x1'/></source></interface>`,
				`<interface type='direct'><mac address='52:54:00:00:00:03'/><source dev='eth1v0' mode='passthrough'/><target dev='macvtap3'/></interface>`),
			domainOf(t, `desk "&lt;b&gt;" &amp; \N #1`, desk, `<interface type='bridge'><mac address='52:54:00:00:00:04'/><source bridge='br0'/><target dev='vnet4'/></interface>`,
				`<interface type='bridge'><mac address='52:54:00:00:00:05'/><source bridge='br0'/><target dev='vnet5'/></interface>`),
			domainOf(t, "web", web, `<interface type='direct'><mac address='52:54:00:00:00:01'/><source dev='eth0.100' mode='vepa'/><target dev='macvtap0'/></interface>`),
		},
		links: []link.Link{
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
			up(link.Link{Index: 20, Name: "eth0.100", Kind: "vlan", VLANID: 100, Parent: 2, Alias: ours}),
			{Index: 21, Name: "eth0.200", Kind: "vlan", VLANID: 200, Parent: 2, Alias: ours},
		},
		pfs: []pfStatus{{Name: "eth1", Driver: "igb", VFs: []vfStatus{
			{Number: 0, Device: "0000:05:10.0", Driver: "igbvf", Netdev: "eth1v0"},
			{Number: 1, Device: "0000:05:10.1", Driver: "vfio-pci", Owner: "db", Wanted: settings},
			{Number: 2, Device: "0000:05:10.2", Driver: "igbvf", Netdev: "eth1v2"},
		}}},
		held: []hooks.DomainStatus{
			{Name: "web", UUID: web, Held: []hooks.Held{vlan}},
			{Name: "db", UUID: db, Held: []hooks.Held{{Step: step.Step{NIC: "52:54:00:00:00:02", Kind: &step.VF{VFPlace: vfPlace, Want: settings}}, Observed: step.Observed{Difference: "trust is on, not off"}}}},
			{Name: "old", UUID: old, Held: []hooks.Held{
				{Step: step.Step{Kind: &step.VLAN{Name: "eth0.200", Parent: "eth0", ID: 200}}},
				{Step: step.Step{Kind: &step.Macvtap{Name: "ldt0123456789", Lower: "eth0.200", Mode: "vepa"}}, Observed: step.Observed{Difference: "gone"}},
			}},
		},
		uplinks: map[string]string{"eth0": "storage"},
		bridges: []ovs.Bridge{{Name: "br-int", Devices: []ovs.Device{{Name: "br-int"}, {Name: "eth3"}, {Name: "geneve0"}, {Name: "vnet7", Tag: 100}}}},
		stations: []control.Uplink{
			{Name: "eth0", Edition: "2012", Switch: &control.Switch{Chassis: "02:bb:00:00:00:01", Port: "ge-0/0/7", ReflectiveRelay: true}},
			{Name: "eth1", Edition: "auto", Error: control.NewError(vdp.ErrNoEVB)},
		},
		vsis: []control.VSIStatus{
			{Uplink: "eth0", State: "established", VSI: control.VSI{ID: aVSI, Manager: control.Manager{11}, TypeID: 1193047, TypeVersion: 2, Filters: []control.Filter{{MAC: "52:54:00:00:00:01", VID: 100}}}},
			{Uplink: "eth0", State: "lost", Error: control.NewError(vdp.ErrNoLink), VSI: control.VSI{ID: "19b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f", Filters: []control.Filter{{MAC: "52:54:00:00:00:99", VID: 300}}}},
		},
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	path := filepath.Join("testdata", "graph", file)
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
		return
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

func TestGraphOfEverything(t *testing.T) {
	g := wholeScene(t).graph()
	require.Equal(t, g, wholeScene(t).graph())
	golden(t, "whole.dot", graph.DOT(g))
	golden(t, "whole.svg", graph.SVG(g))
	golden(t, "whole.mmd", graph.Mermaid(g))
}

func TestGraphOfNothing(t *testing.T) {
	g := (&scene{}).graph()
	require.Empty(t, g.Nodes)
	require.NotEmpty(t, graph.DOT(g))
	require.NoError(t, wellFormed(graph.SVG(g)))
}

func TestGraphWithoutLibvirtDoesNotCallGuestsDead(t *testing.T) {
	s := wholeScene(t)
	s.guests, s.libvirt = nil, false
	text := graph.DOT(s.graph())
	require.Contains(t, text, `label="web"`, "by the journal")
	require.NotContains(t, text, "does not run")
	require.NotContains(t, text, "of no guest")
}

func wellFormed(doc string) error {
	for d := xml.NewDecoder(strings.NewReader(doc)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}
