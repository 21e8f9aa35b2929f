//go:build integration

package link

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/helper/devgroup"
)

// namespace puts the test, on a thread of its own, into fresh network and mount
// namespaces with a sysfs that shows them, and returns a connection and `ip`.
func namespace(t *testing.T) (context.Context, *Conn, func(args ...string)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root: network namespaces")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	require.NoError(t, unix.Unshare(unix.CLONE_NEWNET|unix.CLONE_NEWNS))
	require.NoError(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	require.NoError(t, unix.Mount("sysfs", "/sys", "sysfs", 0, ""))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	c, err := Open()
	require.NoError(t, err)
	t.Cleanup(c.Close)
	ip := func(args ...string) {
		t.Helper()
		out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	return ctx, c, ip
}

func TestMacvtapModes(t *testing.T) {
	ctx, c, ip := namespace(t)
	ip("link", "add", "nica", "type", "veth", "peer", "name", "wire")
	lower, err := c.ByName(ctx, "nica")
	require.NoError(t, err)
	for _, mode := range []string{"vepa", "bridge", "private", "passthrough"} {
		// No subtest: it would run on another thread, outside the namespace.
		index, err := FreeIndex()
		require.NoError(t, err)
		require.NoError(t, c.AddMacvtap(ctx, Macvtap{
			Name: "ldt0", Index: index, Lower: lower.Index, Mode: mode, MAC: "52:54:00:00:00:01", MTU: 1400, Queues: 4,
		}))
		l, err := c.ByName(ctx, "ldt0")
		require.NoError(t, err)
		require.Equal(t, index, l.Index)
		require.Equal(t, "macvtap", l.Kind)
		require.Equal(t, mode, l.Mode)
		require.Equal(t, lower.Index, l.Parent)
		require.Equal(t, 1400, l.MTU)
		require.False(t, l.Up)
		if mode != "passthrough" {
			require.Equal(t, "52:54:00:00:00:01", l.MAC)
		}
		node, err := c.TapNode(ctx, l)
		require.NoError(t, err)
		fi, err := os.Stat(node)
		require.NoError(t, err)
		require.NotZero(t, fi.Mode()&os.ModeCharDevice)

		require.NoError(t, c.SetMAC(ctx, index, "52:54:00:00:00:02"))
		require.NoError(t, c.SetAlias(ctx, index, "an alias"))
		require.NoError(t, c.SetAllMulticast(ctx, index, true))
		require.NoError(t, c.Silence(ctx, index))
		require.NoError(t, c.SetUp(ctx, lower.Index, true))
		require.NoError(t, c.SetUp(ctx, index, true))
		l, err = c.ByIndex(ctx, index)
		require.NoError(t, err)
		require.Equal(t, "52:54:00:00:00:02", l.MAC)
		require.Equal(t, "an alias", l.Alias)
		require.True(t, l.Up && l.AllMulti)
		requireSilent(t, "ldt0")
		out, err := exec.CommandContext(ctx, "ip", "-6", "addr", "show", "dev", "ldt0").Output()
		require.NoError(t, err)
		require.Empty(t, string(out), "the host has no address on a guest's device")
		uppers, err := c.Uppers(ctx, "nica")
		require.NoError(t, err)
		require.Equal(t, []string{"ldt0"}, uppers)

		err = c.AddMacvtap(ctx, Macvtap{Name: "ldt0", Lower: lower.Index, Mode: mode, MAC: "52:54:00:00:00:03"})
		require.ErrorIs(t, err, ErrExists)
		require.ErrorIs(t, err, unix.EEXIST)
		require.NoError(t, c.Delete(ctx, index))
		require.ErrorIs(t, c.Delete(ctx, index), ErrNotFound)
		after, err := c.ByName(ctx, "nica")
		require.NoError(t, err)
		require.Equal(t, lower.MAC, after.MAC, "the lower device has its MAC back")
	}
}

func TestAltNames(t *testing.T) {
	ctx, c, ip := namespace(t)
	ip("link", "add", "nica", "type", "veth", "peer", "name", "wire")
	l, err := c.ByName(ctx, "nica")
	require.NoError(t, err)
	require.NoError(t, c.SetName(ctx, l.Index, "nicb"))
	require.ErrorIs(t, c.SetName(ctx, l.Index, "wire"), ErrExists)
	require.NoError(t, c.SetName(ctx, l.Index, "nica"))
	require.NoError(t, c.AddAltName(ctx, l.Index, "storage"))
	require.NoError(t, c.AddAltName(ctx, l.Index, "a-name-that-is-longer-than-fifteen"))
	for _, name := range []string{"storage", "a-name-that-is-longer-than-fifteen"} {
		found, err := c.ByName(ctx, name)
		require.NoError(t, err)
		require.Equal(t, "nica", found.Name)
		require.True(t, found.Called(name))
	}
	require.ErrorIs(t, c.AddAltName(ctx, l.Index, "storage"), ErrExists)
	require.NoError(t, c.RemoveAltName(ctx, l.Index, "storage"))
	_, err = c.ByName(ctx, "storage")
	require.ErrorIs(t, err, ErrNotFound)
}

// Two namespaces' macvtaps with one index share one node; the second must notice.
func TestTapNodeOfAnotherNamespaceIsRefused(t *testing.T) {
	ctx, c, ip := namespace(t)
	ip("link", "add", "nica", "type", "veth", "peer", "name", "wire")
	lower, err := c.ByName(ctx, "nica")
	require.NoError(t, err)
	index, err := FreeIndex()
	require.NoError(t, err)
	require.NoError(t, c.AddMacvtap(ctx, Macvtap{Name: "one", Index: index, Lower: lower.Index, Mode: "bridge", MAC: "52:54:00:00:00:01"}))
	require.NoError(t, unix.Unshare(unix.CLONE_NEWNET))
	require.NoError(t, unix.Mount("sysfs", "/sys", "sysfs", 0, ""))
	second, err := Open()
	require.NoError(t, err)
	defer second.Close()
	ip("link", "add", "nica", "type", "veth", "peer", "name", "wire")
	lower, err = second.ByName(ctx, "nica")
	require.NoError(t, err)
	require.NoError(t, second.AddMacvtap(ctx, Macvtap{Name: "two", Index: index, Lower: lower.Index, Mode: "bridge", MAC: "52:54:00:00:00:01"}))
	l, err := second.ByName(ctx, "two")
	require.NoError(t, err)
	_, err = second.TapNode(ctx, l)
	require.True(t, errors.Is(err, ErrNodeTaken), "%v", err)
}

func TestVLANOrTheReasonWhyNot(t *testing.T) {
	ctx, c, ip := namespace(t)
	ip("link", "add", "nica", "mtu", "1450", "type", "veth", "peer", "name", "wire")
	lower, err := c.ByName(ctx, "nica")
	require.NoError(t, err)
	err = c.AddVLAN(ctx, VLAN{Name: "nica.100", Parent: lower.Index, ID: 100})
	if errors.Is(err, ErrNotSupported) {
		t.Logf("this kernel has no 8021q: %v", err) // the test machine's has
		return
	}
	require.NoError(t, err)
	l, err := c.ByName(ctx, "nica.100")
	require.NoError(t, err)
	require.Equal(t, 100, l.VLANID)
	require.Equal(t, 1450, l.MTU)
	require.Equal(t, lower.Index, l.Parent)
}

func TestDeadlineIsKept(t *testing.T) {
	_, c, _ := namespace(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := c.ByName(ctx, "lo")
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// The kernel's own devices, on PCI functions of a sysfs that this test makes.
func TestDeviceOfAPCIFunction(t *testing.T) {
	ctx, c, ip := namespace(t)
	ip("link", "add", "nica", "type", "veth", "peer", "name", "nicb")
	const devices = "/sys/bus/pci/devices"
	require.NoError(t, unix.Mount("tmpfs", devices, "tmpfs", 0, ""))
	for function, names := range map[string][]string{
		"0000:03:00.0": {"nica", "nicb"}, "10000:e1:00.0": {"nicb"}, "0000:04:00.0": {}, "0000:05:00.0": {"other"},
	} {
		for _, n := range append(names, "") {
			require.NoError(t, os.MkdirAll(devices+"/"+function+"/net/"+n, 0o755))
		}
	}
	for _, spelling := range []string{"10000:e1:00.0", "10000:E1:0.0"} {
		l, err := c.ByPCI(ctx, spelling)
		require.NoError(t, err, spelling)
		require.Equal(t, "nicb", l.Name)
	}
	_, err := c.ByPCI(ctx, "3:0.0")
	require.ErrorIs(t, err, ErrAmbiguous)
	require.ErrorContains(t, err, "look up PCI 3:0.0: several network devices answer to it: nica, nicb")
	for _, none := range []string{"0000:04:00.0", "0000:05:00.0", "0000:06:00.0", "..", "*", ""} {
		_, err := c.ByPCI(ctx, none)
		require.ErrorIs(t, err, ErrNotFound, none)
	}
}

// requireSilent is for a device on which the host neither speaks nor answers, and which its
// network managers can tell from theirs.
func requireSilent(t *testing.T, name string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ip", "-details", "link", "show", "dev", name).Output()
	require.NoError(t, err)
	require.Contains(t, string(out), "NOARP")
	require.Contains(t, string(out), " group "+strconv.Itoa(devgroup.Group)+" ")
	for file, want := range map[string]string{"ipv6/conf/" + name + "/disable_ipv6": "1\n", "ipv4/conf/" + name + "/rp_filter": "1\n"} {
		have, err := os.ReadFile("/proc/sys/net/" + file)
		require.NoError(t, err)
		require.Equal(t, want, string(have), file)
	}
}
