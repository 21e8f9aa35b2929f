//go:build integration

package main

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/helper/client"
)

// A macvlan is as good as the device below it.
func TestMacvlanAsLower(t *testing.T) {
	wire(t, "v0", "v1")
	for _, below := range []string{"bridge", "vepa", "private"} {
		run(t, "ip", "link", "add", "mv0", "link", "v0", "type", "macvlan", "mode", below)
		for _, mode := range []string{"bridge", "vepa", "private"} {
			profiles(t, "[lan]\nkind = macvtap\nlower = mv0\nmode = "+mode+"\nmac = any\nallow = everyone\n")
			a := ask(t, "lan/52:54:00:aa:bb:cc")
			tap := requireGranted(t, a)
			d, err := client.Inspect(tap)
			require.NoError(t, err)
			require.Equal(t, "52:54:00:aa:bb:cc", d.MAC.String())
			requireHears(t, tap, "v1", d.MAC, below+"/"+mode)
			requireRefused(t, askAs(t, bob, "lan/52:54:00:aa:bb:cc"), "the MAC address is in use by device ")
			a.close()
			requireNothingLeft(t)
		}
		run(t, "ip", "link", "del", "mv0")
	}
}

// requireHears sends a frame to a guest from the far end of the cable.
func requireHears(t *testing.T, tap interface{ Read([]byte) (int, error) }, from string, mac net.HardwareAddr, about string) {
	t.Helper()
	l, err := net.InterfaceByName(from)
	require.NoError(t, err)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	frame := append(append([]byte{}, mac...), 2, 0, 0, 0, 0, 1, 0x88, 0xb5)
	frame = append(frame, make([]byte, 46)...)
	require.Eventually(t, func() bool {
		require.NoError(t, unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: l.Index, Halen: 6}))
		b := make([]byte, 2048)
		n, err := tap.Read(b)
		const header = 10 // struct virtio_net_hdr
		return err == nil && n >= header+len(frame) && string(b[header:header+14]) == string(frame[:14])
	}, 5*time.Second, 5*time.Millisecond, about)
}

func TestMacvlanRefused(t *testing.T) {
	wire(t, "v0", "v1")
	refused := func(kind, below, profile, text string) {
		t.Helper()
		run(t, "ip", "link", "add", "mv0", "link", "v0", "type", kind, "mode", below)
		defer run(t, "ip", "link", "del", "mv0")
		profiles(t, "passthrough = mv0\n[lan]\nkind = macvtap\nlower = mv0\nmac = any\nallow = everyone\n"+profile)
		requireRefused(t, ask(t, "lan/52:54:00:aa:bb:cc"), text)
	}
	refused("macvtap", "bridge", "", errMacvtapLower.Error())
	refused("macvlan", "passthru", "", errMacvlanWhole.Error())
	refused("macvlan", "passthru", "mode = passthrough\n", errMacvlanWhole.Error())
	refused("macvlan", "bridge", "mode = passthrough\n", errMacvlanShares.Error())
	refused("macvlan", "bridge", "vlan = 5\n", errMacvlanVLAN.Error())
}
