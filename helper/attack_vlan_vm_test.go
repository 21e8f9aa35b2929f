//go:build vm

package main

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// Needs 802.1Q sub-interfaces.

// However early the helper is killed, the sub-interface that it made does not speak for the host, and the next grant
// leaves none that does.
func TestCallerKillsTheHelperBeforeAVLANIsQuiet(t *testing.T) {
	wire(t, "v0", "v1")
	profiles(t, lanProfile+"vlan = 42\n")
	addUser(t)
	run(t, "ip", "addr", "add", "10.9.9.9/32", "dev", "lo")
	t.Cleanup(func() { run(t, "ip", "addr", "del", "10.9.9.9/32", "dev", "lo") })
	run(t, "ip", "route", "add", "10.8.8.0/24", "dev", "lo")
	for _, dev := range []string{"v0", "v1"} {
		require.NoError(t, os.WriteFile("/proc/sys/net/ipv6/conf/"+dev+"/disable_ipv6", []byte("1"), 0o644))
	}
	near, far := ear(t, "v0"), ear(t, "v1")
	requireSilence := func(when string) {
		t.Helper()
		var asked [][]byte
		for _, f := range [][]byte{arpRequest(t), advertisement(t)} {
			asked = append(asked, append(append(append([]byte{}, f[:12]...), 0x81, 0, 0, 42), f[12:]...))
		}
		shout(t, "v1", append(asked, eth(t, "end", everybody, router, experimental))...)
		heardFrames(t, near)
		shout(t, "v0", eth(t, "end", everybody, "02:00:00:00:00:01", experimental))
		require.Empty(t, heardFrames(t, far), when)
		require.NotContains(t, run(t, "ip", "-6", "addr"), "2001:db8:bad", when)
	}
	killed := 0
	for _, call := range []string{"sendto", "openat", "write"} {
		for when := 1; when <= 12 && killAt(t, "lan", call, when); when++ {
			killed++
			if exec.Command("ip", "link", "show", "v0.42").Run() == nil {
				requireSilence("killed")
				requireNoVoice(t, "v0.42")
			}
			a := grantedSoon(t, alice, "lan")
			requireSilence("granted")
			requireNoVoice(t, "v0.42")
			a.close()
			run(t, "ip", "link", "del", "v0.42")
		}
	}
	require.GreaterOrEqual(t, killed, 8, "strace did not kill what it was told to")
}

// The hook removes the sub-interfaces that it has made when no domain needs them, and sees no guest of the helper's on one.
func TestHooksSubInterfaceGoesUnderAGuest(t *testing.T) {
	wire(t, "v0", "v1")
	profiles(t, lanProfile+"vlan = 42\n")
	run(t, "ip", "link", "add", "link", "v0", "name", "v0.42", "type", "vlan", "id", "42")
	run(t, "ip", "link", "set", "v0.42", "alias", "libvirt-direct")
	granted(t, alice, "lan")
	alias, err := os.ReadFile("/sys/class/net/v0.42/ifalias")
	require.NoError(t, err)
	require.Equal(t, keptAlias+"\n", string(alias))
	requireNoVoice(t, "v0.42")
	require.Contains(t, run(t, "ip", "link", "show", "v0.42"), ",UP")
}

// A device that has the name only is on another wire, or in another VLAN.
func TestSubInterfaceIsAnotherDevice(t *testing.T) {
	wire(t, "v0", "v1")
	wire(t, "v2", "v3")
	profiles(t, lanProfile+"vlan = 42\n")
	for _, device := range [][]string{
		{"type", "veth", "peer", "name", "vx"},
		{"link", "v2", "type", "vlan", "id", "42"},
		{"link", "v0", "type", "vlan", "id", "43"},
		{"link", "v0", "type", "vlan", "protocol", "802.1ad", "id", "42"},
	} {
		run(t, append([]string{"ip", "link", "add", "name", "v0.42"}, device...)...)
		requireRefused(t, ask(t, "lan"), errOtherVLAN.Error())
		run(t, "ip", "link", "del", "v0.42")
	}
}

// headersStay is empty: the test machine's kernel takes offsets that later ones refuse, and the manual says so ("Limits").
var headersStay []string

// There the port of a bridge has the checksum filled in before the filter looks at the frame.
func TestHolderOfAPortHasTheKernelWriteAnotherEtherType(t *testing.T) {
	a, far := offloader(t, offloaders["bridge"])
	wire := ear(t, far)
	for _, protocol := range []uint16{0x88cc, 0x8809, 0x888e, 0x8100} {
		_, err := a.files[0].Write(forged(eth(t, "forged", everybody, alicesMAC, "0800"), 12, protocol))
		require.NoError(t, err, "this kernel need not be tested")
	}
	a.says(t, eth(t, "end", everybody, alicesMAC, experimental))
	require.Empty(t, hears(t, wire))
}
