//go:build integration

package link

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBridgePort(t *testing.T) {
	ctx, c, ip := namespace(t)
	ip("link", "add", "br0", "type", "bridge", "stp_state", "1", "group_fwd_mask", "0x4000")
	ip("link", "add", "tap0", "type", "veth", "peer", "name", "wire")
	br, err := c.ByName(ctx, "br0")
	require.NoError(t, err)
	require.Equal(t, &Bridge{STP: true, GroupFwdMask: 0x4000}, br.Bridge)
	tap, err := c.ByName(ctx, "tap0")
	require.NoError(t, err)
	require.Nil(t, tap.Port)
	on, off := true, false
	require.Error(t, c.SetPortFlags(ctx, tap.Index, PortFlags{Isolated: &on}), "not yet in a bridge")

	ip("link", "set", "tap0", "master", "br0")
	tap, err = c.ByName(ctx, "tap0")
	require.NoError(t, err)
	require.Equal(t, br.Index, tap.Master)
	require.Equal(t, "isolated off, learning on, hairpin off, bpduguard off", tap.Port.String())
	require.NoError(t, c.SetPortFlags(ctx, tap.Index, PortFlags{Isolated: &on, Learning: &off, BPDUGuard: &on}))
	tap, err = c.ByName(ctx, "tap0")
	require.NoError(t, err)
	require.Equal(t, "isolated on, learning off, hairpin off, bpduguard on", tap.Port.String())
	for range 2 {
		require.NoError(t, c.AddPortMAC(ctx, tap.Index, "52:54:00:00:00:01"))
	}
	out, err := exec.Command("bridge", "fdb", "show", "brport", "tap0").CombinedOutput()
	require.NoError(t, err)
	require.Contains(t, string(out), "52:54:00:00:00:01 master br0 static")
}
