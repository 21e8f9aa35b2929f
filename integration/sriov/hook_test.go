//go:build integration

package sriov

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host"
)

// life runs the hook as libvirt does, without libvirt: all four operations in a few
// hundred milliseconds.
type life struct {
	t    *testing.T
	file string
}

const lifeUUID = "11111111-2222-4333-8444-555555555555"

// newLife is a domain with a VF of each kind: a hostdev, a macvtap that libvirt makes,
// and one of the uplink's free ones for a macvtap that the hook makes.
func newLife(t *testing.T) life {
	t.Helper()
	address, _ := device(t, "eth0", 0)
	_, netdev := device(t, "eth0", 1)
	d := host.Domain{
		Name: "life", UUID: lifeUUID,
		Interfaces: []string{
			hostdev(macH, address, "<vlan><tag id='42'/></vlan>"),
			host.DirectNIC(macP, netdev, "passthrough"),
			"<interface type='ethernet'><mac address='" + macX + "'/><target dev='ldtlife' managed='no'/></interface>",
		},
		Metadata: words(nic(macH, "qos='3' trust='yes' spoofchk='no' maxrate='100'"), nic(macP, "profile='gold'"),
			nic(macX, "own='hook' mode='passthrough' uplink='fast' vlan='44' qos='1'")),
	}
	l := life{t, filepath.Join(t.TempDir(), "life.xml")}
	require.NoError(t, os.WriteFile(l.file, []byte(d.XML()), 0o600))
	return l
}

func (l life) run(op string) error {
	in, err := os.Open(l.file)
	require.NoError(l.t, err)
	defer in.Close()
	cmd := exec.Command("/etc/libvirt/hooks/qemu", "life", op, "begin", "-")
	cmd.Stdin = in
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", op, err, out)
	}
	return nil
}

var operations = []string{"prepare", "start", "stopped", "release"}

// Killed at each of its points, half-way through a VF's attributes too; gc puts all back.
func TestHookKilledAmongVFs(t *testing.T) {
	installHook(t, "killhook", configuration)
	vfs(t, "eth0", 3)
	sh(t, "ip link set eth0 vf 0 vlan 7 qos 5 && ip link set eth0 vf 1 trust on")
	l := newLife(t)
	before := links(t)
	points := 0
	t.Cleanup(func() { os.Remove("/run/killhook") })
	for i, op := range operations {
		for n, killed := 1, true; killed; n++ {
			os.Remove("/run/killhook")
			for _, earlier := range operations[:i] {
				require.NoError(t, l.run(earlier))
			}
			require.NoError(t, os.WriteFile("/run/killhook", fmt.Appendf(nil, "%s %d", op, n), 0o600))
			err := l.run(op)
			killed = err != nil
			if killed {
				require.ErrorContains(t, err, "signal: killed", "%s, point %d", op, n)
				points++
			}
			os.Remove("/run/killhook")
			out := sh(t, "%s gc", program("libvirt-direct"))
			require.Equal(t, before, links(t), "%s killed at point %d; gc says: %s", op, n, out)
			require.Empty(t, sh(t, "ls /run/libvirt-direct/domains"))
		}
	}
	t.Logf("killed at %d points", points)
	require.Greater(t, points, 35)
}

// The VFs vanish under a guest: what ends then says so, and is done.
func TestVFsVanish(t *testing.T) {
	installHook(t, "qemu", configuration)
	vfs(t, "eth0", 3)
	l := newLife(t)
	require.NoError(t, l.run("prepare"))
	require.NoError(t, l.run("start"))
	sh(t, "echo 0 >/sys/class/net/eth0/device/sriov_numvfs")
	require.NoError(t, l.run("stopped"))
	require.NoError(t, l.run("release"))
	require.Empty(t, sh(t, "ls /run/libvirt-direct/domains"))
}

// vf set, show and reset, on a card of which everything is known.
func TestVFCommands(t *testing.T) {
	vfs(t, "eth0", 2)
	before := links(t)
	bin := program("libvirt-direct")
	sh(t, "%s vf set eth0 1 vlan=42 qos=3 trust=on spoofchk=off maxrate=100", bin)
	text := sh(t, "%s vf show eth0", bin)
	t.Log(text)
	require.Contains(t, text, "eth0 (driver igb): 2 virtual functions")
	require.Contains(t, text, "read:   trust on, spoofchk off, mac 00:00:00:00:00:00, vlan 42 qos 3, minrate 0, maxrate 100, linkstate auto")
	out, err := tryShell("%s vf set eth0 1 vlan=43 linkstate=enable", bin)
	require.Error(t, err)
	require.Equal(t, "libvirt-direct: VF 1 of eth0 (driver igb): set linkstate to enable: refused by the driver: operation not supported", out)
	require.Contains(t, sh(t, "%s vf show eth0", bin), "vlan 42 qos 3", "put back")
	sh(t, "%s vf reset eth0 1", bin)
	require.Equal(t, before, links(t))
	require.Contains(t, sh(t, "%s status", bin), "VF 1 (")
	require.True(t, strings.HasPrefix(sh(t, "%s vf show --json", bin), "["))
}
