//go:build integration

package main

import (
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// In containers /proc/sys may be read-only.
func eachDeviceReadOnly(t *testing.T, f func(t *testing.T, request, far string)) {
	t.Helper()
	eachDevice(t, func(t *testing.T, request, far string) {
		t.Run("read-only", func(t *testing.T) { // whose goroutine may lose its thread
			runtime.LockOSThread() // and never unlocked: the thread ends with the test's goroutine
			require.NoError(t, unix.Unshare(unix.CLONE_NEWNS))
			require.NoError(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
			require.NoError(t, unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND, ""))
			require.NoError(t, unix.Mount("", "/proc/sys", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
			require.ErrorIs(t, os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("0"), 0o644), unix.EROFS)
			f(t, request, far)
		})
	})
}

func TestReadOnlyParameters(t *testing.T) {
	eachDeviceReadOnly(t, func(t *testing.T, request, far string) {
		a := granted(t, alice, request)
		a.mac = alicesMAC
		wire := ear(t, far)
		a.says(t, eth(t, "from alice", everybody, alicesMAC, experimental), a.end(t, alicesMAC))
		require.Equal(t, []string{"from alice"}, hears(t, wire))
		require.Equal(t, []string{"for alice"}, a.reads(t, far, eth(t, "for alice", alicesMAC, router, experimental)))
	})
}

// No parameter keeps the host from an address there.
func TestHostWithReadOnlyParametersSpeaksOnAGuestsDevice(t *testing.T) {
	eachDeviceReadOnly(t, func(t *testing.T, request, far string) {
		wire := ear(t, far)
		a := granted(t, alice, request)
		outspoken(t)
		require.Empty(t, strange(t, a.readsRaw(t, far)), "to the guest")
		a.says(t, a.end(t, alicesMAC))
		require.Empty(t, strange(t, heardFrames(t, wire)), "on the wire")
		if linkExists(a.name) {
			require.NotContains(t, run(t, "ip", "-6", "addr", "show", "dev", a.name), "inet6")
		}
	})
}
