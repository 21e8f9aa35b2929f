//go:build integration

package main

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The holder of a descriptor may give its device any address (SIOCSIFHWADDR). He is nobody else for that.

// macvtaps are the ways to have a macvtap, as profiles called lan.
var macvtaps = map[string]string{
	"isolated": lan,
	"plain":    lan + "device = macvtap\n",
	"visible":  lan + "visible = yes\n",
}

const lan = `[lan]
kind = macvtap
lower = v0
allow = uid:64321 uid:64322
mac = derived 52:54:00:*
`

func eachMacvtap(t *testing.T, more string, f func(t *testing.T)) {
	t.Helper()
	for name, profile := range macvtaps {
		t.Run(name, func(t *testing.T) {
			wire(t, "v0", "v1")
			profiles(t, profile+more)
			f(t)
		})
	}
}

// macvlan is a system guest's device, made by root.
func macvlan(t testing.TB, name, lower, mac string) (up error) {
	t.Helper()
	run(t, "ip", "link", "add", "link", lower, "name", name, "address", mac, "type", "macvlan", "mode", "bridge")
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", name).Run() })
	return exec.Command("ip", "link", "set", name, "addrgenmode", "none", "up").Run()
}

func TestHolderReadsAnotherUsersFrames(t *testing.T) {
	eachMacvtap(t, "", func(t *testing.T) {
		bobs := derivedMACs(t, bob, "lan")[0]
		a := granted(t, alice, "lan")
		require.Empty(t, a.reads(t, "v1", eth(t, "for bob", bobs, router, experimental)))
		require.NoError(t, a.takes(t, bobs))
		require.Empty(t, a.reads(t, "v1", eth(t, "for bob", bobs, router, experimental)))
	})
}

func TestHolderReadsARunningNeighboursFrames(t *testing.T) {
	eachMacvtap(t, "", func(t *testing.T) {
		a, b := granted(t, alice, "lan"), granted(t, bob, "lan")
		_ = a.takes(t, b.mac)
		require.Equal(t, []string{"for bob"}, b.reads(t, "v1", eth(t, "for bob", b.mac, router, experimental)))
		require.Empty(t, a.reads(t, "v1"))
		// From a guest beside them, without the wire.
		c := granted(t, bob, "lan")
		c.says(t, eth(t, "from beside", b.mac, c.mac, experimental))
		require.Equal(t, []string{"from beside"}, b.reads(t, "v1"))
		require.Empty(t, a.reads(t, "v1"))
	})
}

func TestHolderReadsTheHostsFrames(t *testing.T) {
	eachMacvtap(t, "", func(t *testing.T) {
		host := hardwareAddress(t, "v0")
		a := granted(t, alice, "lan")
		_ = a.takes(t, host)
		near := ear(t, "v0")
		require.Empty(t, a.reads(t, "v1", eth(t, "for the host", host, router, experimental)))
		shout(t, "v1", eth(t, "end", host, router, experimental))
		require.Equal(t, []string{"for the host"}, without(hears(t, near), "for all", "for one"))
	})
}

func TestHolderReadsASystemGuestsFrames(t *testing.T) {
	eachMacvtap(t, "", func(t *testing.T) {
		const system = "52:54:00:99:99:99"
		require.NoError(t, macvlan(t, "sys0", "v0", system))
		a := granted(t, alice, "lan")
		_ = a.takes(t, system)
		there := ear(t, "sys0")
		require.Empty(t, a.reads(t, "v1", eth(t, "for the system", system, router, experimental)))
		shout(t, "v1", eth(t, "end", system, router, experimental))
		require.Equal(t, []string{"for the system"}, without(hears(t, there), "for all", "for one"))
	})
}

func without(texts []string, unwanted ...string) (out []string) {
	for _, s := range texts {
		if !strings.Contains("|"+strings.Join(unwanted, "|")+"|", "|"+s+"|") {
			out = append(out, s)
		}
	}
	return out
}

func TestHolderKeepsAnotherUserFromStarting(t *testing.T) {
	eachMacvtap(t, "", func(t *testing.T) {
		a := granted(t, alice, "lan")
		require.NoError(t, a.takes(t, derivedMACs(t, bob, "lan")[0]))
		b := granted(t, bob, "lan")
		require.Contains(t, derivedMACs(t, bob, "lan"), b.mac)
		require.Equal(t, []string{"for bob"}, b.reads(t, "v1", eth(t, "for bob", b.mac, router, experimental)))
	})
}

func TestHolderTakesAnotherUsersFirstAddress(t *testing.T) {
	wire(t, "v0", "v1")
	profiles(t, lan)
	bobs := derivedMACs(t, bob, "lan")[0]
	a := granted(t, alice, "lan")
	require.NoError(t, a.takes(t, bobs))
	b := granted(t, bob, "lan")
	require.Equal(t, bobs, b.mac, "nothing outside of alice's device knows of the change")
	frame := eth(t, "for bob", bobs, router, experimental)
	require.Equal(t, []string{"for bob"}, b.reads(t, "v1", frame))
	require.Empty(t, a.reads(t, "v1", frame))
}

func TestHolderKeepsASystemGuestFromStarting(t *testing.T) {
	wire(t, "v0", "v1")
	profiles(t, lan)
	const system = "52:54:00:99:99:99"
	a := granted(t, alice, "lan")
	require.NoError(t, a.takes(t, system))
	require.NoError(t, macvlan(t, "sys0", "v0", system))
	there := ear(t, "sys0")
	shout(t, "v1", eth(t, "for the system", system, router, experimental), eth(t, "end", system, router, experimental))
	require.Equal(t, []string{"for the system"}, hears(t, there))
}

func TestSystemGuestsAddressKeepsAUserFromStarting(t *testing.T) {
	eachMacvtap(t, "", func(t *testing.T) {
		slots := derivedMACs(t, bob, "lan")
		require.NoError(t, macvlan(t, "sys0", "v0", slots[0]))
		b := granted(t, bob, "lan")
		require.Equal(t, slots[1], b.mac)
		require.Equal(t, []string{"for bob"}, b.reads(t, "v1", eth(t, "for bob", b.mac, router, experimental), eth(t, "for the system", slots[0], router, experimental)))
	})
}

func TestRefusalTellsAnotherUserWhoHasTheAddress(t *testing.T) {
	wire(t, "v0", "v1")
	profiles(t, lan+"visible = yes\n")
	const wanted = "52:54:00:99:99:99"
	a := granted(t, alice, "lan")
	require.NoError(t, a.takes(t, wanted))
	refused := askAs(t, bob, "lan/"+wanted)
	requireRefused(t, refused, "another user")
	require.NotContains(t, refused.stderr, "64321")
	requireRefused(t, ask(t, "lan/"+wanted), a.name)
}

func TestHolderTakesTheGatewaysAddress(t *testing.T) {
	fabric(t)
	profiles(t, guests+"isolated = no\nlearning = no\n")
	a, b := granted(t, alice, "guests/"+alicesMAC), granted(t, bob, "guests/"+bobsMAC)
	far := ear(t, "b1")
	shout(t, "b1", eth(t, "here I am", everybody, router, experimental))
	b.says(t, eth(t, "before", router, bobsMAC, experimental))
	require.NoError(t, a.takes(t, router))
	b.says(t, eth(t, "after", router, bobsMAC, experimental), b.end(t, bobsMAC))
	require.Equal(t, []string{"before", "after"}, hears(t, far))
}

func TestHolderReadsTheGatewaysFrames(t *testing.T) {
	fabric(t)
	profiles(t, guests)
	a, b := granted(t, alice, "guests/"+alicesMAC), granted(t, bob, "guests/"+bobsMAC)
	shout(t, "b1", eth(t, "here I am", everybody, router, experimental))
	require.NoError(t, a.takes(t, router))
	b.says(t, eth(t, "for the gateway", router, bobsMAC, experimental))
	require.Equal(t, []string{"here I am"}, a.reads(t, "b1"))
}

func TestHolderTakesAnotherGuestsAddressInTheBridge(t *testing.T) {
	fabric(t)
	profiles(t, guests)
	a := granted(t, alice, "guests/"+alicesMAC)
	require.NoError(t, a.takes(t, bobsMAC))
	b := granted(t, bob, "guests/"+bobsMAC)
	b.mac = bobsMAC
	b.says(t, b.end(t, bobsMAC))
	require.Equal(t, []string{"for bob"}, b.reads(t, "b1", eth(t, "for bob", bobsMAC, router, experimental)))
	require.Empty(t, a.reads(t, "b1"))
}

func TestHolderTakesTheBridgesAddress(t *testing.T) {
	run(t, "ip", "link", "add", "br0", "type", "bridge")
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "br0").Run() })
	run(t, "ip", "link", "set", "br0", "addrgenmode", "none", "up")
	wire(t, "b0", "b1")
	// A random one can be above that of the helper's tap, which begins with fe as libvirt's do.
	run(t, "ip", "link", "set", "b0", "address", "02:00:00:00:0b:00", "master", "br0")
	profiles(t, guests)
	was := hardwareAddress(t, "br0")
	a := granted(t, alice, "guests/"+alicesMAC)
	require.Equal(t, was, hardwareAddress(t, "br0"))
	require.NoError(t, a.takes(t, "00:00:00:00:00:02"))
	require.Equal(t, was, hardwareAddress(t, "br0"))
	require.NoError(t, a.takes(t, was))
	host := ear(t, "br0")
	shout(t, "b1", eth(t, "for the host", was, router, experimental), eth(t, "end", was, router, experimental))
	require.Equal(t, []string{"for the host"}, hears(t, host))
}

func TestHolderPinsAnAddressInTheForwardingTable(t *testing.T) {
	fabric(t)
	profiles(t, guests)
	a := granted(t, alice, "guests/"+alicesMAC)
	for _, mac := range []string{router, bobsMAC, "52:54:00:00:00:01", "02:de:ad:be:ef:01"} {
		require.NoError(t, a.takes(t, mac))
		for line := range strings.Lines(run(t, "bridge", "fdb", "show", "br", "br0")) {
			require.False(t, strings.Contains(line, mac) && strings.Contains(line, a.name), line)
		}
	}
}

const vfPool = "passthrough = v0 v2\n[vf]\nkind = macvtap\nmode = passthrough\nlower = v0 v2\nallow = uid:64321 uid:64322\n"

func vfs(t testing.TB) (first, second string) {
	t.Helper()
	wire(t, "v0", "v1")
	wire(t, "v2", "v3")
	profiles(t, vfPool)
	return hardwareAddress(t, "v0"), hardwareAddress(t, "v2")
}

func requireOnSecond(t testing.TB, b *nic, second string) {
	t.Helper()
	require.Equal(t, second, b.mac)
	far := ear(t, "v3")
	b.says(t, b.end(t, b.mac))
	require.Empty(t, hears(t, far))
	require.Equal(t, []string{"for bob"}, b.reads(t, "v3", eth(t, "for bob", b.mac, router, experimental)))
}

func TestHolderOfAVFKeepsOthersFromThePool(t *testing.T) {
	_, second := vfs(t)
	a := granted(t, alice, "vf")
	require.NoError(t, a.takes(t, "52:54:00:66:66:66"))
	requireOnSecond(t, granted(t, bob, "vf"), second)
	requireRefused(t, askAs(t, bob, "vf"), "another guest has the lower device to itself")
}

func TestHolderOfAVFPosesAsTheOtherOne(t *testing.T) {
	_, second := vfs(t)
	a := granted(t, alice, "vf")
	require.NoError(t, a.takes(t, second))
	requireOnSecond(t, granted(t, bob, "vf"), second)
}

func TestHolderLeavesAVFWithHisAddress(t *testing.T) {
	first, _ := vfs(t)
	a := granted(t, alice, "vf")
	require.NoError(t, a.takes(t, "52:54:00:66:66:66"))
	a.close()
	require.Eventually(t, func() bool { return hardwareAddress(t, "v0") == first }, waitLimit, 2*time.Millisecond)
	b := grantedSoon(t, bob, "vf")
	require.Equal(t, first, b.mac)
	require.Equal(t, []string{"for bob"}, b.reads(t, "v1", eth(t, "for bob", first, router, experimental)))
}

func TestHolderOfAVFReadsOthersFrames(t *testing.T) {
	vfs(t)
	a := granted(t, alice, "vf")
	frame := eth(t, "for a neighbour", "02:00:00:00:00:77", router, experimental)
	require.Empty(t, a.reads(t, "v1", frame))
	require.NoError(t, a.takes(t, "02:00:00:00:00:77"))
	require.Empty(t, a.reads(t, "v1", frame))
}

func TestHolderOfAVFSpeaksAsANeighbour(t *testing.T) {
	vfs(t)
	far := ear(t, "v1")
	a := granted(t, alice, "vf")
	require.NoError(t, a.takes(t, "02:00:00:00:00:77"))
	a.says(t, eth(t, "as a neighbour", everybody, "02:00:00:00:00:77", experimental), a.end(t, a.mac))
	require.Empty(t, hears(t, far))
}

// A device that is taken whole is given back a moment after its guest is gone: the next one waits.
func TestHolderOfTheOnlyVFKeepsTheNextUserFromStarting(t *testing.T) {
	wire(t, "v0", "v1")
	profiles(t, "passthrough = v0\n[vf]\nkind = macvtap\nmode = passthrough\nlower = v0\nallow = uid:64321 uid:64322\nmax-per-user = 1\n")
	own := hardwareAddress(t, "v0")
	for i := range 12 {
		a := granted(t, alice, "vf")
		require.Equal(t, own, a.mac)
		if i%2 == 1 {
			require.NoError(t, a.takes(t, "52:54:00:66:66:66"))
		}
		a.close()
		b := granted(t, bob, "vf")
		require.Equal(t, own, b.mac)
		require.Equal(t, []string{"for bob"}, b.reads(t, "v1", eth(t, "for bob", own, router, experimental)))
		b.close()
	}
}

// What a visible device's holder leaves behind is in nobody's way, whether the next one's device is visible or not.

func TestHolderLeavesAVisibleDeviceOnAVF(t *testing.T) {
	const vf = "kind = macvtap\nmode = passthrough\nlower = v0\n"
	for _, next := range []string{"", "visible = yes\n"} {
		t.Run(next, func(t *testing.T) {
			wire(t, "v0", "v1")
			profiles(t, "passthrough = v0\n[seen]\nvisible = yes\nallow = uid:64321\n"+vf+"[vf]\nallow = uid:64322\n"+vf+next)
			own := hardwareAddress(t, "v0")
			a := granted(t, alice, "seen")
			require.NoError(t, a.takes(t, "52:54:00:66:66:66"))
			a.close()
			b := granted(t, bob, "vf")
			require.Equal(t, own, b.mac)
			require.Equal(t, own, hardwareAddress(t, "v0"))
			require.False(t, linkExists(a.name))
			require.Equal(t, []string{"for bob"}, b.reads(t, "v1", eth(t, "for bob", own, router, experimental)))
		})
	}
}

func TestHolderLeavesAVisibleDeviceWithAnothersAddress(t *testing.T) {
	for name, next := range map[string]string{"isolated": "", "plain": "device = macvtap\n", "visible": "visible = yes\n"} {
		for _, left := range []string{alicesMAC, bobsMAC} {
			t.Run(name+" "+left, func(t *testing.T) {
				wire(t, "v0", "v1")
				profiles(t, "[seen]\nkind = macvtap\nlower = v0\nvisible = yes\nallow = uid:64321\nmac = 52:54:00:*\n"+
					"[lan]\nkind = macvtap\nlower = v0\nallow = uid:64322\nmac = 52:54:00:*\n"+next)
				a := granted(t, alice, "seen/"+alicesMAC)
				if left != alicesMAC {
					require.NoError(t, a.takes(t, left))
				}
				a.close()
				b := granted(t, bob, "lan/"+left)
				require.Equal(t, left, b.mac)
				require.Equal(t, []string{"for bob"}, b.reads(t, "v1", eth(t, "for bob", left, router, experimental)))
			})
		}
	}
}

// Each octet of an address counts.
func TestHolderReadsFramesForASimilarAddress(t *testing.T) {
	wire(t, "v0", "v1")
	profiles(t, "[lan]\nkind = macvtap\ndevice = macvtap\nlower = v0\nallow = everyone\nmac = 52:54:00:*\n")
	a := granted(t, alice, "lan/"+alicesMAC)
	for _, mac := range []string{bobsMAC, "52:54:00:00:01:0a", "52:54:01:00:00:0a", "50:54:00:00:00:0a"} {
		require.NoError(t, a.takes(t, mac))
		require.Empty(t, a.reads(t, "v1", eth(t, "for "+mac, mac, router, experimental)))
	}
}

func TestUserChoosesAnAddressThatIsNotAllowed(t *testing.T) {
	fabric(t)
	wire(t, "v0", "v1")
	for _, kind := range []string{"bridge isolated", "bridge tap", "macvtap isolated", "macvtap plain"} {
		profiles(t, filtered[kind].profile)
		for _, mac := range []string{"52:54:01:00:00:0a", "52:55:00:00:00:0a", "02:00:00:00:00:99"} {
			requireRefused(t, ask(t, "net/"+mac), "the profile does not allow this MAC address")
		}
		profiles(t, strings.Replace(filtered[kind].profile, "52:54:00:*", "any", 1))
		for _, mac := range []string{everybody, "01:00:5e:00:00:01", "53:54:00:00:00:0a", "00:00:00:00:00:00"} {
			requireRefused(t, ask(t, "net/"+mac), "not a unicast MAC address")
		}
	}
}

// A system guest has one of the pool's devices; the next one is free.
func TestSystemGuestOnAVFKeepsAUserFromThePool(t *testing.T) {
	_, second := vfs(t)
	profiles(t, vfPool+singleDevice)
	run(t, "ip", "link", "add", "link", "v0", "name", "sys0", "type", "macvtap", "mode", "passthru")
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "sys0").Run() })
	requireOnSecond(t, granted(t, bob, "vf"), second)
}

// In a bridge no kernel keeps two stations from having one address.
func TestUserTakesAnothersAddressInTheBridge(t *testing.T) {
	fabric(t)
	for _, kind := range []string{"bridge isolated", "bridge tap"} {
		t.Run(kind, func(t *testing.T) {
			profiles(t, filtered[kind].profile)
			granted(t, alice, "net/"+alicesMAC)
			requireRefused(t, askAs(t, bob, "net/"+alicesMAC), "another user")
		})
	}
}
