//go:build integration

package guest_test

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/guest"
	"libvirt-direct/integration/guest/kernel"
)

// power starts a guest whose NICs are on unix datagram sockets, and returns its
// console, its monitor's path and a channel that QEMU's end comes from.
func power(t *testing.T, img *guest.Image, name string, c guest.Cmdline, args ...string) (*guest.Console, string, <-chan error) {
	t.Helper()
	dir := t.TempDir()
	console := &guest.Console{Path: filepath.Join(dir, "console")}
	monitor := filepath.Join(dir, "monitor")
	cmd := exec.Command("qemu-system-x86_64", append([]string{
		"-name", name, "-machine", "q35,accel=tcg", "-m", "128", "-nodefaults", "-display", "none", "-no-reboot",
		"-kernel", img.KernelPath, "-initrd", img.InitrdPath, "-append", c.String(),
		"-serial", "file:" + console.Path, "-monitor", "unix:" + monitor + ",server=on,wait=off",
	}, args...)...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, cmd.Start())
	done := make(chan error, 1)
	ended := make(chan struct{})
	go func() {
		done <- cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
	})
	return console, monitor, done
}

// TestTwoGuests is the guest's whole contract: addresses of both families, on
// the card and on a VLAN, both card models, reports, and the power button.
func TestTwoGuests(t *testing.T) {
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	dir, err := kernel.CacheDir()
	require.NoError(t, err)
	_, err = guest.Prepare(t.Context(), dir, os.Stderr)
	require.NoError(t, err)
	start := time.Now()
	img, err := guest.Prepare(t.Context(), dir, os.Stderr)
	require.NoError(t, err)
	require.Less(t, time.Since(start), 100*time.Millisecond, "the cache is filled")

	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	// Two plain NICs on one wire, two with a VLAN inside the guest on another.
	const (
		a, b   = "52:54:00:00:00:01", "52:54:00:00:00:02"
		av, bv = "52:54:00:00:01:01", "52:54:00:00:01:02"
	)
	wires := t.TempDir()
	wire := func(id, local, remote string) string {
		return "dgram,id=" + id + ",local.type=unix,local.path=" + wires + "/" + id + local +
			",remote.type=unix,remote.path=" + wires + "/" + id + remote
	}
	start = time.Now()
	first, monitor, firstEnd := power(t, img, "first", guest.Cmdline{NICs: []guest.NIC{
		{
			MAC: mac(t, a), Addr: netip.MustParsePrefix("10.0.0.1/24"), Peer: netip.MustParseAddr("10.0.0.2"),
			Addr6: netip.MustParsePrefix("fd00::1/64"), Peer6: netip.MustParseAddr("fd00::2"),
		},
		{MAC: mac(t, av), VLAN: 100, Addr: netip.MustParsePrefix("10.1.0.1/24"), Peer: netip.MustParseAddr("10.1.0.2")},
	}},
		"-netdev", wire("n", "a", "b"), "-device", "pcie-root-port,id=slot0",
		"-device", "virtio-net-pci,id=card,bus=slot0,netdev=n,mac="+a,
		"-netdev", wire("v", "a", "b"), "-device", "e1000e,netdev=v,mac="+av)
	second, _, secondEnd := power(t, img, "second", guest.Cmdline{NICs: []guest.NIC{
		{MAC: mac(t, b), Addr: netip.MustParsePrefix("10.0.0.2/24"), Addr6: netip.MustParsePrefix("fd00::2/64")},
		{MAC: mac(t, bv), VLAN: 100, Addr: netip.MustParsePrefix("10.1.0.2/24")},
	}},
		"-netdev", wire("n", "b", "a"), "-device", "virtio-net-pci,netdev=n,mac="+b,
		"-netdev", wire("v", "b", "a"), "-device", "e1000e,netdev=v,mac="+bv)

	up, err := first.Wait(ctx, "up")
	require.NoError(t, err)
	require.Greater(t, up.Uptime, time.Duration(0))
	t.Logf("up after %v, by its own clock %v", time.Since(start).Round(10*time.Millisecond), up.Uptime)
	for _, event := range []string{"nic " + a + " 10.0.0.1/24", "nic " + a + " fd00::1/64", "ping 10.0.0.2 ok", "ping fd00::2 ok", "nic " + av + " 10.1.0.1/24", "ping 10.1.0.2 ok"} {
		// Each from the beginning: the NICs report independently.
		c := guest.Console{Path: first.Path}
		_, err = c.Wait(ctx, event)
		require.NoError(t, err)
		t.Logf("%s after %v", event, time.Since(start).Round(10*time.Millisecond))
	}
	_, err = second.Wait(ctx, "nic "+bv+" 10.1.0.2/24")
	require.NoError(t, err)

	// Nothing reaches it any more once the other end is gone.
	conn, err := net.Dial("unix", monitor)
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte("set_link n off\n"))
	require.NoError(t, err)
	require.NoError(t, first.Skip())
	_, err = first.Wait(ctx, "ping 10.0.0.2 lost")
	require.NoError(t, err)

	_, err = conn.Write([]byte("device_del card\n"))
	require.NoError(t, err)
	_, err = first.Wait(ctx, "gone "+a)
	require.NoError(t, err)

	select {
	case <-firstEnd:
		t.Fatal("the first guest ended by itself")
	case <-secondEnd:
		t.Fatal("the second guest ended by itself")
	default:
	}
	pressed := time.Now()
	_, err = conn.Write([]byte("system_powerdown\n"))
	require.NoError(t, err)
	select {
	case err := <-firstEnd:
		require.NoError(t, err)
		t.Logf("powered off %v after the button", time.Since(pressed).Round(time.Millisecond))
		require.Less(t, time.Since(pressed), 2*time.Second)
	case <-ctx.Done():
		t.Fatal("the power button does nothing")
	}
	_, err = first.Wait(ctx, "poweroff")
	require.NoError(t, err)
}
