//go:build integration

package link

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/helper/tapname"
)

func TestTaps(t *testing.T) {
	ctx, c, ip := namespace(t)
	ip("link", "add", "nica", "type", "veth", "peer", "name", "wire")
	taps, err := c.Taps(ctx)
	require.NoError(t, err)
	require.Empty(t, taps)
	const index = tapname.MinIndex | 0xabc
	name := tapname.Name(index)
	for _, queues := range []int{1, 2} {
		open := func() int {
			fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
			require.NoError(t, err)
			req, err := unix.NewIfreq(name)
			require.NoError(t, err)
			flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
			if queues > 1 {
				flags |= unix.IFF_MULTI_QUEUE
			}
			req.SetUint16(flags)
			require.NoError(t, unix.IoctlIfreq(fd, unix.TUNSETIFF, req))
			return fd
		}
		require.NoError(t, c.AddTap(ctx, Tap{Name: name, Index: index, Queues: queues}))
		require.True(t, only(t, c).Abandoned())
		require.NoError(t, c.Silence(ctx, index))
		requireSilent(t, name)
		for _, state := range []string{"up", "down"} {
			fd := open()
			ip("link", "set", name, state)
			d := only(t, c)
			require.False(t, d.Abandoned(), "it is held, and %s", state)
			require.True(t, d.Persist)
			require.Equal(t, queues > 1, d.MultiQueue)
			if queues > 1 {
				require.EqualValues(t, 1, d.Queues)
				req, err := unix.NewIfreq("")
				require.NoError(t, err)
				req.SetUint16(unix.IFF_DETACH_QUEUE)
				require.NoError(t, unix.IoctlIfreq(fd, unix.TUNSETQUEUE, req))
				require.False(t, only(t, c).Abandoned(), "its descriptor is there")
			}
			require.NoError(t, unix.Close(fd))
			require.True(t, only(t, c).Abandoned())
		}
		require.NoError(t, c.Delete(ctx, index))
	}
}

func only(t *testing.T, c *Conn) tapname.Device {
	t.Helper()
	taps, err := c.Taps(t.Context())
	require.NoError(t, err)
	require.Len(t, taps, 1)
	return taps[0]
}
