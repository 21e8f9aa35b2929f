//go:build integration

package sriov

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host"
)

// The VF on the guest's node goes before those with lower numbers. It has a MAC from its
// PF and no trust, so that its driver takes no other while that is so.
func TestFreeVFOfTheNodeWithAFixedMAC(t *testing.T) {
	installHook(t, "qemu", configuration)
	vfs(t, "eth0", 3)
	address, _ := device(t, "eth0", 2)
	sh(t, "echo 0 >/sys/bus/pci/devices/%s/numa_node && ip link set eth0 vf 2 mac 02:aa:00:00:00:02", address)
	sh(t, "cd /sys/bus/pci/drivers/igbvf && echo %s >unbind && echo %s >bind", address, address) // it takes that MAC
	_, netdev := device(t, "eth0", 2)
	before := links(t)

	xml := host.Domain{
		Name: "life", UUID: lifeUUID,
		Interfaces: []string{"<interface type='ethernet'><mac address='" + macX + "'/><target dev='ldtlife' managed='no'/></interface>"},
		Metadata:   words(nic(macX, "own='hook' mode='passthrough' uplink='fast' vlan='44' qos='1'")),
	}.XML()
	l := newLife(t)
	xml = strings.Replace(xml, "<os>", "<numatune><memory mode='strict' nodeset='0'/></numatune>\n<os>", 1)
	require.NoError(t, os.WriteFile(l.file, []byte(xml), 0o600))
	require.NoError(t, l.run("prepare"))
	require.Equal(t, macX, sh(t, "cat /sys/class/net/ldtlife/address"))
	require.Contains(t, sh(t, "ip -d link show ldtlife"), "ldtlife@"+netdev)
	vf := shown(t, "eth0", 2)
	t.Log(vf)
	require.Equal(t, macX, vf["address"])
	require.Equal(t, false, vf["trust"])
	require.Contains(t, fmt.Sprint(vf["vlan_list"]), "qos:1 vlan:44")
	require.NoError(t, l.run("stopped"))
	require.NoError(t, l.run("release"))
	require.Equal(t, before, links(t))
	// Fixed again: it stays, whatever the VF wants.
	sh(t, "ip link set %s up && ip link set %s address %s; ip link set %s down", netdev, netdev, macX, netdev)
	require.Equal(t, "02:aa:00:00:00:02", shown(t, "eth0", 2)["address"])
}
