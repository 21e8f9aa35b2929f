//go:build vm

package qbg

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/docs"
	"libvirt-direct/vdp"
)

// The page for the network engineer, followed on one end of a wire, a switch on the other.
func TestFirstHourEVB(t *testing.T) {
	requireMachine(t)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	s := newSite(ctx, t, "evb")
	pid := strings.Split(s.Path("/"), "/")[2]
	out, err := exec.CommandContext(ctx, "ip", "link", "set", "eth0", "netns", pid).CombinedOutput()
	require.NoError(t, err, "%s", out)
	s.run("ip", "link", "set", "eth0", "up")
	newBridge(t, "eth1").set(vdp.Edition2012)
	const bin, home = "/run/docs/bin", "/run/docs/home"
	for name, to := range map[string]string{"libvirt-direct": bin + "/libvirt-direct", "vdpd": bin + "/vdpd", "qemu-hook": "/etc/libvirt/hooks/qemu"} {
		require.NoError(t, s.CopyFile(ctx, to, 0o755, program(t, name)))
	}
	require.NoError(t, s.WriteFile(ctx, bin+"/systemctl", 0o755, []byte(`#!/bin/sh
[ "$*" = "enable --now vdpd" ] || { echo "systemctl $*: not in this test" >&2; exit 1; }
mkdir -p /run/vdpd
setsid vdpd >/var/log/vdpd.log 2>&1 &
`)))
	s.startLibvirtd()
	s.run("mkdir", "-p", home)
	cmd := s.Command(ctx, "env", "HOME="+home, "PATH="+bin+":/usr/sbin:/usr/bin:/sbin:/bin", "bash")
	docs.Follow(t, "../../docs/first-hour-evb.md", func(b docs.Block, _ string) {
		if strings.Contains(b.Text, "systemctl") {
			s.eventually(2*time.Minute, "the switch is heard", func() bool {
				u, err := s.vdpd().Status(ctx)
				return err == nil && u[0].Error == nil
			})
		}
	}, docs.NewShell(t, "root", s.Path("/"), home, cmd.Cmd, cmd.Start))
}
