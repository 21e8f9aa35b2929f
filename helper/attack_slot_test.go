//go:build integration

package main

import (
	"bytes"
	"fmt"
	"libvirt-direct/helper/internal/registry"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/integration/host/hosttest"
)

// A place within a profile's limits is taken while its device lives, and no longer.

const singleDevice = "max-per-user = 1\n"

func TestStrangerKeepsASlotWithASquattedNode(t *testing.T) {
	fabric(t)
	wire(t, "v0", "v1")
	for name, profile := range map[string]string{"lan": macvtaps["isolated"], "plain": macvtaps["plain"], "guests": guests} {
		t.Run(name, func(t *testing.T) {
			profiles(t, profile+singleDevice)
			request, far := "lan", "v1"
			if name == "guests" {
				request, far = "guests/"+alicesMAC, "b1"
			}
			a := granted(t, alice, request)
			a.close()
			requireGone(t, a.node(t))
			squat(t, a.index(t))
			_, err := os.Lstat(a.node(t))
			require.NoError(t, err, "the node is the stranger's")
			again := grantedSoon(t, alice, request)
			if name == "guests" {
				again.mac = alicesMAC
				again.says(t, again.end(t, alicesMAC))
			}
			require.Equal(t, []string{"for alice"}, again.reads(t, far, eth(t, "for alice", again.mac, router, experimental)))
		})
	}
}

// The stranger is there first: his device has no node until alice's is gone.
func TestStrangerInheritsTheNodeOfAVisibleDevice(t *testing.T) {
	wire(t, "v0", "v1")
	profiles(t, lan+"visible = yes\n"+singleDevice)
	a := granted(t, alice, "lan")
	squat(t, a.index(t))
	require.Equal(t, []string{"for alice"}, a.reads(t, "v1", eth(t, "for alice", a.mac, router, experimental)))
	a.close()
	again := grantedSoon(t, alice, "lan")
	require.False(t, linkExists(a.name), "swept")
	require.Equal(t, []string{"for alice"}, again.reads(t, "v1", eth(t, "for alice", again.mac, router, experimental)))
}

// The next call removes it although nothing of it is in that call's way.
func TestHolderLeavesAVisibleDeviceInNobodysWay(t *testing.T) {
	wire(t, "v0", "v1")
	profiles(t, lan+"visible = yes\nmax-per-user = 32\n")
	a := granted(t, alice, "lan")
	a.close()
	for range 10 { // the kernel takes a moment to end what kept it
		granted(t, bob, "lan").close()
		if !linkExists(a.name) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	require.False(t, linkExists(a.name))
}

func TestStrangerMakesALiveDeviceUncounted(t *testing.T) {
	eachMacvtap(t, singleDevice, func(t *testing.T) {
		a := granted(t, alice, "lan")
		end9(squat(t, a.index(t)))
		requireRefused(t, ask(t, "lan"), "access denied by acl file")
		require.Equal(t, []string{"for alice"}, a.reads(t, "v1", eth(t, "for alice", a.mac, router, experimental)))
	})
}

// While locks come and go, /proc/locks does not show all of them.
func TestStrangersLocksRemoveALiveDevice(t *testing.T) {
	wire(t, "v0", "v1")
	profiles(t, "[lan]\nkind = macvtap\nlower = v0\nvisible = yes\nallow = uid:64321 uid:64322\nmac = 52:54:00:*\nmax-per-user = 8\n")
	a := call{uid: bob, wrap: []string{"taskset", "-c", "0"}, args: []string{"--use-vnet", "--fd=%FD", "--br=lan/" + bobsMAC}}.do(t)
	b := holder(t, bob, a)
	lockStorm(t)
	for i := range hosttest.Rounds(40, 1000) {
		ask(t, fmt.Sprintf("lan/52:54:00:00:01:%02x", i%256)).close()
		require.True(t, linkExists(b.name), "removed by call %d of alice's", i)
	}
	require.Equal(t, []string{"for bob"}, b.reads(t, "v1", eth(t, "for bob", bobsMAC, router, experimental)))
}

func TestStrangersLocksKeepADeadDevice(t *testing.T) {
	wire(t, "v0", "v1")
	profiles(t, lan+"visible = yes\n"+singleDevice)
	lockStorm(t)
	for range hosttest.Rounds(10, 200) {
		a := grantedSoon(t, alice, "lan")
		require.Equal(t, []string{"for alice"}, a.reads(t, "v1", eth(t, "for alice", a.mac, router, experimental)))
		a.close()
	}
}

func TestHolderUnlocksALiveDevice(t *testing.T) {
	wire(t, "v0", "v1")
	profiles(t, lan+"visible = yes\n"+singleDevice)
	a := granted(t, alice, "lan")
	fd := a.fds(t)[0]
	require.NoError(t, as(alice, func() error { return unix.Flock(fd, unix.LOCK_UN) }))
	requireRefused(t, ask(t, "lan"), "access denied by acl file")
	granted(t, bob, "lan")
	require.True(t, linkExists(a.name), "it is held")
	require.Equal(t, []string{"for alice"}, a.reads(t, "v1", eth(t, "for alice", a.mac, router, experimental)))
}

// A queue is as good as another.
func TestCallerRemovesADeviceWhoseFirstQueueIsClosed(t *testing.T) {
	eachMacvtap(t, "", func(t *testing.T) {
		a := granted(t, alice, "lan", "--queues=2")
		require.NoError(t, a.files[0].Close())
		a.files = a.files[1:]
		granted(t, bob, "lan")
		require.Equal(t, []string{"for alice"}, a.reads(t, "v1", eth(t, "for alice", a.mac, router, experimental)))
	})
}

func TestHolderPassesItsDeviceOnAndGetsAnother(t *testing.T) {
	eachMacvtap(t, singleDevice, func(t *testing.T) {
		a := granted(t, alice, "lan")
		vm := userCommand(t, bob, a.files, "sleep", "600")
		require.NoError(t, vm.Start())
		a.close()
		requireRefused(t, ask(t, "lan"), "access denied by acl file")
		end9(vm)
		grantedSoon(t, alice, "lan")
	})
}

func TestHolderOfABridgePortPassesItOnAndGetsAnother(t *testing.T) {
	fabric(t)
	for _, device := range []string{"isolated", "tap"} {
		t.Run(device, func(t *testing.T) {
			profiles(t, guests+"device = "+device+"\n"+singleDevice)
			a := granted(t, alice, "guests/"+alicesMAC, "--queues=2")
			vm := userCommand(t, bob, a.files[1:], "sleep", "600")
			require.NoError(t, vm.Start())
			a.close()
			requireRefused(t, ask(t, "guests/52:54:00:00:00:0c"), "access denied by acl file")
			require.Len(t, ports(t, "br0"), 1)
			end9(vm)
			requireNoPort(t, a.name)
			grantedSoon(t, alice, "guests/"+alicesMAC)
		})
	}
}

// Another user finds the same address free as soon as its guest is gone, and not before.
func TestStrangerKeepsAnAddressWithASquattedNode(t *testing.T) {
	wire(t, "v0", "v1")
	profiles(t, lan)
	a := granted(t, alice, "lan/"+alicesMAC)
	requireRefused(t, askAs(t, bob, "lan/"+alicesMAC), "another")
	a.close()
	requireGone(t, a.node(t))
	squat(t, a.index(t))
	b := grantedSoon(t, bob, "lan/"+alicesMAC)
	require.Equal(t, []string{"for bob"}, b.reads(t, "v1", eth(t, "for bob", alicesMAC, router, experimental)))
}

func TestUsersHaveMoreDevicesThanTheProfile(t *testing.T) {
	eachMacvtap(t, "max = 1\n", func(t *testing.T) {
		granted(t, alice, "lan")
		requireRefused(t, askAs(t, bob, "lan"), "the profile has as many devices as it may have at once")
	})
}

// A device that somebody else has made is not the helper's to remove, whatever its number or its name.
func TestCallerHasASystemGuestsMacvtapRemoved(t *testing.T) {
	wire(t, "v0", "v1")
	profiles(t, lan+"visible = yes\n")
	number := fmt.Sprint(1<<30 + 77)
	for _, dev := range [][]string{{"sys0"}, {"sys1", "index", number}, {"mvt40000001"}} {
		run(t, append(append([]string{"ip", "link", "add", "link", "v0", "name"}, dev...), "type", "macvtap")...)
		t.Cleanup(func() { _ = exec.Command("ip", "link", "del", dev[0]).Run() })
	}
	granted(t, alice, "lan")
	for _, dev := range []string{"sys0", "sys1", "mvt40000001"} {
		require.True(t, linkExists(dev), dev)
	}
}

// What the caller's umask takes away, the helper, which has no capability over files, has not either.
func TestCallerTakesThePermissionsFromTheClaims(t *testing.T) {
	wire(t, "v0", "v1")
	profiles(t, lan)
	for _, mask := range []string{"777", "0"} {
		require.NoError(t, os.RemoveAll(registry.Dir))
		a := call{uid: alice, wrap: []string{"/bin/sh", "-c", `umask ` + mask + `; exec "$0" "$@"`}, args: []string{"--use-vnet", "--fd=%FD", "--br=lan"}}.do(t)
		holder(t, alice, a)
		granted(t, bob, "lan")
		requireRefused(t, askAs(t, bob, "lan/"+derivedMACs(t, alice, "lan")[0]), "")
	}
}

// The administrator lowers the limit while alice has devices in the higher slots.
func TestHolderKeepsMoreDevicesThanALoweredLimit(t *testing.T) {
	eachMacvtap(t, "max-per-user = 4\n", func(t *testing.T) {
		b, err := os.ReadFile("/etc/libvirt-direct/helper.conf")
		require.NoError(t, err)
		var held []*nic
		for range 4 {
			held = append(held, granted(t, alice, "lan"))
		}
		profiles(t, strings.Replace(string(b), "max-per-user = 4", "max-per-user = 2", 1))
		held[0].close()
		held[1].close()
		requireRefused(t, ask(t, "lan"), "you have as many devices of this profile as you may have at once")
	})
}

// slowly is a request of alice's during which strace holds the helper for half a second at a system call, for which time
// that is made. meanwhile is called when the helper has been started some time ago.
func slowly(t *testing.T, name, call string, when int, meanwhile func()) answer {
	t.Helper()
	ours, theirs := socketpairAs(t, alice)
	defer unix.Close(ours)
	cmd := strace(t, "-f", "-o", "/dev/null", "-u", "helperalice", "-e", "trace="+call,
		"-e", fmt.Sprintf("inject=%s:delay_enter=500000:when=%d", call, when), helper, "--use-vnet", "--fd=3", "--br="+name)
	cmd.ExtraFiles = []*os.File{theirs}
	var stdout, stderr bytes.Buffer
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Start())
	theirs.Close()
	time.Sleep(150 * time.Millisecond)
	meanwhile()
	return finish(t, cmd, ours, &stdout, &stderr)
}

// Between the claim and the device there is a moment, which the caller can make as long as he likes.
func TestCallerStopsTheHelperBeforeTheDevice(t *testing.T) {
	fabric(t)
	profiles(t, guests+"max = 1\n")
	addUser(t)
	for _, call := range []string{"unshare", "pwrite64"} {
		t.Run(call, func(t *testing.T) {
			var second answer
			first := slowly(t, "guests/"+alicesMAC, call, 1, func() { second = askAs(t, bob, "guests/"+bobsMAC) })
			require.LessOrEqual(t, len(ports(t, "br0")), 1, "two devices where there may be one")
			require.True(t, first.granted() || second.granted())
			first.close()
			second.close()
			requireNoPorts(t, "br0")
		})
	}
}

// Between the look at the claims and the lock on a place another call may take it, and be over.
func TestCallerStopsTheHelperBeforeTheLock(t *testing.T) {
	fabric(t)
	profiles(t, guests+singleDevice)
	addUser(t)
	for when := 20; when <= 28; when++ { // of which those before are the runtime's, and make sure of descriptors
		var second answer
		first := slowly(t, "guests/"+alicesMAC, "fcntl", when, func() { second = ask(t, "guests/52:54:00:00:00:0c") })
		require.LessOrEqual(t, len(ports(t, "br0")), 1, "two devices for a share of one, fcntl %d", when)
		first.close()
		second.close()
		requireNoPorts(t, "br0")
	}
}
