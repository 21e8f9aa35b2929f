//go:build integration

package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// What a guest hears: all that is for it or for all, and nothing that the host says there of its own accord.

// everyDevice are the kinds of device, as a request and the far end of the cable, for the profiles devices(lan).
var everyDevice = map[string]struct{ lan, request, far string }{
	"bridge.conf":      {lan, "br0", "b1"},
	"bridge tap":       {lan, "taps", "b1"},
	"bridge isolated":  {lan, "guests/" + alicesMAC, "b1"},
	"macvtap isolated": {lan, "lan/" + alicesMAC, "v1"},
	"macvtap plain":    {lan + "device = macvtap\n", "lan/" + alicesMAC, "v1"},
	"macvtap visible":  {lan + "visible = yes\n", "lan/" + alicesMAC, "v1"},
}

// eachDevice calls f with each of them, granted to alice, whose address is alicesMAC.
func eachDevice(t *testing.T, f func(t *testing.T, request, far string)) {
	t.Helper()
	for name, d := range everyDevice {
		t.Run(name, func(t *testing.T) {
			fabric(t)
			wire(t, "v0", "v1")
			acl(t, "allow br0\n")
			profiles(t, guests+taps+d.lan)
			f(t, d.request, d.far)
		})
	}
}

// multicasts are addresses that a guest hears without a word to the host.
var multicasts = map[string]string{
	"neighbour solicitation": "33:33:ff:00:00:0a",
	"mdns":                   "01:00:5e:00:00:fb",
	"mdns of IPv6":           "33:33:00:00:00:fb",
	"all nodes":              "33:33:00:00:00:01",
	"broadcast":              everybody,
	"unicast":                alicesMAC,
}

func requireHearsAll(t *testing.T, a *nic, far string) {
	t.Helper()
	a.mac = alicesMAC
	a.says(t, a.end(t, alicesMAC))
	var frames [][]byte
	var want []string
	for text, dst := range multicasts {
		want = append(want, text)
		frames = append(frames, eth(t, text, dst, router, experimental))
	}
	require.ElementsMatch(t, want, a.reads(t, far, frames...))
}

func TestGuestIsDeafToMulticast(t *testing.T) {
	eachDevice(t, func(t *testing.T, request, far string) {
		requireHearsAll(t, granted(t, alice, request), far)
	})
}

func TestGuestIsDeafToMulticastWithItsNeighbours(t *testing.T) {
	eachDevice(t, func(t *testing.T, request, far string) {
		a := granted(t, alice, request)
		granted(t, bob, strings.Replace(request, alicesMAC, bobsMAC, 1)).close()
		requireHearsAll(t, a, far)
	})
}

func TestGuestOfOpenVSwitchIsDeafToMulticast(t *testing.T) {
	for _, request := range []string{"guests/" + alicesMAC, "taps"} {
		t.Run(request, func(t *testing.T) {
			ovsFabric(t) // a new one: frames are lost while it takes down the port of the last one
			requireHearsAll(t, granted(t, alice, request), "b1")
		})
	}
}

// hostsDevices are those on which the host may say what it likes.
var hostsDevices = []string{"br0", "b0", "b1", "v0", "v1"}

const forwarding = "/proc/sys/net/ipv6/conf/all/forwarding"

// routes makes the host a router.
func routes(t testing.TB) {
	t.Helper()
	for _, path := range []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/default/forwarding", forwarding} {
		was, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, []byte("1"), 0o644))
		t.Cleanup(func() { require.NoError(t, os.WriteFile(path, was, 0o644)) })
	}
}

// outspoken returns when a device that is made now has told the routers' multicast group of itself: what has been up for
// longer has had its turn.
func outspoken(t testing.TB) {
	t.Helper()
	run(t, "ip", "link", "add", "loud", "type", "veth", "peer", "name", "loud1")
	defer func() { _ = exec.Command("ip", "link", "del", "loud").Run() }()
	run(t, "ip", "link", "set", "loud1", "up")
	there := ear(t, "loud1")
	run(t, "ip", "link", "set", "loud", "up")
	for {
		b := make([]byte, 2048)
		n, _, _, from, err := receiveMsg(there, b, make([]byte, 256))
		require.NoError(t, err, "a host that routes is silent")
		const report = 14 + 40 + 8 // behind a hop-by-hop header
		if n > report && b[report] == 143 && from.(*unix.SockaddrLinklayer).Pkttype != unix.PACKET_OUTGOING {
			return
		}
	}
}

// strange are the frames without a text that come neither from the router nor from one of the host's own devices.
func strange(t testing.TB, frames [][]byte) (out []string) {
	t.Helper()
	known := []string{router}
	for _, dev := range hostsDevices {
		known = append(known, hardwareAddress(t, dev))
	}
	for _, f := range frames {
		if from := net.HardwareAddr(f[6:12]).String(); textOf(f) == "" && !slices.Contains(known, from) {
			out = append(out, fmt.Sprintf("%s says %x", from, f))
		}
	}
	return out
}

// readsRaw are the frames that the guest has got when one comes for all that dev sends now.
func (g *nic) readsRaw(t testing.TB, dev string) (out [][]byte) {
	t.Helper()
	shout(t, dev, eth(t, "for all", everybody, router, experimental))
	fds := g.fds(t)
	for deadline := time.Now().Add(waitLimit); ; {
		require.True(t, time.Now().Before(deadline), "the last frame did not come; read %x", out)
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fds[0]), Events: unix.POLLIN}}, 100)
		b := make([]byte, 4096)
		n, err := unix.Read(fds[0], b)
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		require.NoError(t, err)
		if textOf(b[:n]) == "for all" {
			return out
		}
		out = append(out, b[10:n])
	}
}

// leaving are the frames that go out of a device of the host's until one says "for all".
func leaving(t testing.TB, fd int) (out [][]byte) {
	t.Helper()
	for {
		b := make([]byte, 2048)
		n, _, _, from, err := receiveMsg(fd, b, make([]byte, 256))
		require.NoError(t, err, "the last frame did not pass; passed %x", out)
		if from.(*unix.SockaddrLinklayer).Pkttype != unix.PACKET_OUTGOING {
			continue
		}
		if textOf(b[:n]) == "for all" {
			return out
		}
		out = append(out, b[:n])
	}
}

// A router is a member of a multicast group on each of its devices, with an address or without, and says so.
func TestHostThatRoutesSpeaksOnAGuestsDevice(t *testing.T) {
	routes(t)
	eachDevice(t, func(t *testing.T, request, far string) {
		wire := ear(t, far)
		a := granted(t, alice, request)
		port := -1
		if far == "b1" {
			port = ear(t, a.name)
		}
		outspoken(t)
		requireSilence := func(when string, but ...[]byte) {
			t.Helper()
			require.Empty(t, strange(t, a.readsRaw(t, far)), "to the guest "+when)
			if port >= 0 {
				require.Empty(t, strange(t, leaving(t, port)), "through the port "+when)
			}
			a.says(t, a.end(t, alicesMAC))
			said := slices.DeleteFunc(heardFrames(t, wire), func(f []byte) bool {
				return slices.ContainsFunc(but, func(g []byte) bool { return bytes.Equal(f, g) })
			})
			require.Empty(t, strange(t, said), "on the wire "+when)
		}
		requireSilence("at start")
		asks := [][]byte{listenerQuery(t, alicesMAC), advertisementFrom(t, alicesMAC)}
		a.says(t, asks...)
		shout(t, far, listenerQuery(t, router), advertisement(t), arpRequest(t))
		outspoken(t)
		requireSilence("when asked", asks...)
		for _, on := range []string{"0", "1"} {
			require.NoError(t, os.WriteFile(forwarding, []byte(on), 0o644))
		}
		outspoken(t)
		requireSilence("when it has become one")
	})
}

// listenerQuery asks all for the multicast groups that they are members of, at once.
func listenerQuery(t testing.TB, mac string) []byte {
	t.Helper()
	b, err := hex.DecodeString("333300000001" + strings.ReplaceAll(mac, ":", "") + "86dd" + "60000000" + "0020" + "0001" +
		"fe800000000000000000000000000bad" + "ff020000000000000000000000000001" + "3a00050200000100")
	require.NoError(t, err)
	query := make([]byte, 24)
	query[0] = 130 // with a maximum response delay of 0
	sum := internetChecksum(b[22:54], []byte{0, 0, 0, byte(len(query)), 0, 0, 0, 58}, query)
	query[2], query[3] = byte(sum>>8), byte(sum)
	return append(b, query...)
}

func advertisementFrom(t testing.TB, mac string) []byte {
	t.Helper()
	b := advertisement(t)
	from, err := hex.DecodeString(strings.ReplaceAll(mac, ":", ""))
	require.NoError(t, err)
	copy(b[6:12], from)
	return b
}
