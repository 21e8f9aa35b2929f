//go:build integration

package main

import (
	"net"
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/helper/client"
	"libvirt-direct/helper/internal/rtnl"
	"libvirt-direct/helper/internal/tap"
)

// sweep does what a call does before it makes a TAP device.
func sweep(t *testing.T, master string) {
	t.Helper()
	index := 0
	if master != "" {
		l, err := net.InterfaceByName(master)
		require.NoError(t, err)
		index = l.Index
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread, which loses capabilities, ends with the goroutine
		c, err := rtnl.Dial()
		if err == nil {
			err = tap.Sweep(c, index)
			c.Close()
		}
		done <- err
	}()
	require.NoError(t, <-done)
}

func persist(t *testing.T, f *os.File) {
	t.Helper()
	require.NoError(t, unix.IoctlSetInt(int(f.Fd()), unix.TUNSETPERSIST, 1))
}

func TestSweepOfPersistentTaps(t *testing.T) {
	bridge(t, "br0")
	bridge(t, "br1")
	acl(t, "allow all\n")
	exists := func(name string) bool { _, err := net.InterfaceByName(name); return err == nil }
	for _, queues := range []string{"--queues=1", "--queues=3"} {
		var names []string
		for _, br := range []string{"br0", "br0", "br1"} {
			a := ask(t, br, queues)
			d, err := client.Inspect(requireGranted(t, a))
			require.NoError(t, err)
			persist(t, a.files[0])
			names = append(names, d.Name)
			if len(names) == 1 {
				defer a.close()
				for _, f := range a.files[1:] { // one queue is enough to live
					f.Close()
				}
				continue
			}
			a.close()
		}
		held, left, elsewhere := names[0], names[1], names[2]
		require.True(t, exists(left))
		sweep(t, "br0")
		require.True(t, exists(held), queues)
		require.False(t, exists(left), queues)
		require.True(t, exists(elsewhere), queues)
		sweep(t, "")
		require.True(t, exists(held), queues)
		require.False(t, exists(elsewhere), queues)
		run(t, "ip", "link", "del", held)
	}
}

// Of a queue that is only detached the descriptor is still there.
func TestSweepLeavesDetachedQueues(t *testing.T) {
	bridge(t, "br0")
	acl(t, "allow all\n")
	a := ask(t, "br0", "--queues=2")
	d, err := client.Inspect(requireGranted(t, a))
	require.NoError(t, err)
	persist(t, a.files[0])
	for _, f := range a.files {
		r, err := unix.NewIfreq("")
		require.NoError(t, err)
		r.SetUint16(unix.IFF_DETACH_QUEUE)
		require.NoError(t, unix.IoctlIfreq(int(f.Fd()), unix.TUNSETQUEUE, r))
	}
	sweep(t, "br0")
	run(t, "ip", "link", "show", d.Name)
	a.close()
	sweep(t, "br0")
	requireNothingLeft(t)
}

// What is not the helper's is left alone.
func TestSweepLeavesOthersTaps(t *testing.T) {
	bridge(t, "br0")
	for _, queue := range [][]string{nil, {"multi_queue"}} {
		run(t, append([]string{"ip", "tuntap", "add", "dev", "tap7", "mode", "tap"}, queue...)...)
		run(t, "ip", "link", "set", "tap7", "master", "br0")
		sweep(t, "br0")
		sweep(t, "")
		run(t, "ip", "link", "del", "tap7")
	}
}
