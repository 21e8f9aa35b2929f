//go:build integration

package sriov

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/guest"
	"libvirt-direct/integration/guest/kernel"
	"libvirt-direct/integration/host"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/poll"
)

// quick are kernel parameters of guests that are emulated in an emulation, where it counts
// what a kernel does at its start.
var quick = []string{"initcall_blacklist=crypto_kdf108_init,init_kprobe_trace"}

// A guest with a VF itself and one with a macvtap on another, at once, boot Linux and ping
// over the second card, which sees VLAN and priority that the words have asked for.
func TestGuestsTalkOverVFs(t *testing.T) {
	cache, err := kernel.CacheDir()
	require.NoError(t, err)
	image, err := guest.Prepare(context.Background(), cache, os.Stderr)
	require.NoError(t, err)
	installHook(t, "qemu", configuration)
	d := libvirtd(t)
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

	linux := func(name, mac string, vlan byte, iface, w string) libvirt.Domain {
		hw, err := net.ParseMAC(mac)
		require.NoError(t, err)
		n := guest.NIC{MAC: hw, Addr: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, vlan, 2}), 24), Peer: netip.AddrFrom4([4]byte{10, 0, vlan, 1})}
		return d.define(t, host.Domain{
			Name: name, MemoryMiB: 128, Kernel: image.KernelPath, Initrd: image.InitrdPath, SerialLog: "/run/" + name + ".log",
			Cmdline:    guest.Cmdline{NICs: []guest.NIC{n}, Extra: quick}.String(),
			Interfaces: []string{iface}, Metadata: words(nic(mac, w)),
		})
	}
	guests := []libvirt.Domain{
		linux("hostdev", macH, 42, hostdev(macH, address, "<vlan><tag id='42'/></vlan>"), "qos='3' trust='yes' spoofchk='no' maxrate='100'"),
		linux("macvtap", macP, 43, host.DirectNIC(macP, netdev, "passthrough"), "profile='gold'"),
	}
	capture := exec.Command("ip", "netns", "exec", "far", "tcpdump", "-Z", "root", "-U", "-enl", "-i", "eth1", "vlan and icmp")
	wire, err := os.Create("/run/wire")
	require.NoError(t, err)
	defer wire.Close()
	capture.Stdout = wire
	require.NoError(t, capture.Start())
	t.Cleanup(func() { capture.Process.Kill(); capture.Wait() })
	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	atOnce(t, guests, d.DomainCreate)
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
	showsOwners(t)

	for name, vlan := range map[string]int{"hostdev": 42, "macvtap": 43} {
		var said []byte
		err := poll.Until(ctx, time.Second, func() (bool, error) {
			said, _ = os.ReadFile("/run/" + name + ".log")
			return bytes.Contains(said, fmt.Appendf(nil, "guest: ping 10.0.%d.1 ok", vlan)), nil
		})
		if err != nil {
			t.Fatalf("%s does not ping (%v); it says:\n%s\n%s", name, err, said, sh(t, "cat /run/wire; ip -d link show eth0"))
		}
		t.Logf("%s pings in VLAN %d after %v", name, vlan, time.Since(start).Round(time.Second))
	}
	require.Eventually(t, func() bool {
		seen, _ := os.ReadFile("/run/wire")
		return strings.Contains(string(seen), "vlan 42, p 3") && strings.Contains(string(seen), "vlan 43, p 5")
	}, 10*time.Second, 100*time.Millisecond, "the tags are on the wire")
	t.Log(sh(t, "grep -m1 'vlan 42, p 3' /run/wire; grep -m1 'vlan 43, p 5' /run/wire"))

	atOnce(t, guests, d.DomainDestroy)
	// Without udev the VF's new network device takes the lowest name that is free, which
	// is that of the card that is in the other namespace: the hook renames it back.
	_, name := device(t, "eth0", 0)
	require.Equal(t, old, name)
	require.Equal(t, before, links(t), "all is as it was")
	require.Empty(t, sh(t, "ls /run/libvirt-direct/domains"))
}

// showsOwners checks status while both guests run.
func showsOwners(t *testing.T) {
	t.Helper()
	text := sh(t, "%s status", program("libvirt-direct"))
	t.Log(text)
	require.Contains(t, text, `: domain "hostdev"`)
	var status struct {
		PFs []struct {
			Name, Driver string
			VFs          []struct {
				Owner        string
				Wanted, Read link.VFSettings
			}
		} `json:"physical_functions"`
	}
	require.NoError(t, json.Unmarshal([]byte(sh(t, "%s status --json", program("libvirt-direct"))), &status))
	require.Len(t, status.PFs, 1)
	pf := status.PFs[0]
	require.Equal(t, "eth0", pf.Name)
	require.Equal(t, "igb", pf.Driver)
	require.Len(t, pf.VFs, 2)
	for i, want := range []struct {
		owner string
		vlan  link.VFVLAN
	}{
		{"hostdev", link.VFVLAN{ID: 42, QoS: 3, Proto: link.Dot1Q}},
		{"macvtap", link.VFVLAN{ID: 43, QoS: 5, Proto: link.Dot1Q}},
	} {
		vf := pf.VFs[i]
		require.Equal(t, want.owner, vf.Owner)
		require.Equal(t, want.vlan, *vf.Wanted.VLAN)
		require.Equal(t, want.vlan, *vf.Read.VLAN)
		require.True(t, *vf.Wanted.Trust)
		require.True(t, *vf.Read.Trust)
	}
}
