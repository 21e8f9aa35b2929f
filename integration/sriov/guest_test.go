//go:build integration

package sriov

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/guest"
	"libvirt-direct/integration/guest/kernel"
	"libvirt-direct/integration/host"
)

// A guest with a VF itself and a macvtap on another boots Linux and pings through both
// over the second card, which sees VLAN and priority that the words have asked for.
// It is one guest for the sake of time: emulated in an emulation, it boots for a minute
// and a half on an idle machine.
func TestGuestTalksOverVFs(t *testing.T) {
	cache, err := kernel.CacheDir()
	require.NoError(t, err)
	image, err := guest.Prepare(context.Background(), cache, os.Stderr)
	require.NoError(t, err)
	installHook(t, "qemu", configuration)
	libvirtd(t)
	vfs(t, "eth0", 2)
	sh(t, `ip netns add far && ip link set eth1 netns far && modprobe 8021q
		for v in 42 43; do ip -n far link add link eth1 name eth1.$v type vlan id $v; ip -n far addr add 10.0.$v.1/24 dev eth1.$v; done
		for l in eth1 eth1.42 eth1.43; do ip -n far link set $l up; done`)
	t.Cleanup(func() {
		sh(t, "ip -n far link del eth1.42; ip -n far link del eth1.43; ip -n far link set eth1 netns 1 name eth1; ip netns del far")
	})
	before := links(t)
	address, old := device(t, "eth0", 0)
	_, netdev := device(t, "eth0", 1)

	var nics []guest.NIC
	for mac, vlan := range map[string]byte{macH: 42, macP: 43} {
		hw, err := net.ParseMAC(mac)
		require.NoError(t, err)
		nics = append(nics, guest.NIC{
			MAC: hw, Addr: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, vlan, 2}), 24), Peer: netip.AddrFrom4([4]byte{10, 0, vlan, 1}),
		})
	}
	define(t, host.Domain{
		Name: "linux", MemoryMiB: 160, Kernel: image.KernelPath, Initrd: image.InitrdPath, SerialLog: "/run/linux.log",
		Cmdline:    guest.Cmdline{NICs: nics}.String(),
		Interfaces: []string{hostdev(macH, address, "<vlan><tag id='42'/></vlan>"), host.DirectNIC(macP, netdev, "passthrough")},
		Metadata:   words(nic(macH, "qos='3' trust='yes' spoofchk='no' maxrate='100'"), nic(macP, "profile='gold'")),
	})
	capture := exec.Command("ip", "netns", "exec", "far", "tcpdump", "-Z", "root", "-U", "-enl", "-i", "eth1", "vlan and icmp")
	wire, err := os.Create("/run/wire")
	require.NoError(t, err)
	defer wire.Close()
	capture.Stdout = wire
	require.NoError(t, capture.Start())
	t.Cleanup(func() { capture.Process.Kill(); capture.Wait() })
	start := time.Now()
	virsh(t, "start", "linux")
	t.Logf("started after %v", time.Since(start).Round(time.Second))

	vf0, vf1 := shown(t, "eth0", 0), shown(t, "eth0", 1)
	t.Logf("VF 0 %v", vf0)
	t.Logf("VF 1 %v", vf1)
	require.Equal(t, macH, vf0["address"])
	require.Equal(t, true, vf0["trust"])
	require.Equal(t, false, vf0["spoofchk"])
	require.Contains(t, fmt.Sprint(vf0["vlan_list"]), "qos:3 vlan:42")
	require.Contains(t, fmt.Sprint(vf1["vlan_list"]), "qos:5 vlan:43")
	require.Contains(t, sh(t, "readlink /sys/bus/pci/devices/%s/driver", address), "vfio-pci")
	status := sh(t, "%s status", program("libvirt-direct"))
	t.Log(status)
	require.Contains(t, status, `: domain "linux"`)

	for _, vlan := range []int{42, 43} {
		for text := ""; !strings.Contains(text, fmt.Sprintf("guest: ping 10.0.%d.1 ok", vlan)); time.Sleep(time.Second) {
			if time.Since(start) > 7*time.Minute {
				t.Fatalf("the guest does not ping; it says:\n%s\n%s", text, sh(t, "cat /run/wire; ip -d link show eth0"))
			}
			b, _ := os.ReadFile("/run/linux.log")
			text = string(b)
		}
		t.Logf("pings in VLAN %d after %v", vlan, time.Since(start).Round(time.Second))
	}
	require.Eventually(t, func() bool {
		seen, _ := os.ReadFile("/run/wire")
		return strings.Contains(string(seen), "vlan 42, p 3") && strings.Contains(string(seen), "vlan 43, p 5")
	}, 10*time.Second, 100*time.Millisecond, "the tags are on the wire")
	t.Log(sh(t, "grep -m1 'vlan 42, p 3' /run/wire; grep -m1 'vlan 43, p 5' /run/wire"))

	virsh(t, "destroy", "linux")
	// Without udev the VF's new network device takes the lowest name that is free,
	// which is that of the card that is in the other namespace.
	if _, name := device(t, "eth0", 0); name != old {
		t.Logf("%s came back as %s", old, name)
		sh(t, "ip link set %s name %s", name, old)
	}
	require.Equal(t, before, links(t), "all is as it was")
	require.Empty(t, sh(t, "ls /run/libvirt-direct/domains"))
}
