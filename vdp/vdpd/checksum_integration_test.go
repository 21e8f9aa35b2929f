//go:build integration

package main_test

import (
	"encoding/binary"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/integration/host/hosttest"
	"libvirt-direct/vdp"
)

// checksumInSoftware has the kernel compute checksums of what leaves an interface, as a card
// does on the wire.
func (h *host) checksumInSoftware(ns, ifname string) {
	h.Helper()
	h.in(ns, func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		require.NoError(h, err)
		defer unix.Close(fd)
		off := [2]uint32{0x17} // ETHTOOL_STXCSUM
		req := struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte
		}{data: unsafe.Pointer(&off)}
		copy(req.name[:], ifname)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
		require.Zero(h, errno)
	})
}

// A guest leaves a checksum in its frame to the card, which writes it behind vdpd's back: what
// comes back is not what has left.
func TestGuestLeavesTheChecksumToTheCard(t *testing.T) {
	h := newHost(t)
	h.reflect(reflectors[0], nil)
	h.checksumInSoftware(h.b, bridgeIf)
	h.vdpd()
	// Its own comes back, too, when it is deaf no longer.
	hosttest.Eventually(h, 10*time.Second, "its first LLDPDU", func() bool { return h.uplink().Received.LLDP > 0 })
	was := h.uplink().Received.LLDP

	p := vdp.LLDPDU{
		Chassis: []byte{7, 'x'}, Port: []byte{7, 'y'}, TTL: 120,
		EVB: &vdp.EVB{Role: vdp.RoleBridge, Retries: 7, RTE: 31, RWD: 31, RKA: 31},
	}
	b, err := p.MarshalBinary()
	require.NoError(t, err)
	f := vdp.Frame{Dst: vdp.NearestCustomerBridge, Src: randomMAC, EtherType: vdp.EtherTypeLLDP, Payload: b}
	frame, err := f.MarshalBinary()
	require.NoError(t, err)
	for i := range byte(40) {
		frame = append(frame, 1+i)
	}
	header := make([]byte, 10) // struct virtio_net_hdr
	header[0] = unix.VIRTIO_NET_HDR_F_NEEDS_CSUM
	binary.NativeEndian.PutUint16(header[6:], 60)
	binary.NativeEndian.PutUint16(header[8:], 20)
	h.in(h.a, func() {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		require.NoError(t, err)
		defer unix.Close(fd)
		require.NoError(t, unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1))
		require.NoError(t, unix.Sendto(fd, append(header, frame...), 0, &unix.SockaddrLinklayer{Ifindex: h.ifindex(stationIf)}))
	})
	hosttest.Eventually(h, 10*time.Second, "its return", func() bool { return h.uplink().Received.LLDP > was })
	u := h.uplink()
	require.Nil(t, u.Switch)
	require.NotZero(t, u.Echoes)
}
