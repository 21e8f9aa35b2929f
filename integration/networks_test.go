//go:build integration

package integration

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/guest"
	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
)

// network defines and starts one of libvirt's networks for the time of the test.
func (h *fixture) network(name, xml string) {
	h.T.Helper()
	h.MustWrite("/run/network.xml", 0o600, xml)
	h.MustVirsh("net-define", "/run/network.xml")
	h.MustVirsh("net-start", name)
}

// networkHook installs the hook for networks, before libvirtd is started.
func (h *fixture) networkHook() {
	h.T.Helper()
	h.MustRun("ln", "-s", "qemu", "/etc/libvirt/hooks/network")
}

// networked is an <interface type='network'> without network boot.
func networked(n int, network string) string {
	return fmt.Sprintf("<interface type='network'><mac address='%s'/><source network='%s'/><model type='virtio'/><rom enabled='no'/></interface>", mac(n), network)
}

// leases describes a guest number n on one of libvirt's networks, which asks for an
// address and pings a peer.
func leases(t *testing.T, name string, n int, words, peer string) *linux {
	t.Helper()
	img, err := image()
	require.NoError(t, err)
	hw, err := net.ParseMAC(mac(n))
	require.NoError(t, err)
	g := &linux{n: n, Domain: host.Domain{
		Name: name, MemoryMiB: 128, Kernel: img.KernelPath, Initrd: img.InitrdPath, SerialLog: filepath.Join(t.TempDir(), "console"),
		Cmdline:    guest.Cmdline{NICs: []guest.NIC{{MAC: hw, DHCP: true, Peer: netip.MustParseAddr(peer)}}}.String(),
		Interfaces: []string{networked(n, name)}, Metadata: metadata(n, words),
	}}
	g.console = &guest.Console{Path: g.SerialLog}
	return g
}

// lease is the address that the guest has got.
func (g *linux) lease(h *fixture) string {
	h.T.Helper()
	event, err := g.console.Wait(h.Ctx, "nic "+mac(g.n))
	require.NoError(h.T, err)
	return strings.Split(strings.Fields(event.Text)[2], "/")[0]
}

// libvirt's own networks with the hook installed: NAT, routed and isolated, each with a
// guest; nothing of ours is in the way, and words for the tap's port are obeyed.
func TestLibvirtNetworks(t *testing.T) {
	ctx := hosttest.Deadline(t, 3*time.Minute)
	h := newFixture(ctx, t, "a", "")
	l := newLAN(ctx, t, plug{h, "nica"})
	require.NoError(t, h.SetAddress(ctx, "nica", "10.55.0.9/24"))
	h.networkHook()
	h.MustStartLibvirtd()
	before := h.MustSnapshot()
	for i, forward := range []string{"nat", "route", ""} {
		name := []string{"nat", "routed", "isolated"}[i]
		if forward != "" {
			forward = "<forward mode='" + forward + "'/>"
		}
		h.network(name, fmt.Sprintf("<network><name>%s</name>%s<bridge name='virbr%[3]d' delay='0'/><ip address='192.168.%[4]d.1' netmask='255.255.255.0'>"+
			"<dhcp><range start='192.168.%[4]d.10' end='192.168.%[4]d.20'/></dhcp></ip></network>", name, forward, i, 150+i))
	}
	// The peer knows the way to the routed and the isolated network, and none to NAT's.
	_, err := l.Run(ctx, "sh", "-c", "ip route add 192.168.151.0/24 via 10.55.0.9; ip route add 192.168.152.0/24 via 10.55.0.9")
	require.NoError(t, err)
	nat := leases(t, "nat", 1, "", peerAddr)
	routed := leases(t, "routed", 2, "isolated='yes' hairpin='yes'", peerAddr)
	isolated := leases(t, "isolated", 3, "", peerAddr)
	guests := []*linux{nat, routed, isolated}
	begin := time.Now()
	for _, g := range guests {
		h.MustDefine(g.Domain)
		h.start(g.Name)
	}
	for i, g := range guests {
		address := g.lease(h)
		t.Logf("%s: lease %s after %v", g.Name, address, time.Since(begin).Round(100*time.Millisecond))
		require.True(t, strings.HasPrefix(address, fmt.Sprintf("192.168.%d.1", 150+i)), address)
		switch g {
		case nat:
			g.reports(l, "ping "+peerAddr+" ok")
			require.Error(t, l.ping("-4", address), "the peer has no route")
		case routed:
			g.reports(l, "ping "+peerAddr+" ok")
			require.NoError(t, l.ping("-4", address), "both ways")
		case isolated:
			g.reports(l, "ping "+peerAddr+" lost")
			require.Error(t, l.ping("-4", address), "libvirt's firewall keeps the peer out")
		}
	}
	port := "/sys/class/net/" + h.tap("routed") + "/brport/"
	require.Equal(t, "1\n1\n0\n", h.MustRun("cat", port+"isolated", port+"hairpin_mode", port+"bpdu_guard"))
	for _, g := range guests {
		h.stop(g.Name)
		h.MustVirsh("net-destroy", g.Name)
	}
	h.RequireUnchanged(before)
}

// libvirt's pool does not hand out a device that a hook-owned NIC stands on, and does so
// once that guest has ended. libvirt alone would start the second guest's NIC and fail
// with an errno, or for a whole function take it from under the first.
func TestPoolBesideHookOwned(t *testing.T) {
	ctx := hosttest.Deadline(t, 2*time.Minute)
	h := newFixture(ctx, t, "a", "")
	newLAN(ctx, t, plug{h, "nica"})
	h.networkHook()
	h.MustStartLibvirtd()
	h.network("pool", "<network><name>pool</name><forward mode='passthrough'><interface dev='nica'/></forward></network>")
	before := h.MustSnapshot()
	own := tiny("own", direct(1, "nica", "passthrough"))
	own.Metadata = metadata(1, "own='hook'")
	h.rewrite(own)
	h.MustDefine(tiny("pooled", networked(2, "pool")))
	for range 2 {
		h.start("own")
		held := h.MustSnapshot()
		_, err := h.Virsh(ctx, "start", "pooled")
		require.ErrorContains(t, err, `libvirt-direct: port-created: network "pool": in use by another guest: it hands out nica, which domain "own" has; take it out of the network, or stop that domain`)
		require.Empty(t, held.Diff(h.MustSnapshot()))
		h.stop("own")
		h.start("pooled")
		require.Len(t, h.macvtaps(), 1)
		for _, m := range h.macvtaps() {
			require.Equal(t, "nica", m["parent"])
			require.Equal(t, "passthru", m["mode"])
		}
		_, err = h.Virsh(ctx, "start", "own")
		require.Error(t, err)
		h.stop("pooled")
	}

	// The other modes pass through as they are, but for what the words ask.
	modes := map[string]string{mac(3): "bridge", mac(4): "private", mac(5): "vepa"}
	all := tiny("all")
	for i, mode := range []string{"bridge", "private", "vepa"} {
		h.network(mode, fmt.Sprintf("<network><name>%[1]s</name><forward mode='%[1]s'><interface dev='nica'/></forward></network>", mode))
		all.Interfaces = append(all.Interfaces, networked(3+i, mode))
	}
	all.Metadata = metadata(5, "allmulticast='yes'")
	h.MustDefine(all)
	h.start("all")
	for name, m := range h.macvtaps() {
		require.Equal(t, modes[m["mac"]], m["mode"])
		flags := h.MustRun("ip", "link", "show", name)
		require.Equal(t, m["mac"] == mac(5), strings.Contains(flags, "ALLMULTI"), flags)
	}
	require.Len(t, h.macvtaps(), 3)
	h.stop("all")
	h.RequireUnchanged(before)
}
