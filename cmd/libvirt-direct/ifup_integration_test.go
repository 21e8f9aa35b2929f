//go:build integration

package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
)

const fabricConfig = `[uplink.fabric]
device = "ovsbr0"
vlans = ["100-199"]
[profile.lab]
uplink = "fabric"
vlan = 120
[profile.lab.ovs]
ingressrate = 5000
`

// QEMU calls the links as its scripts. A guest that ends takes its port along; one that
// is killed leaves it to the next ifup, to gc and to watch.
func TestIfupAsScript(t *testing.T) {
	hosttest.Require(t, "ovsdb-server", "ovs-vswitchd", "ovs-vsctl")
	h := newFixture(t, fabricConfig)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	h.Ctx = ctx
	sw, err := h.StartOVS(ctx)
	require.NoError(t, err)
	require.NoError(t, sw.AddBridge(ctx, "ovsbr0"))
	vsctl := func(args ...string) string {
		t.Helper()
		out, err := sw.Vsctl(ctx, args...)
		require.NoError(t, err)
		return out
	}
	for _, link := range []string{"ifup-lab", "ifup-fabric", "ifdown-lab"} {
		h.MustRun("ln", "-s", filepath.Join(h.bin, "libvirt-direct"), "/etc/"+link)
	}
	gone := func(device string) {
		t.Helper()
		require.Eventually(t, func() bool {
			_, err := os.Stat(h.Path("/sys/class/net/" + device))
			return os.IsNotExist(err)
		}, time.Minute, 5*time.Millisecond)
	}
	qemu := func(device, up string) *host.Cmd {
		t.Helper()
		cmd := h.Command(ctx, "qemu-system-x86_64", "-M", "none", "-display", "none", "-monitor", "stdio", "-nodefaults",
			"-netdev", "tap,id=n0,ifname="+device+",script=/etc/"+up+",downscript=/etc/ifdown-lab")
		return cmd
	}
	start := func(device string) (*host.Cmd, func(string)) {
		t.Helper()
		cmd := qemu(device, "ifup-lab")
		stdin, err := cmd.StdinPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		require.Eventually(t, func() bool { return vsctl("list-ports", "ovsbr0") == device }, time.Minute, 20*time.Millisecond)
		return cmd, func(text string) { _, err := stdin.Write([]byte(text)); require.NoError(t, err) }
	}

	cmd, monitor := start("q0")
	require.Equal(t, "120", vsctl("get", "Port", "q0", "tag"))
	require.Equal(t, "5000", vsctl("get", "Interface", "q0", "ingress_policing_rate"))
	require.Equal(t, "{libvirt-direct=ifup}", vsctl("get", "Port", "q0", "external_ids"))
	require.Equal(t, "nothing is left over\n", h.ok("gc"))
	monitor("quit\n")
	require.NoError(t, cmd.Wait())
	require.Empty(t, vsctl("list-ports", "ovsbr0"))

	cmd, _ = start("q1")
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	gone("q1")
	require.Equal(t, "q1", vsctl("list-ports", "ovsbr0"))
	cmd, _ = start("q2") // and only that is there then
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	gone("q2")
	require.Contains(t, h.ok("gc"), "removed Open vSwitch port q2, whose guest is not running")
	require.Empty(t, vsctl("list-ports", "ovsbr0"))

	cmd, _ = start("q3")
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	gone("q3")
	watch := h.Command(ctx, filepath.Join(h.bin, "libvirt-direct"), "watch")
	require.NoError(t, watch.Start())
	require.Eventually(t, func() bool { return vsctl("list-ports", "ovsbr0") == "" }, time.Minute, 20*time.Millisecond)
	require.NoError(t, watch.Process.Kill())
	_ = watch.Wait()

	// A refusal ends QEMU, and leaves nothing.
	var stderr strings.Builder
	refused := qemu("q4", "ifup-fabric")
	refused.Stderr = &stderr
	require.Error(t, refused.Run())
	require.Contains(t, stderr.String(), `a port without <vlan>, which is a trunk of every VLAN, on uplink "fabric"`)
	require.Empty(t, vsctl("list-ports", "ovsbr0"))
	require.Contains(t, h.fails("ifup", "--on", "ovsbr0", "--vlan", "100", "q4"), "q4")
	h.ok("ifdown", "q4")
}
