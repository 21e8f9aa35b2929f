package plan

import (
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/xmlfilter"
)

func oneNIC(t *testing.T, nic string) *xmlfilter.NIC {
	t.Helper()
	d, err := xmlfilter.Parse([]byte("<domain><name>a</name><devices>" + nic + "</devices></domain>"))
	require.NoError(t, err)
	return &d.NICs[0]
}

const (
	hostdevNIC = "<interface type='hostdev' managed='yes'><source><address type='pci' domain='0' bus='3' slot='16' function='1'/></source>"
	trunkVLANs = "<vlan trunk='yes'><tag id='1'/><tag id='2'/></vlan>"
	oneVLAN    = "<vlan><tag id='1'/></vlan>"
)

func passthrough(dev, more string) string {
	return "<interface type='direct'><source dev='" + dev + "' mode='passthrough'/>" + more + "</interface>"
}

func macvtapNIC(more string) string {
	return "<interface type='direct'><source dev='nica' mode='bridge'/>" + more + "</interface>"
}

func bridgeNIC(more string) string {
	return "<interface type='bridge'><source bridge='br0'/>" + more + "</interface>"
}

// Each row of the table is about what it says, and about nothing that libvirt takes.
func TestWhatLibvirtRefuses(t *testing.T) {
	host := Snapshot{Devices: map[string]Device{"vf0": {Name: "vf0", Index: 2, VF: true}, "nica": {Name: "nica", Index: 3}}}
	const (
		trunk     = "refuses a trunk on a virtual function"
		plainVLAN = "refuses <vlan> on a macvtap that is not in passthrough mode"
		noVF      = "refuses <vlan> on a device that is no virtual function"
		bridged   = "before 11.0 refuses <vlan> on a Linux bridge"
		qbhVLAN   = "refuses <vlan> with <virtualport type='802.1Qbh'>"
		here      = "refuses <vlan> on this type"
		hostPort  = "refuses <virtualport> of another type"
		mtu       = "refuses <mtu> on this type"
		isolated  = "refuses <port isolated='yes'> outside"
		notVirtio = "with a model that is not virtio"
	)
	port := func(typ string) string { return "<virtualport type='" + typ + "'/>" }
	model := func(m string) string { return "<model type='" + m + "'/>" }
	seen := map[string]bool{}
	for nic, want := range map[string][]string{
		hostdevNIC + trunkVLANs + "</interface>":                                   {trunk},
		hostdevNIC + "<vlan trunk='yes'><tag id='1'/></vlan></interface>":          {trunk},
		hostdevNIC + "<vlan><tag id='1' nativeMode='tagged'/></vlan></interface>":  {trunk},
		hostdevNIC + "<vlan><tag id='1'/><tag id='2'/></vlan></interface>":         {trunk},
		passthrough("vf0", trunkVLANs):                                             {trunk},
		passthrough("fast", trunkVLANs):                                            {trunk},
		passthrough("nica", trunkVLANs):                                            {trunk},
		passthrough("nica", oneVLAN):                                               {noVF},
		passthrough("vf0", oneVLAN+port("802.1Qbh")):                               {qbhVLAN},
		hostdevNIC + oneVLAN + port("802.1Qbh") + "</interface>":                   {qbhVLAN},
		macvtapNIC(oneVLAN):                                                        {plainVLAN},
		"<interface type='direct'><source dev='nica'/>" + oneVLAN + "</interface>": {plainVLAN},
		macvtapNIC(trunkVLANs):                                                     {plainVLAN},
		bridgeNIC(oneVLAN):                                                         {bridged},
		bridgeNIC(oneVLAN + port("802.1Qbg")):                                      {"refuses <vlan> on a bridge with this <virtualport>", "puts the tap into none"},
		bridgeNIC(port("802.1Qbh")):                                                {"puts the tap into none"},
		"<interface type='ethernet'>" + oneVLAN + "</interface>":                   {here},
		"<interface type='user'>" + oneVLAN + "</interface>":                       {here},
		"<interface type='ethernet'>" + port("openvswitch") + "</interface>":       {"refuses <virtualport> on this type"},
		hostdevNIC + port("802.1Qbg") + "</interface>":                             {hostPort},
		hostdevNIC + port("openvswitch") + "</interface>":                          {hostPort},
		macvtapNIC(port("openvswitch")):                                            {"ignores this <virtualport> on a macvtap"},
		macvtapNIC(port("midonet")):                                                {"ignores this <virtualport> on a macvtap"},
		hostdevNIC + "<bandwidth><inbound average='1'/></bandwidth></interface>":   {"refuses <bandwidth>"},
		macvtapNIC("<filterref filter='clean-traffic'/>"):                          {"ignores <filterref> here"},
		hostdevNIC + "<filterref filter='clean-traffic'/></interface>":             {"ignores <filterref> here"},
		bridgeNIC("<filterref filter='clean-traffic'/>" + port("openvswitch")):     {"refuses <filterref> on a bridge with <virtualport>"},
		bridgeNIC("<script path='/etc/qemu-ifup'/>"):                               {"refuses <script> on this type"},
		macvtapNIC("<script path='/etc/qemu-ifup'/>"):                              {"refuses <script> on this type"},
		macvtapNIC("<backend tap='/dev/net/tun'/>"):                                {"refuses <backend tap=> on this type"},
		macvtapNIC("<mtu size='1400'/>"):                                           {mtu},
		hostdevNIC + "<mtu size='1400'/></interface>":                              {mtu},
		macvtapNIC("<port isolated='yes'/>"):                                       {isolated},
		bridgeNIC("<port isolated='yes'/>" + port("openvswitch")):                  {isolated},
		hostdevNIC + model("virtio") + "<driver queues='4'/></interface>":          {"refuses <driver queues=> on a virtual function"},
		macvtapNIC(model("e1000e") + "<driver queues='4'/>"):                       {notVirtio},
		"<interface type='direct' trustGuestRxFilters='yes'><source dev='nica'/>" + model("e1000e") + "</interface>": {notVirtio},
		"<interface type='ethernet' trustGuestRxFilters='yes'/>":                                                     {"ignores trustGuestRxFilters on this type"},
		macvtapNIC("<target dev='x' managed='no'/>"):                                                                 {"<target managed='no'>"},
		macvtapNIC("<teaming type='persistent'/>" + model("e1000e")):                                                 {notVirtio},
		macvtapNIC("<teaming type='transient' persistent='ua-a'/>"):                                                  {"<teaming type='transient'> on this type"},
		hostdevNIC + "<teaming type='transient'/></interface>":                                                       {"without persistent="},
		macvtapNIC("<teaming type='persistent' persistent='ua-a'/>"):                                                 {"<teaming persistent=> in a persistent one"},

		// What libvirt takes.
		hostdevNIC + oneVLAN + "</interface>":                                                                      nil,
		hostdevNIC + port("802.1Qbh") + "</interface>":                                                             nil,
		hostdevNIC + "<vlan trunk='no'><tag id='1'/></vlan></interface>":                                           nil,
		hostdevNIC + model("e1000e") + "</interface>":                                                              nil,
		hostdevNIC + "<driver name='vfio'/></interface>":                                                           nil,
		passthrough("vf0", oneVLAN):                                                                                nil,
		passthrough("vf0", oneVLAN+port("802.1Qbg")):                                                               nil,
		passthrough("fast", oneVLAN):                                                                               nil,
		passthrough("nica", port("802.1Qbh")):                                                                      nil,
		macvtapNIC("<bandwidth><inbound average='1'/></bandwidth>"):                                                nil,
		macvtapNIC(model("virtio-transitional") + "<driver queues='4'/>"):                                          nil,
		macvtapNIC("<driver queues='4'/>"):                                                                         nil,
		macvtapNIC("<driver queues='1'/>" + model("e1000")):                                                        nil,
		macvtapNIC("<teaming type='persistent'/>" + model("virtio")):                                               nil,
		hostdevNIC + "<teaming type='transient' persistent='ua-a'/></interface>":                                   nil,
		"<interface type='network'><source network='n'/><teaming type='transient' persistent='ua-a'/></interface>": nil,
		"<interface type='network'><source network='n'/><port isolated='yes'/><mtu size='1400'/></interface>":      nil,
		"<interface type='network'><source network='n'/>" + trunkVLANs + "</interface>":                            nil,
		"<interface type='network'><source network='n'/><filterref filter='clean-traffic'/></interface>":           nil,
		"<interface type='network'><source network='n'/><virtualport type='802.1Qbg'/></interface>":                nil,
		"<interface type='direct'><source network='n' dev='nica' mode='bridge'/><mtu size='1400'/></interface>":    nil,
		bridgeNIC("<port isolated='yes'/><filterref filter='clean-traffic'/>"):                                     nil,
		bridgeNIC(trunkVLANs + port("openvswitch")):                                                                nil,
		"<interface type='ethernet'><target dev='x' managed='no'/><mtu size='1400'/></interface>":                  nil,
		"<interface type='ethernet'><filterref filter='clean-traffic'/><bandwidth/></interface>":                   nil,
		"<interface type='ethernet'><script path='/etc/qemu-ifup'/></interface>":                                   nil,
		bridgeNIC("<backend tap='/dev/net/tun' vhost='/dev/vhost-net'/>"):                                          nil,
		macvtapNIC("<backend vhost='/dev/vhost-net'/>"):                                                            nil,
		"<interface type='user'><mtu size='1400'/></interface>":                                                    nil,
	} {
		var said []string
		for _, r := range Refusals(host, oneNIC(t, nic)) {
			said = append(said, r.String())
			seen[r.What] = true
		}
		require.Len(t, said, len(want), "%s: %v", nic, said)
		for i := range want {
			require.Contains(t, said[i], want[i], nic)
		}
	}
	for _, r := range rules() {
		require.True(t, seen[r.What], "no row is about: %s", r.What)
	}
}
