package hooks

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/xmlfilter"
)

const ovsProfile = `
[profile.ovs]
vlan = 7
[profile.ovs.ovs]
ingressrate = 1000
minrate = 10
maxrate = 100
mirror = "ids"
ovn = true
`

const enforcing = `
[uplink.kept]
device = "kept0"
vlans = ["100"]
enforce = true
`

// Every kind of NIC, as explain shows what is done for it.
func TestExplainGolden(t *testing.T) {
	cases := map[string]struct{ words, nics string }{
		"plain":        {"", direct(mac1, "enpb", "bridge")},
		"not-ours":     {"", "<interface type='network'><source network='default'/></interface>"},
		"vlan-device":  {"", direct(mac1, "enpb.100", "bridge") + direct(mac2, "enpb.100", "private")},
		"uplink-name":  {"", direct(mac1, "storage", "vepa") + direct(mac2, "storage.101", "bridge")},
		"other-host":   {"", direct(mac1, "nica", "vepa") + direct(mac2, "nica.101", "bridge")},
		"vlan-element": {"", direct(mac1, "enpb", "vepa", "<vlan><tag id='100'/></vlan>")},
		"vlan-word":    {"<ld:nic mac='" + mac1 + "' vlan='100'/>", direct(mac1, "enpb", "vepa")},
		"vf-vlan":      {"", direct(mac1, "vf0", "passthrough", "<vlan><tag id='100'/></vlan>")},
		"allmulti":     {"", direct(mac1, "lanport", "bridge", "<target dev='macvtap3'/>")},
		"to-own":       {"<ld:nic mac='" + mac1 + "' own='hook'/>", direct(mac1, "enpb", "private", "<bandwidth/>", "<driver queues='4'/>")},
		"profile":      {"<ld:nic mac='" + mac1 + "' profile='gold'/>", direct(mac1, "anything", "bridge")},
		"owned":        {"<ld:nic mac='" + mac1 + "' own='hook' uplink='storage' vlan='100' mode='bridge' allmulticast='yes'/>", owned(mac1, "ldt1", "<mtu size='1400'/>", "<driver queues='2'/>")},
		"no-device":    {"", direct(mac1, "eth7", "bridge")},
		"not-allowed":  {"", direct(mac1, "enpb.200", "bridge")},
		"no-profile":   {"<ld:nic mac='" + mac1 + "' profile='glod'/>", direct(mac1, "enpb", "bridge")},
		"wrong-uplink": {"<ld:nic mac='" + mac1 + "' uplink='storage'/>", direct(mac1, "lanport", "bridge")},
		"trunk":        {"", direct(mac1, "enpb", "vepa", "<vlan trunk='yes'><tag id='100'/><tag id='101'/></vlan>")},
		"bridge-words": {"<ld:nic mac='" + mac1 + "' vlan='100' isolated='yes'/>", bridged(mac1, "br0", "")},
		"bridge-vlan":  {"", bridged(mac1, "br0", "", trunkVLAN)},
		"bridge-no":    {"<ld:nic mac='" + mac1 + "' vlan='100'/>", bridged(mac1, "br1", "")},
		"stray":        {"<ld:nic mac='" + mac2 + "' vlan='100'/>", direct(mac1, "enpb", "bridge")},
		"qbg":          {"", direct(mac1, "enpb.100", "vepa", qbg("11"))},
		"qbg-owned":    {"<ld:nic mac='" + mac1 + "' own='hook'/>", direct(mac1, "enpb.100", "vepa", qbg("0x0b"))},
		"qbg-no-vlan":  {"", direct(mac1, "enpb", "vepa", qbg("11"))},
		"qbg-manager":  {"", direct(mac1, "enpb.100", "vepa", qbg("0"))},
		"qbh":          {"<ld:nic mac='" + mac1 + "' own='hook'/>", direct(mac1, "enpb", "vepa", "<virtualport type='802.1Qbh'/>")},
		"long-name":    {"", direct(mac1, "enp129s0f0np0", "vepa", "<vlan><tag id='4000'/></vlan>")},
		"pool":         {"<ld:nic mac='" + mac1 + "' allmulticast='yes'/>", "<interface type='network'><mac address='" + mac1 + "'/><source network='pool'/></interface>"},
		"ovs":          {"<ld:nic mac='" + mac2 + "' profile='ovs' ifaceid='lsp1'/>", onSwitch(mac1, "<target dev='vnet0'/>") + onSwitch(mac2, "<target dev='vnet1'/>")},
		"ovs-to-own":   {"<ld:nic mac='" + mac1 + "' own='hook'/>", onSwitch(mac1, "<vlan><tag id='5' nativeMode='tagged'/><tag id='6'/></vlan>", "<bandwidth/>")},
		"enforced":     {"", direct(mac1, "kept0", "bridge") + direct(mac2, "kept0.100", "bridge")},
		"dotted":       {"", direct(mac1, "wan.7", "vepa")},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, twoUplinks+ovsProfile+enforcing, "enpb", "lanport", "enp129s0f0np0", "wan.7", "kept0")
			withBridges(w.kernel)
			w.kernel.PCI["0000:03:00.0"] = "lanport"
			w.kernel.AddVFs("lanport", 1)
			d, err := xmlfilter.Parse([]byte(domain(uuidA, c.words, c.nics)))
			require.NoError(t, err)
			host, err := Survey(context.Background(), w.kernel, w.cfg, w.hook.records(), d)
			require.NoError(t, err)
			var out bytes.Buffer
			require.NoError(t, Explain(&out, "", d, w.cfg, host))
			path := filepath.Join("testdata", name+".golden")
			if *update {
				require.NoError(t, os.WriteFile(path, out.Bytes(), 0o644))
			}
			want, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, string(want), out.String())
			require.Zero(t, w.calls, "explaining touches nothing")
		})
	}
}
