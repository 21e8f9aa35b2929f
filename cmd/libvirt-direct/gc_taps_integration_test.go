//go:build integration

package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// leaveTap makes a TAP device as a user of the helper can: persistent, and held by nobody
// unless it says so.
const leaveTap = `
import fcntl, os, struct, sys, time
name, index, flags, hold = sys.argv[1], int(sys.argv[2], 0), int(sys.argv[3], 0), sys.argv[4]
def attach():
    fd = os.open("/dev/net/tun", os.O_RDWR)
    if index: fcntl.ioctl(fd, 0x400454da, struct.pack("I", index)) # TUNSETIFINDEX
    fcntl.ioctl(fd, 0x400454ca, struct.pack("16sH22x", name.encode(), 0x1002 | flags)) # TUNSETIFF
    return fd
fd = attach()
fcntl.ioctl(fd, 0x400454cb, 1) # TUNSETPERSIST
if hold == "detached": fcntl.ioctl(fd, 0x400454d9, struct.pack("16sH22x", b"", 0x400)) # TUNSETQUEUE, IFF_DETACH_QUEUE
if hold:
    open("/run/held", "w").write("1\n")
    time.sleep(3600)
`

func TestGCRemovesAbandonedTaps(t *testing.T) {
	h := newFixture(t, "")
	before := h.MustSnapshot()
	h.MustWrite("/run/leave.py", 0o644, leaveTap)
	const name, index, multi = "tap40000abc", "0x40000abc", "0x100"
	h.MustRun("ip", "link", "add", "br0", "address", "02:00:00:00:00:01", "type", "bridge")
	bridged := h.MustSnapshot()
	for _, flags := range []string{"0", multi} {
		h.MustRun("python3", "/run/leave.py", name, index, flags, "")
		h.MustRun("ip", "link", "set", name, "master", "br0")
		require.Equal(t, "would remove TAP device "+name+", which a user of the helper made persistent and left\n", h.ok("gc", "--dry-run"))
		require.Equal(t, "removed TAP device "+name+", which a user of the helper made persistent and left\n", h.ok("gc"))
		require.Equal(t, nothing, h.ok("gc"))
		require.Empty(t, bridged.Diff(h.MustSnapshot()))
	}
	// Somebody else's, under a name and an index of the kernel's own kind.
	h.MustRun("python3", "/run/leave.py", "tap7", "0", "0", "")
	require.Equal(t, nothing, h.ok("gc"))
	h.MustRun("ip", "link", "del", "tap7")

	for _, held := range []struct{ flags, how string }{{"0", "attached"}, {multi, "attached"}, {multi, "detached"}} {
		h.MustRun("sh", "-c", `rm -f /run/held; python3 /run/leave.py "$@" >/dev/null 2>&1 </dev/null & echo $! >/run/holder.pid; while ! [ -s /run/held ]; do sleep 0.01; done`, "sh", name, index, held.flags, held.how)
		for _, state := range []string{"up", "down"} {
			h.MustRun("ip", "link", "set", name, state)
			require.Equal(t, nothing, h.ok("gc"), "%s, %s", held, state)
		}
		h.MustRun("sh", "-c", `pid=$(cat /run/holder.pid) && kill -KILL $pid && while [ -d /proc/$pid ] && ! grep -q '^State:.Z' /proc/$pid/status; do sleep 0.01; done`)
		require.Contains(t, h.ok("gc"), "removed TAP device "+name)
	}
	h.MustRun("ip", "link", "del", "br0")
	require.Empty(t, before.Diff(h.MustSnapshot()))
}
