//go:build integration || vm

package integration

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/guest"
	"libvirt-direct/integration/guest/kernel"
	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
)

const (
	peerAddr  = "10.55.0.1"
	peerAddr6 = "fd55::1"
)

// A plug is a host's NIC to be connected to a peer.
type plug struct {
	h   *fixture
	nic string
}

// A lan is what is at the other end of the hosts' NICs: a switch that reflects, as
// VEPA wants it, and in it the peer that the guests talk to.
type lan struct {
	*host.Peer
	t   *testing.T
	ctx context.Context
}

func newLAN(ctx context.Context, t *testing.T, plugs ...plug) *lan {
	t.Helper()
	hosttest.Require(t, "busybox")
	l := &lan{hosttest.NewPeer(ctx, t, host.Options{Name: "peer"}), t, ctx}
	var ports []host.Port
	for i, p := range plugs {
		port := host.Port{Name: fmt.Sprintf("p%d", i), Hairpin: true}
		require.NoError(t, host.Wire(ctx, p.h.Peer, p.nic, l.Peer, port.Name))
		ports = append(ports, port)
	}
	require.NoError(t, l.Bridge(ctx, "br0", ports...))
	require.NoError(t, l.SetAddress(ctx, "br0", peerAddr+"/24"))
	_, err := l.Run(ctx, "sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/br0/disable_ipv6; ip addr add "+peerAddr6+"/64 dev br0 nodad")
	require.NoError(t, err)
	return l
}

// in is the same lan for a subtest.
func (l *lan) in(t *testing.T) *lan { return &lan{l.Peer, t, l.ctx} }

// ping pings an address of a family, "-4" or "-6", once and with a second's patience.
func (l *lan) ping(family, to string) error {
	_, err := l.Run(l.ctx, "busybox", "ping", family, "-c", "1", "-W", "1", to)
	return err
}

var image = sync.OnceValues(func() (*guest.Image, error) {
	cache, err := kernel.CacheDir()
	if err != nil {
		return nil, err
	}
	return guest.Prepare(context.Background(), cache, os.Stderr)
})

// A linux is a guest that talks, number n on the lan.
type linux struct {
	host.Domain
	n       int
	console *guest.Console
}

func mac(n int) string   { return fmt.Sprintf("52:54:00:55:00:%02x", n) }
func addr(n int) string  { return fmt.Sprintf("10.55.0.%d", 10+n) }
func addr6(n int) string { return fmt.Sprintf("fd55::%d", 10+n) }

// newLinux describes a guest with one NIC, which has the MAC mac(n) and pings the
// peer and whoever else is named. words are our metadata's for the NIC.
func newLinux(t *testing.T, name string, n int, nic, words string, pings ...string) *linux {
	t.Helper()
	img, err := image()
	require.NoError(t, err)
	hw, err := net.ParseMAC(mac(n))
	require.NoError(t, err)
	cmdline := guest.Cmdline{NICs: []guest.NIC{{
		MAC: hw, Addr: netip.MustParsePrefix(addr(n) + "/24"), Peer: netip.MustParseAddr(peerAddr),
		Addr6: netip.MustParsePrefix(addr6(n) + "/64"),
	}}}
	for _, p := range pings {
		cmdline.NICs = append(cmdline.NICs, guest.NIC{MAC: hw, Peer: netip.MustParseAddr(p)})
	}
	g := &linux{
		Domain: host.Domain{
			Name: name, MemoryMiB: 128, Kernel: img.KernelPath, Initrd: img.InitrdPath, Cmdline: cmdline.String(),
			SerialLog: filepath.Join(t.TempDir(), "console"), Interfaces: []string{nic}, Metadata: metadata(n, words),
		},
		n: n,
	}
	g.console = &guest.Console{Path: g.SerialLog}
	return g
}

// metadata is our element with one <nic>, or nothing when there are no words.
func metadata(n int, words string) string {
	if words == "" {
		return ""
	}
	return fmt.Sprintf("<ld:nics xmlns:ld='urn:libvirt-direct:1'><ld:nic mac='%s' %s/></ld:nics>", mac(n), words)
}

// talks waits until the guest reaches the peer, from now on, and the peer the guest.
func (g *linux) talks(l *lan) {
	l.t.Helper()
	g.reports(l, "ping "+peerAddr+" ok")
	require.NoError(l.t, l.ping("-4", addr(g.n)))
}

// reports waits for a line of the guest's report, from now on.
func (g *linux) reports(l *lan, text string) {
	l.t.Helper()
	require.NoError(l.t, g.console.Skip())
	_, err := g.console.Wait(l.ctx, text)
	require.NoError(l.t, err)
}

// tiny is a guest that runs no more than its firmware.
func tiny(name string, nics ...string) host.Domain {
	return host.Domain{Name: name, MemoryMiB: 32, Interfaces: nics}
}

// direct is an <interface type='direct'> without network boot.
func direct(n int, dev, mode string, more ...string) string {
	return host.DirectNIC(mac(n), dev, mode, append(more, "<rom enabled='no'/>")...)
}
