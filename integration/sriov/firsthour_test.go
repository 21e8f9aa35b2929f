//go:build integration

package sriov

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/docs"
)

// The page for the administrator of one host, followed in the machine, which has VLANs
// and virtual functions.
func TestFirstHourHost(t *testing.T) {
	installHook(t, "qemu", "")
	require.NoError(t, os.Remove("/etc/libvirt-direct/config.toml"))
	libvirtd(t)
	sh(t, "modprobe -a 8021q igbvf && ip link set eth0 up && ip link set eth1 up")
	t.Cleanup(func() {
		_, _ = tryShell("virsh -q destroy vm1; virsh -q undefine vm1; virsh -q destroy vm2; virsh -q undefine vm2; echo 0 >/sys/class/net/eth0/device/sriov_numvfs")
	})
	before := links(t)
	const home = "/run/first-hour"
	require.NoError(t, os.Mkdir(home, 0o755))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash")
	cmd.Env = append(os.Environ(), "HOME="+home, "LC_ALL=C", "PATH="+os.Getenv(programsVariable)+":"+os.Getenv("PATH"))
	docs.Follow(t, "../../docs/first-hour-host.md", func(b docs.Block, _ string) {
		if strings.Contains(b.Text, "echo 2 >") {
			require.Eventually(t, func() bool {
				out, _ := tryShell("ls -d /sys/class/net/eth0/device/virtfn*/net/* | wc -l")
				return out == "2"
			}, time.Minute, 20*time.Millisecond, "the VFs' driver has made their network devices")
		}
	}, docs.NewShell(t, "root", "/", home, cmd, cmd.Start))
	require.Equal(t, before, links(t))
}
