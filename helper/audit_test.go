//go:build integration

package main

import (
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// privateDev gives the calling goroutine a /dev of its own, with nothing in it but what TAP devices need. There is only
// one devtmpfs, and a log socket in it would be the whole machine's.
func privateDev(t testing.TB) {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the thread ends with the test's goroutine
	require.NoError(t, unix.Unshare(unix.CLONE_NEWNS))
	require.NoError(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	require.NoError(t, unix.Mount("tmpfs", "/dev", "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=755"))
	require.NoError(t, os.Mkdir("/dev/net", 0o755))
	for node, number := range map[string]uint64{"/dev/null": unix.Mkdev(1, 3), "/dev/net/tun": unix.Mkdev(10, 200)} {
		require.NoError(t, unix.Mknod(node, unix.S_IFCHR|0o666, int(number)))
		require.NoError(t, os.Chmod(node, 0o666))
	}
}

func TestAudit(t *testing.T) {
	bridge(t, "br0")
	profiles(t, "[guests]\nkind = bridge\nbridge = br0\nanti-spoof = yes\ndevice = tap\nallow = uid:64321\n")
	t.Run("private /dev", func(t *testing.T) { // whose goroutine may lose its thread
		privateDev(t)
		log, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: "/dev/log", Net: "unixgram"})
		require.NoError(t, err)
		defer log.Close()
		require.NoError(t, os.Chmod("/dev/log", 0o666))
		require.NoError(t, log.SetReadDeadline(time.Now().Add(10*time.Second)))
		next := func() string {
			b := make([]byte, 2048)
			n, err := log.Read(b)
			require.NoError(t, err)
			return string(b[:n])
		}
		requireGranted(t, ask(t, "guests/52:54:00:aa:bb:cc"))
		require.Regexp(t, `^<86>qemu-direct-helper\[\d+\]: granted uid=64321 pid=\d+ (exe="[^"]+" )?profile="guests" kind="bridge" lower="br0" mac="52:54:00:aa:bb:cc" device="tap[0-9a-f]{8}" ifindex=\d+$`, next())
		requireRefused(t, askAs(t, bob, "guests/52:54:00:aa:bb:cd"), "access denied by acl file")
		require.Regexp(t, `^<85>qemu-direct-helper\[\d+\]: denied uid=64322 pid=\d+ (exe="[^"]+" )?profile="guests" mac="52:54:00:aa:bb:cd" reason="the profile is not for you"$`, next())
	})
	_, err := os.Lstat("/dev/full")
	require.NoError(t, err, "the other threads' /dev is the machine's")
}
