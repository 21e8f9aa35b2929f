//go:build integration

package sriov

import (
	"fmt"
	"strings"
	"testing"

	"github.com/digitalocean/go-libvirt"
	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host"
)

// network defines and starts one of libvirt's networks for the time of the test.
func (d daemon) network(t *testing.T, name, inner string) {
	t.Helper()
	net, err := d.NetworkDefineXML("<network><name>" + name + "</name>" + inner + "</network>")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.NetworkUndefine(net)) })
	require.NoError(t, d.NetworkCreate(net))
	t.Cleanup(func() { require.NoError(t, d.NetworkDestroy(net)) })
}

func pooled(mac, network string) string {
	return fmt.Sprintf("<interface type='network'><mac address='%s'/><source network='%s'/></interface>", mac, network)
}

// libvirt's pools of VFs, one for macvtap and one for whole functions, beside our own
// choice on the same card: nobody ever gets what another has.
func TestPoolsBesideOwnChoice(t *testing.T) {
	installHook(t, "qemu", configuration)
	d := libvirtd(t)
	vfs(t, "eth0", 4)
	before := links(t)
	var addresses, netdevs [4]string
	for i := range 4 {
		addresses[i], netdevs[i] = device(t, "eth0", i)
	}
	d.network(t, "mt", "<metadata><ld:network xmlns:ld='urn:libvirt-direct:1' trust='yes' maxrate='70'/></metadata>"+
		"<forward mode='passthrough'><interface dev='"+netdevs[0]+"'/></forward>")
	a := strings.FieldsFunc(addresses[1], func(r rune) bool { return r == ':' || r == '.' })
	d.network(t, "hd", fmt.Sprintf("<forward mode='hostdev' managed='yes'><address type='pci' domain='0x%s' bus='0x%s' slot='0x%s' function='0x%s'/></forward>", a[0], a[1], a[2], a[3]))

	// As `libvirt-direct rewrite` makes them; the firmware is enough of a guest.
	chooses := func(n int) (iface, word string) {
		mac := fmt.Sprintf("52:54:00:01:03:%02x", n)
		return fmt.Sprintf("<interface type='ethernet'><mac address='%s'/><target dev='ldtown%d' managed='no'/></interface>", mac, n),
			nic(mac, "own='hook' mode='passthrough' uplink='fast' vlan='44'")
	}
	nic1, word1 := chooses(1)
	nic2, word2 := chooses(2)
	nic3, word3 := chooses(3)
	// With a slot for one more.
	own := d.define(t, tiny("own", nic1+nic2+"<controller type='pci' index='0' model='pcie-root'/><controller type='pci' model='pcie-root-port'/>", words(word1, word2)))
	more := d.define(t, tiny("more", nic3, words(word3)))
	both := d.define(t, tiny("pooled", pooled(macP, "mt")+pooled(macH, "hd"),
		words(nic(macP, "spoofchk='no' vlan='43' qos='5'"), nic(macH, "trust='yes' vlan='42' qos='3'"))))
	named := d.define(t, tiny("named", host.DirectNIC(macX, netdevs[0], "passthrough"), words(nic(macX, "trust='no'"))))

	d.start(t, own)
	for i, macvtap := range []string{"ldtown1", "ldtown2"} {
		require.Equal(t, netdevs[2+i], sh(t, "basename $(readlink -f /sys/class/net/%s/lower_*)", macvtap), "the pools' VFs are passed over")
	}
	err := d.DomainCreate(more)
	require.ErrorContains(t, err, `no virtual function of uplink "fast" (eth0) is free; libvirt's network`)
	t.Log(err)
	d.start(t, both)
	vf0, vf1 := shown(t, "eth0", 0), shown(t, "eth0", 1)
	require.Equal(t, true, vf0["trust"], "the network's word")
	require.Contains(t, fmt.Sprint(vf0["rate"]), "max_tx:70", "the network's word")
	require.Equal(t, false, vf0["spoofchk"], "the domain's")
	require.Contains(t, fmt.Sprint(vf0["vlan_list"]), "qos:5 vlan:43")
	require.Equal(t, macH, vf1["address"])
	require.Equal(t, true, vf1["trust"])
	require.Contains(t, fmt.Sprint(vf1["vlan_list"]), "qos:3 vlan:42")
	require.Contains(t, sh(t, "readlink /sys/bus/pci/devices/%s/driver", addresses[1]), "vfio-pci")

	// One that a domain names is no pool's any more, and the other way round.
	require.Error(t, d.DomainCreate(named))
	d.destroy(t, both)
	d.start(t, named)
	require.ErrorContains(t, d.DomainCreate(both), fmt.Sprintf(`network "mt": in use by another guest: it hands out %s, which domain "named" has`, netdevs[0]))
	d.destroy(t, named)

	// No hook of the domain runs when a NIC is plugged in; the network's does.
	require.Equal(t, false, shown(t, "eth0", 0)["trust"])
	require.NoError(t, d.DomainAttachDeviceFlags(own, pooled(macX, "mt"), uint32(libvirt.DomainAffectLive)))
	require.Equal(t, true, shown(t, "eth0", 0)["trust"])
	d.destroy(t, own)
	require.Equal(t, before, links(t))
	require.Empty(t, sh(t, "ls /run/libvirt-direct/domains"))
}
