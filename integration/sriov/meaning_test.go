//go:build integration

package sriov

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host"
)

const namedCard = `deadline = "1m"
[uplink.fast]
device = "eth0"
also = ["enpa"]
vlans = ["40-49"]
[profile.gold]
uplink = "fast"
mode = "passthrough"
`

// An uplink whose card has virtual functions means one of them in mode passthrough, by
// whichever of its names, and never the card, which has the host's own address. The one that
// rewrite chooses is none that the host uses.
func TestUplinkInPassthroughIsAFunction(t *testing.T) {
	installHook(t, "qemu", namedCard)
	d := libvirtd(t)
	vfs(t, "eth0", 3)
	_, hosts := device(t, "eth0", 0)
	_, free := device(t, "eth0", 1)
	sh(t, "ip addr add 198.51.100.5/24 dev eth0 && ip link set %s up && ip addr add 192.0.2.10/24 dev %s && ip route add default via 192.0.2.1 dev %s", hosts, hosts, hosts)
	t.Cleanup(func() {
		sh(t, "ip addr del 198.51.100.5/24 dev eth0; ip addr flush dev %s; ip link set %s down", hosts, hosts)
	})
	// What the host has: which MAC the PF reports of a VF that is up changes by itself.
	hostHas := func() string {
		return sh(t, "ls /sys/class/net; ip -o addr show dev eth0 | grep -v fe80; cat /sys/class/net/%s/address /sys/class/net/%s/flags; ip -o -4 addr show dev %s", hosts, hosts, hosts)
	}
	before := hostHas()
	for name, c := range map[string]struct{ dev, words string }{
		"name":     {dev: "fast"},
		"also":     {dev: "enpa"},
		"settings": {dev: "eth0", words: "uplink='fast'"},
		"profile":  {dev: "eth0", words: "profile='gold'"},
		"vlan":     {dev: "eth0.42", words: "uplink='fast'"},
	} {
		w := ""
		if c.words != "" {
			w = words(nic(macP, c.words))
		}
		dom := d.define(t, tiny(name, host.DirectNIC(macP, c.dev, "passthrough"), w))
		err := d.DomainCreate(dom)
		require.ErrorContains(t, err, "must be rewritten first", name)
		require.Equal(t, before, hostHas(), name)
		if name != "name" { // starts take long here
			continue
		}
		d.rewrite(t, dom)
		d.start(t, dom)
		require.Equal(t, macP, sh(t, "cat /sys/class/net/%s/address", free))
		require.Contains(t, sh(t, "ip -o -4 addr show dev %s", hosts), "192.0.2.10/24")
		d.destroy(t, dom)
		require.Equal(t, before, hostHas())
	}
	// Where none is free, too.
	for i := range 3 {
		_, dev := device(t, "eth0", i)
		sh(t, "ip link set %s up && ip addr add 192.0.2.%d/32 dev %s", dev, 20+i, dev)
		t.Cleanup(func() { sh(t, "ip addr flush dev %s; ip link set %s down", dev, dev) })
	}
	dom := d.define(t, tiny("none", host.DirectNIC(macP, "fast", "passthrough"), ""))
	require.ErrorContains(t, d.DomainCreate(dom), "must be rewritten first")
	require.Contains(t, sh(t, "ip -o -4 addr show dev eth0"), "198.51.100.5/24")
}

// The table of what libvirt refuses says what this libvirt does.
func TestLibvirtRefusesWhatTheTableSays(t *testing.T) {
	installHook(t, "qemu", namedCard)
	d := libvirtd(t)
	vfs(t, "eth0", 2)
	address, _ := device(t, "eth0", 0)
	_, netdev := device(t, "eth0", 1)
	const trunk = "<vlan trunk='yes'><tag id='42'/><tag id='43'/></vlan>"
	passthrough := func(more string) string { return host.DirectNIC(macP, netdev, "passthrough", more) }
	for name, c := range map[string]struct{ nic, says string }{
		"trunk-hostdev": {hostdev(macP, address, trunk), "vlan trunking is not supported"},
		"trunk-macvtap": {passthrough(trunk), "vlan trunking is not supported"},
		"bandwidth":     {hostdev(macP, address, "<bandwidth><inbound average='1000'/></bandwidth>"), "bandwidth settings are not supported"},
	} {
		lone := d.define(t, tiny(name, c.nic, ""))
		require.ErrorContains(t, d.DomainCreate(lone), c.says, "a plain guest is libvirt's to refuse")
		managed := d.define(t, tiny(name+"-managed", c.nic, words(nic(macP, "trust='yes'"))))
		require.ErrorContains(t, d.DomainCreate(managed), "libvirt refuses this: ")
	}
	for name, nic := range map[string]string{
		"mtu":        passthrough("<mtu size='1400'/>"),
		"isolated":   passthrough("<port isolated='yes'/>"),
		"managed":    passthrough("<target dev='x' managed='no'/>"),
		"port":       "<interface type='ethernet'><virtualport type='openvswitch'/></interface>",
		"transient":  passthrough("<teaming type='transient' persistent='ua-a'/>"),
		"alone":      hostdev(macP, address, "<teaming type='transient'/>"),
		"persistent": "<interface type='direct'><source dev='" + netdev + "' mode='passthrough'/><model type='e1000e'/><teaming type='persistent'/></interface>",
	} {
		_, err := d.DomainDefineXML(tiny("refused", nic, "").XML())
		require.Error(t, err, name)
	}
}

// VLANs in VLANs are made for libvirt's macvtap, and go with it.
func TestVLANInAVLAN(t *testing.T) {
	installHook(t, "qemu", namedCard)
	d := libvirtd(t)
	sh(t, "modprobe 8021q")
	before := links(t)
	for i, dev := range []string{"eth0.41.7", "fast.42.7"} {
		dom := d.define(t, tiny(fmt.Sprint("stack", i), host.DirectNIC(macP, dev, "bridge"), ""))
		d.start(t, dom)
		inner := strings.Replace(dev, "fast", "eth0", 1)
		outer := strings.TrimSuffix(inner, ".7")
		require.Contains(t, sh(t, "ip -d -o link show %s", inner), "vlan protocol 802.1Q id 7 ")
		require.Contains(t, sh(t, "ip -d -o link show %s", inner), inner+"@"+outer)
		require.Contains(t, sh(t, "ip -d -o link show %s", outer), outer+"@eth0")
		require.NotEmpty(t, sh(t, "ls -d /sys/class/net/%s/upper_macvtap*", inner))
		d.destroy(t, dom)
		require.Equal(t, before, links(t))
	}
	dom := d.define(t, tiny("forbidden", host.DirectNIC(macP, "eth0.7.42", "bridge"), ""))
	require.ErrorContains(t, d.DomainCreate(dom), `VLAN 7 on uplink "fast"`)
	require.Empty(t, sh(t, "ls /run/libvirt-direct/domains"))
}
