//go:build integration

package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/integration/host/hosttest"
	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
	"libvirt-direct/vdp/vdptest"
)

// The uplink leaves its namespace and comes back as it was, and no message tells of it: vdpd's
// sockets are on no interface any more.
func TestUplinkComesBackDuringAnOverflow(t *testing.T) {
	h := newHost(t)
	br := h.responder(vdptest.Config{Edition: vdp.Edition2012})
	p := h.vdpd()
	switchReady(h, p)
	c := control.NewClient(h.controlPath())
	v := testVSI(1)
	_, err := c.Associate(t.Context(), stationIf, v)
	require.NoError(t, err)
	before := h.ifindex(stationIf)

	away := h.a + "x"
	h.sh("ip", "netns", "add", away)
	t.Cleanup(func() { h.sh("ip", "netns", "del", away) })
	h.sh("ip", "-n", h.a, "link", "add", "many", "type", "veth", "peer", "name", "other")
	var batch strings.Builder
	for i := range 12_000 {
		fmt.Fprintf(&batch, "link set many mtu %d\n", 1400+i%2)
	}
	file := filepath.Join(t.TempDir(), "batch")
	require.NoError(t, os.WriteFile(file, []byte(batch.String()), 0o600))
	require.NoError(t, p.cmd.Process.Signal(unix.SIGSTOP))
	h.sh("ip", "-n", h.a, "-batch", file)
	h.sh("ip", "-n", h.a, "link", "set", stationIf, "netns", away)
	h.sh("ip", "-n", away, "link", "set", stationIf, "netns", h.a)
	h.sh("ip", "-n", h.a, "link", "set", stationIf, "up")
	require.Equal(t, before, h.ifindex(stationIf))
	require.NoError(t, p.cmd.Process.Signal(unix.SIGCONT))

	time.Sleep(2 * time.Second)
	require.NoError(t, br.Do(func(b *vdptest.Bridge) [][]byte { b.Restart(); return nil }))
	hosttest.Eventually(h, 40*time.Second, "the VSI at a switch that has forgotten it", func() bool {
		return mode(h, br, v) == vdp.Associate && h.uplink().Established == 1
	})
	w := testVSI(2)
	_, err = c.Associate(t.Context(), stationIf, w)
	require.NoError(t, err, "%s", p.output())
}
