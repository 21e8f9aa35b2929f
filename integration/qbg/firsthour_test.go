//go:build vm

package qbg

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/docs"
	"libvirt-direct/integration/host/hosttest"
	"libvirt-direct/vdp"
)

// The page for the network engineer, followed on one end of a wire, a switch on the other.
func TestFirstHourEVB(t *testing.T) {
	requireMachine(t)
	ctx := hosttest.Deadline(t, 8*time.Minute)
	h := newFixture(ctx, t, "evb")
	h.MustTakeCard("eth0", "eth0")
	newBridge(t, "eth1").set(vdp.Edition2012)
	const bin, home = "/run/docs/bin", "/run/docs/home"
	for name, to := range map[string]string{"libvirt-direct": bin + "/libvirt-direct", "vdpd": bin + "/vdpd", "qemu-hook": "/etc/libvirt/hooks/qemu"} {
		require.NoError(t, h.CopyFile(ctx, to, 0o755, program(t, name)))
	}
	require.NoError(t, h.WriteFile(ctx, bin+"/systemctl", 0o755, []byte(`#!/bin/sh
[ "$*" = "enable --now vdpd" ] || { echo "systemctl $*: not in this test" >&2; exit 1; }
mkdir -p /run/vdpd
setsid vdpd >/var/log/vdpd.log 2>&1 &
`)))
	h.startLibvirtd()
	h.MustRun("mkdir", "-p", home)
	cmd := h.Command(ctx, "env", "HOME="+home, "PATH="+bin+":/usr/sbin:/usr/bin:/sbin:/bin", "bash")
	docs.Follow(t, "../../docs/first-hour-evb.md", func(b docs.Block, _ string) {
		if strings.Contains(b.Text, "systemctl") {
			hosttest.Eventually(h.T, 2*time.Minute, "the switch is heard", func() bool {
				u, err := h.vdpd().Status(ctx)
				return err == nil && u[0].Error == nil
			})
		}
	}, docs.NewShell(t, "root", h.Path("/"), home, cmd.Cmd, cmd.Start))
}
