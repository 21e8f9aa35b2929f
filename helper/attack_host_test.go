//go:build integration

package main

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The host: what its administrator denied stays denied by whatever name, and it has no say on a guest's device.

func TestUserNamesADeniedBridgeByAnotherOfItsNames(t *testing.T) {
	bridge(t, "mgmt")
	run(t, "ip", "link", "property", "add", "dev", "mgmt", "altname", "br-mgmt", "altname", "management-of-the-host")
	for _, test := range []struct{ rules, ask string }{
		{"allow all\ndeny mgmt\n", "mgmt"},
		{"allow all\ndeny mgmt\n", "br-mgmt"},
		{"allow all\ndeny mgmt\n", "management-of-the-host"},
		{"allow br-mgmt\ndeny mgmt\n", "br-mgmt"},
	} {
		acl(t, test.rules)
		a := ask(t, test.ask)
		require.Empty(t, ports(t, "mgmt"), "%q was asked for %s", test.rules, test.ask)
		requireRefused(t, a, "")
	}
}

func TestUserNamesABridgeDeniedByAnotherOfItsNames(t *testing.T) {
	bridge(t, "mgmt")
	run(t, "ip", "link", "property", "add", "dev", "mgmt", "altname", "br-mgmt", "altname", "m2")
	for _, rules := range []string{"allow all\ndeny br-mgmt\n", "allow mgmt\ndeny m2\n", "deny br-mgmt\nallow all\n"} {
		acl(t, rules)
		for _, name := range []string{"mgmt", "br-mgmt", "m2"} {
			a := ask(t, name)
			require.Empty(t, ports(t, "mgmt"), "%q was asked for %s", rules, name)
			requireRefused(t, a, "")
		}
	}
}

// A name that the rules allow moves to the denied bridge while the helper runs.
func TestUserWaitsUntilANameMovesToADeniedBridge(t *testing.T) {
	bridge(t, "mgmt")
	run(t, "ip", "link", "add", "br1", "type", "bridge")
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "br1").Run() })
	acl(t, "allow free\ndeny mgmt\n")
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			dev := []string{"br1", "mgmt"}[i%2]
			_ = exec.Command("ip", "link", "property", "add", "dev", dev, "altname", "free").Run()
			_ = exec.Command("ip", "link", "property", "del", "dev", dev, "altname", "free").Run()
		}
	}()
	for range 40 {
		a := ask(t, "free")
		seen := ports(t, "mgmt")
		a.close()
		if len(seen) > 0 {
			close(stop)
			<-done
			require.Empty(t, seen)
		}
	}
	close(stop)
	<-done
}

const visibleLAN = "[seen]\nkind = macvtap\nlower = v0\nvisible = yes\nallow = uid:64321 uid:64322\nmac = 52:54:00:*\n"

// guestsDevice makes a visible device of alice's, and one of bob's that tells when all has been heard.
func guestsDevice(t *testing.T) (a, witness *nic) {
	t.Helper()
	wire(t, "v0", "v1")
	profiles(t, visibleLAN)
	for _, dev := range []string{"v0", "v1"} {
		require.NoError(t, os.WriteFile("/proc/sys/net/ipv6/conf/"+dev+"/disable_ipv6", []byte("1"), 0o644))
	}
	run(t, "ip", "addr", "add", "10.9.9.9/32", "dev", "lo")
	t.Cleanup(func() { run(t, "ip", "addr", "del", "10.9.9.9/32", "dev", "lo") })
	run(t, "ip", "route", "add", "10.8.8.0/24", "dev", "lo")
	t.Cleanup(func() { _ = exec.Command("ip", "route", "del", "10.8.8.0/24", "dev", "lo").Run() })
	return granted(t, alice, "seen/"+alicesMAC), granted(t, bob, "seen/"+bobsMAC)
}

// datagram is one to the host's 10.9.9.9, port 7, at the Ethernet address dst.
func datagram(t testing.TB, text, dst string) []byte {
	t.Helper()
	payload := "<" + text + ">"
	ip, err := hex.DecodeString("4500" + fmt.Sprintf("%04x", 28+len(payload)) + "000000004011" + "0000" + "0a080808" + "0a090909")
	require.NoError(t, err)
	binary.BigEndian.PutUint16(ip[10:], internetChecksum(ip))
	f := eth(t, text, dst, router, "0800", hex.EncodeToString(ip), "00070007", fmt.Sprintf("%04x", 8+len(payload)), "0000")
	return f[:14+28+len(payload)]
}

// requireQuiet says that the wire hears nothing from an address until the witness ends it, whatever is asked there.
func requireQuiet(t testing.TB, far int, witness *nic, quiet string, asked ...[]byte) {
	t.Helper()
	witness.reads(t, "v1", asked...)
	witness.says(t, witness.end(t, witness.mac))
	from, err := net.ParseMAC(quiet)
	require.NoError(t, err)
	for _, f := range heardFrames(t, far) {
		require.NotEqual(t, []byte(from), f[6:12], "heard from the guest's device: %x", f)
	}
}

func TestWireHearsTheHostAnswerARPOnADeadGuestsDevice(t *testing.T) {
	a, witness := guestsDevice(t)
	far := ear(t, "v1")
	requireQuiet(t, far, witness, a.mac, arpRequest(t), arpProbe(t))
	a.close()
	requireQuiet(t, far, witness, a.mac, arpRequest(t), arpProbe(t))
}

func TestWireHearsTheHostsIPv6OnAGuestsDevice(t *testing.T) {
	wire(t, "v0", "v1")
	profiles(t, visibleLAN)
	far := ear(t, "v1")
	a, witness := granted(t, alice, "seen/"+alicesMAC), granted(t, bob, "seen/"+bobsMAC)
	for _, g := range []*nic{a, witness} {
		for file, want := range map[string]string{"disable_ipv6": "1\n"} {
			b, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + g.name + "/" + file)
			require.NoError(t, err)
			require.Equal(t, want, string(b))
		}
	}
	requireQuiet(t, far, witness, a.mac, advertisement(t))
	a.close()
	requireQuiet(t, far, witness, a.mac, advertisement(t))
}

func TestWireGivesTheHostAnAddressOnAGuestsDevice(t *testing.T) {
	a, witness := guestsDevice(t)
	for _, state := range []string{"held", "left"} {
		witness.reads(t, "v1", advertisement(t))
		require.NotContains(t, run(t, "ip", "-6", "addr"), "2001:db8:bad", state)
		require.NotContains(t, run(t, "ip", "-6", "route", "show", "table", "all"), "bad", state)
		a.close()
	}
}

func TestWireReachesTheHostThroughADeadGuestsDevice(t *testing.T) {
	a, witness := guestsDevice(t)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	require.NoError(t, unix.Bind(fd, &unix.SockaddrInet4{Port: 7, Addr: [4]byte{10, 9, 9, 9}}))
	require.NoError(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(waitLimit / time.Second)}))
	next := func() string {
		b := make([]byte, 100)
		for {
			n, _, err := unix.Recvfrom(fd, b, 0)
			if err == unix.EINTR {
				continue
			}
			require.NoError(t, err)
			return textOf(b[:n])
		}
	}
	host := hardwareAddress(t, "v0")
	shout(t, "v1", datagram(t, "held", a.mac), datagram(t, "end", host))
	require.Equal(t, "end", next())
	a.close()
	shout(t, "v1", datagram(t, "through the guest's", a.mac), datagram(t, "end", host))
	require.Equal(t, "end", next())
	require.Equal(t, []string{"for bob"}, witness.reads(t, "v1", eth(t, "for bob", witness.mac, router, experimental)))
}

// A device that the helper was killed over says nothing, and is finished or gone after the next grant.
func TestCallerKillsTheHelperBeforeADeviceIsQuiet(t *testing.T) {
	a, witness := guestsDevice(t)
	a.close()
	addUser(t)
	far := ear(t, "v1")
	killed := 0
	for _, call := range []string{"openat", "write", "pwrite64", "sendto", "ioctl", "flock", "capset", "setresuid", "sendmsg", "close"} {
		for when := 1; when <= 24; when++ {
			if !killAt(t, "seen/"+alicesMAC, call, when) {
				break
			}
			killed++
			requireQuiet(t, far, witness, alicesMAC, arpRequest(t), advertisement(t))
			for _, name := range leftLinks(t) {
				if name != witness.name {
					requireNoVoice(t, name)
				}
			}
		}
	}
	require.GreaterOrEqual(t, killed, 10, "strace did not kill what it was told to")
	again := grantedSoon(t, alice, "seen/"+alicesMAC)
	require.ElementsMatch(t, []string{witness.name, again.name}, leftLinks(t))
	requireNoVoice(t, again.name)
}

// leftLinks are the devices of the helper's in this namespace.
func leftLinks(t testing.TB) (out []string) {
	t.Helper()
	links, err := net.Interfaces()
	require.NoError(t, err)
	for _, l := range links {
		if l.Index >= 1<<30 {
			out = append(out, l.Name)
		}
	}
	return out
}

// A port of a bridge is the host's as well.
func TestWireMakesTheHostSpeakOnABridgePort(t *testing.T) {
	fabric(t)
	profiles(t, guests+taps)
	for _, name := range []string{"guests/" + alicesMAC, "taps"} {
		t.Run(name, func(t *testing.T) {
			far := ear(t, "b1")
			a := granted(t, alice, name)
			port := hardwareAddress(t, a.name)
			b := granted(t, bob, "guests/"+bobsMAC)
			b.mac = bobsMAC
			b.reads(t, "b1", arpRequest(t), advertisement(t))
			b.says(t, b.end(t, bobsMAC))
			from, err := net.ParseMAC(port)
			require.NoError(t, err)
			for _, f := range heardFrames(t, far) {
				require.NotEqual(t, []byte(from), f[6:12], "%x", f)
			}
			require.NotContains(t, run(t, "ip", "-6", "addr", "show", "dev", a.name), "inet6")
		})
	}
}
