//go:build integration

package link

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestBridgePort(t *testing.T) {
	ctx, c, ip := namespace(t)
	ip("link", "add", "br0", "type", "bridge", "stp_state", "1", "group_fwd_mask", "0x4000")
	ip("link", "add", "tap0", "type", "veth", "peer", "name", "wire")
	br, err := c.ByName(ctx, "br0")
	require.NoError(t, err)
	require.Equal(t, &Bridge{STP: true, GroupFwdMask: 0x4000}, br.Bridge)
	tap, err := c.ByName(ctx, "tap0")
	require.NoError(t, err)
	require.Nil(t, tap.Port)
	on, off := true, false
	require.Error(t, c.SetPortFlags(ctx, tap.Index, PortFlags{Isolated: &on}), "not yet in a bridge")

	ip("link", "set", "tap0", "master", "br0")
	tap, err = c.ByName(ctx, "tap0")
	require.NoError(t, err)
	require.Equal(t, br.Index, tap.Master)
	require.Equal(t, "isolated off, learning on, hairpin off, bpduguard off, flood on, mcastflood on, neighsuppress off, locked off", tap.Port.String())
	require.NoError(t, c.SetPortFlags(ctx, tap.Index, PortFlags{Isolated: &on, Learning: &off, BPDUGuard: &on, NeighSuppress: &on}))
	tap, err = c.ByName(ctx, "tap0")
	require.NoError(t, err)
	require.Equal(t, "isolated on, learning off, hairpin off, bpduguard on, flood on, mcastflood on, neighsuppress on, locked off", tap.Port.String())
	for range 2 {
		require.NoError(t, c.AddPortMAC(ctx, tap.Index, "52:54:00:00:00:01"))
	}
	out, err := exec.Command("bridge", "fdb", "show", "brport", "tap0").CombinedOutput()
	require.NoError(t, err)
	require.Contains(t, string(out), "52:54:00:00:00:01 sticky master br0 static")

	// The guard sees a BPDU only where the bridge runs a spanning tree.
	for _, l := range []string{"br0", "tap0", "wire"} {
		ip("link", "set", l, "up")
	}
	wire, err := net.InterfaceByName("wire")
	require.NoError(t, err)
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	require.NoError(t, err)
	defer unix.Close(s)
	// An 802.3 frame with LLC's 42-42-03 and a configuration BPDU of zeros.
	bpdu := append([]byte{0x01, 0x80, 0xc2, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 38, 0x42, 0x42, 0x03}, make([]byte, 43)...)
	const disabled = 0
	for _, stp := range []string{"0", "1"} {
		ip("link", "set", "br0", "type", "bridge", "stp_state", stp)
		require.NoError(t, unix.Sendto(s, bpdu, 0, &unix.SockaddrLinklayer{Ifindex: wire.Index}))
		state := func() int {
			tap, err := c.ByName(ctx, "tap0")
			require.NoError(t, err)
			return tap.Port.State
		}
		if stp == "1" {
			require.Eventually(t, func() bool { return state() == disabled }, 10*time.Second, time.Millisecond)
		} else {
			require.NotEqual(t, disabled, state())
		}
	}
}

// forwards waits until ports forward: a bridge learns of a port's carrier some time after
// it, and until then drops what comes.
func forwards(ctx context.Context, t *testing.T, c *Conn, ports ...string) {
	t.Helper()
	const forwarding = 3
	for _, name := range ports {
		require.Eventually(t, func() bool {
			l, err := c.ByName(ctx, name)
			return err == nil && l.Port != nil && l.Port.State == forwarding
		}, 10*time.Second, time.Millisecond)
	}
}

// socket hears the frames of one EtherType that come to a device, whoever they are for.
func socket(t *testing.T, name string, proto uint16) int {
	t.Helper()
	l, err := net.InterfaceByName(name)
	require.NoError(t, err)
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK, 0)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Close(s) })
	require.NoError(t, unix.Bind(s, &unix.SockaddrLinklayer{Protocol: proto>>8 | proto<<8, Ifindex: l.Index}))
	require.NoError(t, unix.SetsockoptPacketMreq(s, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP,
		&unix.PacketMreq{Ifindex: int32(l.Index), Type: unix.PACKET_MR_PROMISC}))
	return s
}

// What ports pass on. Of two guests in a bridge, the first one is to have the address "own",
// and the second one "other".
func TestPortTraffic(t *testing.T) {
	ctx, c, ip := namespace(t)
	ip("link", "add", "br0", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
	var guests, ports []int
	for _, n := range []string{"0", "1"} {
		ip("link", "add", "vnet"+n, "type", "veth", "peer", "name", "guest"+n)
		ip("link", "set", "vnet"+n, "master", "br0")
		port, err := c.ByName(ctx, "vnet"+n)
		require.NoError(t, err)
		ip("link", "set", "vnet"+n, "up")
		ip("link", "set", "guest"+n, "up")
		guests, ports = append(guests, socket(t, "guest"+n, experimental)), append(ports, port.Index)
	}
	ip("link", "set", "br0", "up")
	forwards(ctx, t, c, "vnet0", "vnet1")

	const own, other, spoofed, nobody = "52:54:00:00:00:01", "52:54:00:00:00:02", "52:54:00:00:00:03", "52:54:00:00:00:04"
	const all, group, linkLocal = "ff:ff:ff:ff:ff:ff", "01:00:5e:01:02:03", "01:80:c2:00:00:03"
	last := byte(0)
	send := func(from int, src, dst string) byte {
		last++
		s, err := net.ParseMAC(src)
		require.NoError(t, err)
		d, err := net.ParseMAC(dst)
		require.NoError(t, err)
		_, err = unix.Write(guests[from], slices.Concat(d, s, []byte{experimental >> 8, experimental & 0xff, last}, make([]byte, 45)))
		require.NoError(t, err)
		return last
	}
	// passes says whether the other guest hears a frame, once it hears a second one, which has
	// a source that is good and goes to all.
	passes := func(from int, src, dst, good string) bool {
		asked, sure := send(from, src, dst), send(from, good, all)
		heard := map[byte]bool{}
		require.Eventually(t, func() bool {
			b := make([]byte, 100)
			for n, _, err := unix.Recvfrom(guests[1-from], b, 0); err == nil && n > 14; n, _, err = unix.Recvfrom(guests[1-from], b, 0) {
				heard[b[14]] = true
			}
			return heard[sure]
		}, 10*time.Second, time.Millisecond)
		return heard[asked]
	}
	on, off := true, false
	set := func(port int, flags PortFlags) { require.NoError(t, c.SetPortFlags(ctx, ports[port], flags)) }

	// Any address passes an open port, and the bridge learns it.
	require.True(t, passes(0, spoofed, all, own))
	// A lock keeps none that was learnt, and learns none from a frame that it lets pass.
	require.NoError(t, c.AddPortMAC(ctx, ports[0], own))
	set(0, PortFlags{Locked: &on, Learning: &off})
	require.False(t, passes(0, spoofed, all, own))
	require.True(t, passes(0, own, all, own))
	send(0, spoofed, linkLocal)
	require.False(t, passes(0, spoofed, all, own))
	// Nobody else takes the address away.
	require.True(t, passes(1, own, all, other))
	require.True(t, passes(0, own, all, own))
	require.True(t, passes(1, other, own, other))
	// With learning the lock would be none.
	set(0, PortFlags{Learning: &on})
	send(0, spoofed, linkLocal)
	require.True(t, passes(0, spoofed, all, own))
	set(0, PortFlags{Learning: &off, Locked: &off})

	for dst, flag := range map[string]func(v *bool) PortFlags{
		nobody: func(v *bool) PortFlags { return PortFlags{Flood: v} },
		group:  func(v *bool) PortFlags { return PortFlags{MulticastFlood: v} },
	} {
		for _, v := range []*bool{&off, &on} {
			set(1, flag(v))
			require.Equal(t, *v, passes(0, own, dst, own), dst)
		}
	}
	set(1, PortFlags{Flood: &off})
	require.True(t, passes(0, own, other, own), "which the bridge has learnt")
}

// experimental is the EtherType for local experiments (IEEE 802, table 9-2).
const experimental = 0x88b5

// Who hears LLDP from the switch when the uplink is a port of a bridge: lldpad's kind of
// socket on the uplink, and guests. This is what `libvirt-direct check` tells people.
func TestBridgeAndLLDP(t *testing.T) {
	ctx, c, ip := namespace(t)
	ip("link", "add", "uplink", "type", "veth", "peer", "name", "wire")
	ip("link", "add", "vnet0", "type", "veth", "peer", "name", "guest")
	ip("link", "add", "br0", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
	for _, port := range []string{"uplink", "vnet0"} {
		ip("link", "set", port, "master", "br0")
	}
	for _, l := range []string{"br0", "uplink", "wire", "vnet0", "guest"} {
		ip("link", "set", l, "up")
	}
	forwards(ctx, t, c, "uplink", "vnet0")
	const lldp = 0x88cc
	wire, uplink, guest := socket(t, "wire", lldp), socket(t, "uplink", lldp), socket(t, "guest", lldp)
	hears := func(s int) bool {
		n, _, err := unix.Recvfrom(s, make([]byte, 100), 0)
		return err == nil && n > 0
	}
	const customer, nearest = 0x00, 0x0e
	for _, c := range []struct {
		options       []string
		to            byte
		uplink, guest bool
	}{
		{[]string{"stp_state", "0", "group_fwd_mask", "0"}, customer, false, true},
		{[]string{"stp_state", "0", "group_fwd_mask", "0"}, nearest, true, false},
		{[]string{"stp_state", "0", "group_fwd_mask", "0x4000"}, nearest, false, true},
		{[]string{"stp_state", "1", "group_fwd_mask", "0"}, customer, true, false},
	} {
		ip(append([]string{"link", "set", "br0", "type", "bridge"}, c.options...)...)
		frame := append([]byte{0x01, 0x80, 0xc2, 0, 0, c.to, 2, 0, 0, 0, 0, 1, lldp >> 8, lldp & 0xff}, make([]byte, 46)...)
		// One of them hears it; a frame that the other hears late fails the next case.
		_, err := unix.Write(wire, frame)
		require.NoError(t, err)
		what := fmt.Sprintf("%v, to …:%02x", c.options, c.to)
		heard := map[int]bool{}
		require.Eventually(t, func() bool {
			for _, s := range []int{uplink, guest} {
				heard[s] = heard[s] || hears(s)
			}
			return heard[uplink] || heard[guest]
		}, 10*time.Second, time.Millisecond, what)
		require.Equal(t, c.uplink, heard[uplink], what)
		require.Equal(t, c.guest, heard[guest], what)
	}
}
