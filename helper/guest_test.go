//go:build integration

package main

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/guest"
	"libvirt-direct/integration/guest/kernel"
)

var image = sync.OnceValues(func() (*guest.Image, error) {
	cache, err := kernel.CacheDir()
	if err != nil {
		return nil, err
	}
	return guest.Prepare(context.Background(), cache, os.Stderr)
})

// The guest's kernel is downloaded, if it is not there, before the world without network begins.
func init() {
	beforeWorld = func() error {
		_, err := image()
		return err
	}
}

// copied puts the guest's kernel and initramfs where alice can read them.
func copied(t testing.TB) (kernel, initrd string) {
	t.Helper()
	img, err := image()
	require.NoError(t, err)
	dir := filepath.Dir(helper)
	kernel, initrd = filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "initrd")
	run(t, "install", "-m", "644", img.KernelPath, kernel)
	run(t, "install", "-m", "644", img.InitrdPath, initrd)
	return kernel, initrd
}

// A Linux guest's very first ping is answered: the device passes frames from the moment that QEMU has it. With two
// queues the guest uses both.
func TestGuestPings(t *testing.T) {
	wire(t, "v0", "v1")
	bridge(t, "br0")
	profiles(t, nics)
	vmlinuz, initrd := copied(t)
	run(t, "ip", "addr", "add", "10.61.0.1/24", "dev", "v1")
	run(t, "ip", "addr", "add", "10.62.0.1/24", "dev", "br0")
	hw, err := net.ParseMAC(guestMAC)
	require.NoError(t, err)
	for _, test := range []struct {
		name   string
		peer   string
		netdev string
		launch []string
	}{
		{"macvtap by helper=", "10.61.0.1", "bridge,id=n0,br=lan/" + guestMAC + ",helper=" + helper, nil},
		{"bridge by helper=", "10.62.0.1", "tap,id=n0,br=guests,helper=" + helper, nil},
		{"macvtap with two queues", "10.61.0.1", "tap,id=n0,fds={fds:lan}", []string{"--net", "lan,queues=2,mac=" + guestMAC}},
		{"bridge with two queues", "10.62.0.1", "tap,id=n0,fds={fds:guests}", []string{"--net", "guests,queues=2,mac=" + guestMAC}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "guest")
			require.NoError(t, err)
			t.Cleanup(func() { os.RemoveAll(dir) })
			require.NoError(t, os.Chown(dir, alice, alice))
			peer := netip.MustParseAddr(test.peer)
			serial, monitor := filepath.Join(dir, "console"), filepath.Join(dir, "qmp")
			device := "virtio-net-pci,netdev=n0,romfile=,mac=" + guestMAC
			more := []string{"-smp", "2", "-kernel", vmlinuz, "-initrd", initrd, "-netdev", test.netdev,
				"-chardev", "file,id=c0,path=" + serial, "-device", "isa-serial,chardev=c0", "-qmp", "unix:" + monitor + ",server=on,wait=off",
				"-append", guest.Cmdline{NICs: []guest.NIC{{MAC: hw, Addr: netip.PrefixFrom(peer.Next(), 24), Peer: peer}}}.String()}
			var args []string
			if test.launch == nil {
				args = qemuArgs(append(more, "-device", device)...)
			} else {
				args = launch(t, append(append(slices.Clone(test.launch), "--"),
					qemuArgs(append(more, "-sandbox", sandbox, "-device", device+",mq=on,vectors=6")...)...)...)
			}
			cmd := asAlice(t, args...)
			ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
			defer cancel()
			ping, err := (&guest.Console{Path: serial}).Wait(ctx, "ping ")
			require.NoError(t, err)
			require.Equal(t, "ping "+test.peer+" ok", ping.Text)
			if test.launch != nil {
				require.Len(t, devices(t, cmd.Process.Pid), 2)
				q := dialQMP(t, monitor)
				q.do(`{"execute":"qmp_capabilities"}`)
				info := q.do(`{"execute":"human-monitor-command","arguments":{"command-line":"info network"}}`)
				require.Contains(t, info, "index=1,type=tap,fd=")
			}
			if test.launch != nil && strings.HasPrefix(test.name, "bridge") {
				require.Regexp(t, `multi_queue .*numqueues 2 numdisabled 0`, run(t, "ip", "-d", "link", "show", "master", "br0"))
			}
			kill9(t, cmd)
		})
	}
}
