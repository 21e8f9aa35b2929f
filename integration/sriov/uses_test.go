//go:build integration

package sriov

import (
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/internal/link"
)

// Of the VFs of a card in daily use, which are free: the kernel tells what keeps each of
// the others.
func TestWhichVFsAreUsed(t *testing.T) {
	c, err := link.Open()
	require.NoError(t, err)
	defer c.Close()
	ctx := t.Context()
	vfs(t, "eth0", 7)
	at := func(n int) (address, netdev string) { return device(t, "eth0", n) }

	_, hosts := at(0)
	sh(t, "ip link set %s up && ip addr add 192.0.2.10/24 dev %s && ip route add default via 192.0.2.1 dev %s", hosts, hosts, hosts)
	_, up := at(1) // by udev, say: it has the kernel's own IPv6 address
	sh(t, "ip link set %s up && until ip -6 addr show dev %s scope link | grep -q fe80; do :; done", up, up)
	_, guests := at(2)
	sh(t, "ip link add link %s name mt0 type macvtap mode passthru", guests)
	t.Cleanup(func() { sh(t, "ip link del mt0") })
	container := exec.Command("sleep", "infinity")
	container.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	require.NoError(t, container.Start())
	ended := func() { _ = container.Process.Kill(); _ = container.Wait() }
	t.Cleanup(ended)
	pid := strconv.Itoa(container.Process.Pid)
	_, moved := at(3)
	sh(t, "ip link set %s netns %s", moved, pid)
	rebind := "modprobe vfio-pci && cd /sys/bus/pci/devices/%s && echo vfio-pci >driver_override && echo %s >driver/unbind && echo %s >/sys/bus/pci/drivers_probe"
	given, _ := at(4)
	sh(t, rebind, given, given, given)
	unbound, _ := at(5)
	sh(t, "echo %s >/sys/bus/pci/devices/%s/driver/unbind", unbound, unbound)
	_, lent := at(6)
	sh(t, "ip link add link %s name mv0 netns %s type macvlan mode bridge", lent, pid)

	uses, err := c.VFUses(ctx, "eth0")
	require.NoError(t, err)
	require.Len(t, uses, 7)
	where := " the network namespace of process " + pid + " (sleep)"
	elsewhere := c.Elsewhere(ctx)
	require.Empty(t, elsewhere.Unknown)
	for n, want := range [][]string{
		{"address: it has address 192.0.2.10/24", "route: route default via 192.0.2.1 goes through it"},
		nil,
		{"upper: mt0 stands on it"},
		{"away: its network device " + moved + " is in" + where},
		{"driver: it is bound to vfio-pci and has no network device"},
		{"unbound: it is bound to no driver"},
		{"elsewhere: macvlan mv0 (bridge) stands on it in" + where},
	} {
		var have []string
		for u := range c.VFUsed(ctx, uses[n], elsewhere) {
			have = append(have, string(u.Kind)+": "+u.Evidence)
		}
		require.Equal(t, want, have, "VF %d", n)
	}
	u, used := link.FirstUse(c.VFUsed(ctx, uses[3], nil))
	require.True(t, used)
	require.Equal(t, "its network device is in another network namespace", u.Evidence, "by sysfs alone")

	// On the PF the kernel makes a macvtap that takes all of it.
	sh(t, "ip addr add 198.51.100.5/24 dev eth0")
	t.Cleanup(func() { sh(t, "ip addr del 198.51.100.5/24 dev eth0") })
	obstacles, err := c.Lower(ctx, "eth0", "passthrough", elsewhere)
	require.NoError(t, err)
	require.Len(t, obstacles, 2)
	require.Equal(t, "it has 7 virtual functions", obstacles[0].String())
	require.Equal(t, "it has address 198.51.100.5/24", obstacles[1].String())
	require.Zero(t, obstacles[0].Errno)
	obstacles, err = c.Lower(ctx, "eth0", "bridge", elsewhere)
	require.NoError(t, err)
	require.Empty(t, obstacles)

	begin := time.Now()
	elsewhere = c.Elsewhere(ctx)
	t.Logf("other namespaces: %v", time.Since(begin))
	begin = time.Now()
	free := slices.IndexFunc(uses, func(vf link.VFUse) bool {
		_, used := link.FirstUse(c.VFUsed(ctx, vf, elsewhere))
		return !used
	})
	t.Logf("first free VF: %v", time.Since(begin))
	require.Equal(t, 1, free)
	ended() // so that its VF comes back before the VFs go
	require.Eventually(t, func() bool {
		out, _ := tryShell("ls /sys/class/net/eth0/device/virtfn3/net")
		return out != ""
	}, 10*time.Second, 20*time.Millisecond)
}
