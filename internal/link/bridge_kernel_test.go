//go:build integration

package link

import (
	"fmt"
	"net"
	"os/exec"
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
	require.Equal(t, "isolated off, learning on, hairpin off, bpduguard off", tap.Port.String())
	require.NoError(t, c.SetPortFlags(ctx, tap.Index, PortFlags{Isolated: &on, Learning: &off, BPDUGuard: &on}))
	tap, err = c.ByName(ctx, "tap0")
	require.NoError(t, err)
	require.Equal(t, "isolated on, learning off, hairpin off, bpduguard on", tap.Port.String())
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
	// The bridge learns of a port's carrier some time after it, and until then drops what comes.
	const forwarding = 3
	for _, name := range []string{"uplink", "vnet0"} {
		require.Eventually(t, func() bool {
			l, err := c.ByName(ctx, name)
			return err == nil && l.Port != nil && l.Port.State == forwarding
		}, 10*time.Second, time.Millisecond)
	}
	const lldp = 0x88cc
	socket := func(name string) int {
		l, err := net.InterfaceByName(name)
		require.NoError(t, err)
		s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK, 0)
		require.NoError(t, err)
		t.Cleanup(func() { unix.Close(s) })
		require.NoError(t, unix.Bind(s, &unix.SockaddrLinklayer{Protocol: lldp>>8 | lldp&0xff<<8, Ifindex: l.Index}))
		require.NoError(t, unix.SetsockoptPacketMreq(s, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP,
			&unix.PacketMreq{Ifindex: int32(l.Index), Type: unix.PACKET_MR_ALLMULTI}))
		return s
	}
	wire, uplink, guest := socket("wire"), socket("uplink"), socket("guest")
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
