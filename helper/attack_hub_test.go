//go:build integration

package main

import (
	"bytes"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Between an isolated device and its cable stands a bridge, which keeps nothing of what passes it.

// It does not take the guest for one at the other end because something there has the guest's address.
func TestWireMakesAGuestDeafByItsOwnAddress(t *testing.T) {
	wire(t, "v0", "v1")
	profiles(t, lan)
	a := granted(t, alice, "lan/"+alicesMAC)
	require.Contains(t, a.reads(t, "v1", eth(t, "from alice's address", alicesMAC, alicesMAC, experimental), eth(t, "for alice", alicesMAC, router, experimental)), "for alice")
}

// A frame that waits to be read is its sender's, in the kernel's eyes, and keeps alive what it was sent by.
func TestNeighbourKeepsADeadGuestsPlaceByReadingNothing(t *testing.T) {
	wire(t, "v0", "v1")
	for name, neighbour := range macvtaps {
		t.Run(name, func(t *testing.T) {
			profiles(t, lan+singleDevice+"[beside]\n"+neighbour[len("[lan]\n"):])
			b := granted(t, bob, "beside")
			for range 3 {
				a := grantedSoon(t, alice, "lan/"+alicesMAC)
				a.says(t, eth(t, "for bob", b.mac, alicesMAC, experimental), eth(t, "for all", everybody, alicesMAC, experimental))
				a.close()
			}
			grantedSoon(t, alice, "lan/"+alicesMAC)
		})
	}
}

// The address that turned out to be another's does not take the count of the next one along.
func TestSystemGuestsAddressGivesUsersMoreThanTheProfile(t *testing.T) {
	eachMacvtap(t, "max = 1\n", func(t *testing.T) {
		require.NoError(t, macvlan(t, "sys0", "v0", derivedMACs(t, alice, "lan")[0]))
		granted(t, alice, "lan")
		requireRefused(t, askAs(t, bob, "lan"), "the profile has as many devices as it may have at once")
	})
}

// What the rest of a pool lacks is no answer to who waits for the one device that has it.
func TestHolderOfAVFKeepsTheNextUserFromItsAddress(t *testing.T) {
	first, _ := vfs(t)
	a := granted(t, alice, "vf/"+first)
	requireRefused(t, askAs(t, bob, "vf/"+first), "another guest has the lower device to itself")
	a.close()
	require.Equal(t, first, granted(t, bob, "vf/"+first).mac)
}

// The Go runtime's answer to some signals is a look into the program.
func TestCallerHasTheRuntimeTellWhatItDoes(t *testing.T) {
	wire(t, "v0", "v1")
	profiles(t, lan)
	addUser(t)
	for _, signal := range []string{"SIGQUIT", "SIGABRT", "SIGILL", "SIGTRAP", "SIGBUS", "SIGFPE", "SIGSEGV", "SIGSTKFLT", "SIGSYS"} {
		ours, theirs := socketpairAs(t, alice)
		cmd := strace(t, "-f", "-o", "/dev/null", "-u", "helperalice", "-e", "trace=unshare", "-e", "inject=unshare:signal="+signal,
			helper, "--use-vnet", "--fd=3", "--br=lan")
		cmd.ExtraFiles = []*os.File{theirs}
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		require.NoError(t, cmd.Start())
		theirs.Close()
		a := finish(t, cmd, ours, &stdout, &stderr)
		unix.Close(ours)
		require.False(t, a.granted(), signal)
		require.Empty(t, a.files, signal)
		require.Empty(t, a.stdout+a.stderr, signal)
	}
}
