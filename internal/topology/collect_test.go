package topology

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/graph"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/ovs"
	"libvirt-direct/xmlfilter"
)

func TestJournalOf(t *testing.T) {
	const mac = "52:54:00:00:00:01"
	place := link.VFPlace{PF: "0000:05:00.0", Number: 1, Device: "0000:05:10.1"}
	for _, c := range []struct {
		kind step.Kind
		want []Holding
	}{
		{&step.VF{VFPlace: place}, []Holding{{NIC: mac, VF: place.Device, Difference: "gone"}}},
		{&step.Port{VFPlace: place, Profile: "p"}, []Holding{{NIC: mac, VF: place.Device, Profile: "p", Difference: "gone"}}},
		{&step.Port{Device: "eth0", Profile: "p"}, []Holding{{NIC: mac, Device: "eth0", Class: graph.NIC, Profile: "p", Difference: "gone"}}},
		{&step.VLAN{Name: "eth0.7", Parent: "eth0"}, []Holding{{NIC: mac, Device: "eth0.7", Class: graph.VLAN, Difference: "gone"}}},
		{&step.AltName{Device: "eth0"}, []Holding{{NIC: mac, Device: "eth0", Class: graph.NIC, Difference: "gone"}}},
		{&step.Macvtap{Name: "ldt0"}, []Holding{{NIC: mac, Device: "ldt0", Class: graph.Tap, Difference: "gone"}}},
		{&step.Tap{Name: "ldt1"}, []Holding{{NIC: mac, Device: "ldt1", Class: graph.Tap, Difference: "gone"}}},
		{&step.OVSPort{Port: ovs.Port{Name: "vnet0"}}, []Holding{{NIC: mac, Device: "vnet0", Class: graph.Tap, Difference: "gone"}}},
		{&step.VSI{}, nil},
	} {
		got := journalOf(hooks.DomainStatus{Name: "vm", UUID: "u", Error: "e", Held: []hooks.Held{{Step: step.Step{NIC: mac, Kind: c.kind}, Observed: step.Observed{Difference: "gone"}}}})
		require.Equal(t, Journal{Name: "vm", UUID: "u", Error: "e", Holdings: c.want}, got)
	}
}

func TestGuestOf(t *testing.T) {
	d, err := xmlfilter.Parse([]byte(`<domain type='kvm'><name>&lt;vm&gt;</name><uuid>aaaaaaaa-0000-4000-8000-000000000001</uuid><devices>
		<interface type='hostdev'><mac address='52:54:00:00:00:02'/><source><address type='pci' domain='0x0000' bus='0x05' slot='0x10' function='0x1'/></source></interface>
		<interface type='direct'><mac address='52:54:00:00:00:03'/><source dev='eth0' mode='vepa'/><target dev='macvtap3'/></interface></devices></domain>`))
	require.NoError(t, err)
	require.Equal(t, Guest{Name: "<vm>", UUID: "aaaaaaaa-0000-4000-8000-000000000001", NICs: []NIC{
		{ID: "52:54:00:00:00:02", Type: "hostdev", MAC: "52:54:00:00:00:02", PCI: "0000:05:10.1"},
		{ID: "52:54:00:00:00:03", Type: "direct", MAC: "52:54:00:00:00:03", Target: "macvtap3"},
	}}, guestOf(d))
}

// A host without vdpd lacks nothing.
func TestNoStation(t *testing.T) {
	require.NoError(t, (&Topology{}).askStation(t.Context(), filepath.Join(t.TempDir(), "none")))
}
