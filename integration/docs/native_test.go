//go:build integration

package docs_test

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/docs"
	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
)

// built returns a folder with the programs.
func built(t *testing.T) string {
	t.Helper()
	hosttest.Require(t, "go")
	dir := t.TempDir()
	require.NoError(t, hosttest.Build(dir, map[string]string{
		"libvirt-direct": "cmd/libvirt-direct", "vdpd": "vdp/vdpd", "qemu-hook": "hooks/qemu", "qemu-direct-helper": "helper",
	}))
	return dir
}

func TestFirstHourDesktop(t *testing.T) {
	ctx := hosttest.Deadline(t, 4*time.Minute)
	h := newFixture(ctx, t, "desk", built(t))
	lan := hosttest.NewPeer(ctx, t, host.Options{Name: "lan"})
	require.NoError(t, host.Wire(ctx, h.Peer, "eth0", lan, "wire0"))
	dhcp, err := lan.StartDHCP(ctx, host.DHCPConfig{
		Interface: "wire0", Address: netip.MustParsePrefix("10.61.0.1/24"), First: netip.MustParseAddr("10.61.0.10"), Last: netip.MustParseAddr("10.61.0.99"),
	})
	require.NoError(t, err)
	h.MustRun("sh", "-c", "echo alice:x:64321:64321::/run/docs/home-alice:/bin/sh >>/etc/passwd; echo alice:x:64321: >>/etc/group; getent group kvm >/dev/null || echo kvm:x:64322: >>/etc/group; rm -rf /etc/qemu; "+
		"chgrp kvm "+helper+"; chmod 4750 "+helper)
	h.MustStartLibvirtd()
	root := h.shell("root")
	alice := h.shell("alice", "setpriv", "--reuid=64321", "--regid=64321", "--groups="+strings.Split(h.MustRun("getent", "group", "kvm"), ":")[2])
	var mine []string // her addresses, of which each guest takes the next
	docs.Follow(t, "../../docs/first-hour-desktop.md", func(b docs.Block, output string) {
		if mine == nil && strings.Contains(b.Text, "--list") {
			mine = strings.Fields(output)[3:]
		}
		if b.Says("background") || strings.Contains(b.Text, "virsh start") {
			mac, err := net.ParseMAC(mine[0])
			require.NoError(t, err)
			_, err = dhcp.WaitLease(ctx, mac)
			require.NoError(t, err, "the guest's firmware asks for an address")
			mine = mine[1:]
		}
	}, alice, root)
}

func TestFirstHourFleet(t *testing.T) {
	ctx := hosttest.Deadline(t, 4*time.Minute)
	programs := built(t)
	a, b := newFixture(ctx, t, "a", programs), newFixture(ctx, t, "b", programs)
	lan := hosttest.NewPeer(ctx, t, host.Options{Name: "lan"})
	require.NoError(t, host.Wire(ctx, a.Peer, "eno1", lan, "p1"))
	require.NoError(t, host.Wire(ctx, b.Peer, "enp3s0f0", lan, "p2"))
	require.NoError(t, lan.Bridge(ctx, "br0", host.Port{Name: "p1"}, host.Port{Name: "p2"}))
	require.NoError(t, host.Wire(ctx, a.Peer, "mgmt", b.Peer, "mgmt"))
	for h, address := range map[*fixture]string{a: "10.99.0.1", b: "10.99.0.2"} {
		require.NoError(t, h.SetAddress(ctx, "mgmt", address+"/24"))
		h.MustRun("sh", "-c", "sed -i '/127.0.1.1/d' /etc/hosts; printf '10.99.0.1 a\\n10.99.0.2 b\\n' >>/etc/hosts")
		h.MustStartLibvirtd()
	}
	hosttest.Require(t, "ovsdb-server", "ovs-vswitchd", "ovn-northd", "ovn-controller", "ovn-nbctl")
	vswitch, err := a.StartOVS(ctx)
	require.NoError(t, err)
	require.NoError(t, vswitch.AddBridge(ctx, "underlay"))
	require.NoError(t, a.SetAddress(ctx, "underlay", "10.98.0.1/24"))
	require.NoError(t, vswitch.StartOVNCentral(ctx))
	require.NoError(t, vswitch.JoinOVN(ctx, "10.98.0.1", "10.98.0.1"))
	docs.Follow(t, "../../docs/first-hour-fleet.md", nil, a.shell("a"), b.shell("b"))
}

// The examples of the command's page, and of --help, run as they stand there. What they
// start is replaced by a program that prints its arguments.
func TestExamplesOfTheCommands(t *testing.T) {
	ctx := hosttest.Deadline(t, 3*time.Minute)
	h := newFixture(ctx, t, "h", built(t))
	lan := hosttest.NewPeer(ctx, t, host.Options{Name: "lan"})
	require.NoError(t, host.Wire(ctx, h.Peer, "eth0", lan, "wire0"))
	h.MustWrite("/etc/libvirt-direct/helper.conf", 0o644, "[lan]\nkind = macvtap\nlower = eth0\nallow = uid:0\n")
	h.MustStartLibvirtd()
	vm1 := host.Domain{Name: "vm1", Interfaces: []string{host.DirectNIC("52:54:00:00:00:01", "eth0", "bridge", "<vlan><tag id='100'/></vlan>")}}
	require.NoError(t, h.Define(ctx, vm1.XML()))
	clone := host.Domain{
		Name: "vm2", Interfaces: []string{host.DirectNIC("52:54:00:00:00:02", "eth0", "bridge")},
		Metadata: "<ld:nics xmlns:ld='urn:libvirt-direct:1'><ld:nic mac='52:54:00:00:00:01' vlan='100'/></ld:nics>",
	}
	require.NoError(t, h.Define(ctx, clone.XML()))
	h.MustRun("mkdir", "-p", "/etc/qemu")
	for _, program := range []string{"qemu-system-x86_64", "cloud-hypervisor", "dot"} {
		h.script(program, `echo "$@"`)
	}
	root := h.shell("root")
	h.MustWrite("/run/docs/home-root/vm1.xml", 0o644, strings.Replace(vm1.XML(), "vm1", "vm1b", 1))

	page, err := os.ReadFile("../../docs/commands.md")
	require.NoError(t, err)
	ran := 0
	for _, b := range docs.Blocks(string(page)) {
		if strings.Contains(b.Text, " vf set ") || strings.Contains(b.Text, " vsi associate ") {
			continue // they need VFs and a switch: the first hours of a host and at a switch have these
		}
		ran++
		out := root.Type(t, b)
		if strings.Contains(b.Text, "libvirt-direct run") {
			require.Regexp(t, `tap,id=n0,fd=\d+ -device virtio-net-pci,netdev=n0,mac=52:`, out)
			require.Regexp(t, `fds=\d+:\d+:\d+:\d+ `, out)
			require.Regexp(t, `--net fd=\d+,mac=52:`, out)
		}
	}
	require.GreaterOrEqual(t, ran, 4)
	require.Contains(t, h.MustRun("cat", "/run/docs/home-root/nics.svg"), "<svg ")
	require.Equal(t, "-Tpdf\n", h.MustRun("cat", "/run/docs/home-root/nics.pdf"))
	for _, name := range []string{"vm1b", "vm2"} {
		require.Contains(t, h.MustRun("virsh", "dumpxml", name), "eth0.100", name)
	}
}
