//go:build integration

package main

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAudit(t *testing.T) {
	const path = "/dev/log"
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Skip("the host has a system log of its own, and /dev is not this test's alone")
	}
	log, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	defer os.Remove(path)
	defer log.Close()
	require.NoError(t, os.Chmod(path, 0o666))
	require.NoError(t, log.SetReadDeadline(time.Now().Add(10*time.Second)))
	next := func() string {
		b := make([]byte, 2048)
		n, err := log.Read(b)
		require.NoError(t, err)
		return string(b[:n])
	}
	wire(t, "v0", "v1")
	profiles(t, lanProfile)
	requireGranted(t, ask(t, "lan/52:54:00:aa:bb:cc"))
	require.Regexp(t, `^<86>qemu-direct-helper\[\d+\]: granted uid=64321 pid=\d+ (exe="[^"]+" )?profile="lan" kind="macvtap" lower="v0" mac="52:54:00:aa:bb:cc" device="mvt[0-9a-f]{8}" ifindex=\d+$`, next())
	requireRefused(t, askAs(t, bob, "lan/52:54:00:aa:bb:cd"), "access denied by acl file")
	require.Regexp(t, `^<85>qemu-direct-helper\[\d+\]: denied uid=64322 pid=\d+ (exe="[^"]+" )?profile="lan" mac="52:54:00:aa:bb:cd" reason="the profile is not for you"$`, next())
}
