//go:build integration || vm

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

var offloaders = map[string]string{
	"macvtap":         "kind = macvtap\nlower = v0\n",
	"macvtap plain":   "kind = macvtap\nlower = v0\ndevice = macvtap\n",
	"bridge":          "kind = bridge\nbridge = br0\n",
	"bridge with tap": "kind = bridge\nbridge = br0\ndevice = tap\n",
}

// offloader is alice with a filtered device in front of a device that leaves checksums to the kernel, and the far end.
func offloader(t *testing.T, profile string) (a *nic, far string) {
	t.Helper()
	fabric(t)
	wire(t, "v0", "v1")
	far = "v1"
	if profile[7] == 'b' {
		far = "b1"
	}
	for _, dev := range []string{"v0", "b0"} { // otherwise the checksum is left to the far end
		checksumInSoftware(t, dev)
	}
	profiles(t, "[net]\n"+profile+"anti-spoof = yes\nguest-vlans = 1-9\nmac = 52:54:00:*\nallow = everyone\n")
	return granted(t, alice, "net/"+alicesMAC), far
}

// The filter sees a frame before the kernel fills in the checksum that the holder asks for, at an offset of his choice. The
// kernel has to refuse offsets in the Ethernet header and the first tag (virtio_net_hdr_to_skb, linux/virtio_net.h).
func TestHolderHasTheKernelRewriteTheHeaderBehindTheFilter(t *testing.T) {
	for _, name := range headersStay {
		t.Run(name, func(t *testing.T) { requireHeadersStay(t, offloaders[name]) })
	}
}

// requireHeadersStay says that no frame comes to the far end with another header than the one that the filter has seen.
func requireHeadersStay(t *testing.T, profile string) {
	t.Helper()
	a, far := offloader(t, profile)
	wire := ear(t, far)
	sent := map[string][]byte{}
	const pad = 8 // octets, so that what is written does not reach the text
	for start := range 20 {
		for at := start; at < 20; at++ {
			for _, tag := range []string{"", "81000007"} { // the kernel forgets the checksum where it takes a tag out
				text := fmt.Sprint("at ", start, " ", at, " ", tag)
				frame := eth(t, text, everybody, alicesMAC, tag, "0800", "0000000000000000")
				header := make([]byte, 10)
				header[0] = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM
				binary.NativeEndian.PutUint16(header[6:], uint16(start))
				binary.NativeEndian.PutUint16(header[8:], uint16(at-start))
				if _, err := a.files[0].Write(append(header, frame...)); err == nil {
					sent[text] = frame
				}
			}
		}
	}
	a.says(t, eth(t, "end", everybody, alicesMAC, experimental))
	for _, f := range heardFrames(t, wire) {
		if frame, ok := sent[textOf(f)]; ok {
			want, header := frame[:bytes.LastIndexByte(frame, '<')-pad], f[:bytes.LastIndexByte(f, '<')-pad]
			if len(header) < len(want) { // the kernel has put the tag beside the frame
				header = slices.Concat(header[:12], want[12:16], header[12:])
			}
			require.Equal(t, want, header, textOf(f))
		}
	}
}

// Behind the first tag's place the kernel writes the checksum wherever the holder says, which may be where a SNAP header
// has the EtherType: 0 and 0x0000f8 stand in front of one.
func TestHolderHasTheKernelWriteAnotherEtherTypeBehindASNAPHeader(t *testing.T) {
	for name, profile := range offloaders {
		t.Run(name, func(t *testing.T) {
			a, far := offloader(t, profile)
			wire := ear(t, far)
			for _, organization := range []string{"000000", "0000f8"} {
				snap := func(text, protocol string) []byte {
					return eth(t, text, everybody, alicesMAC, "0040", "aaaa03", organization, protocol)
				}
				for _, protocol := range []uint16{0x88cc, 0x8100, 0x8809, 0x888e} {
					text := fmt.Sprintf("%s as %04x", organization, protocol)
					_, _ = a.files[0].Write(forged(snap(text, "0800"), 20, protocol))
				}
				a.says(t, snap(organization+" 0800", "0800"), snap(organization+" 88cc", "88cc"))
			}
			a.says(t, eth(t, "end", everybody, alicesMAC, experimental))
			require.Empty(t, hears(t, wire))
		})
	}
}

// forged is a frame, behind a struct virtio_net_hdr, whose 16 bits at an offset become want when the kernel fills in the
// checksum of what follows there.
func forged(frame []byte, at int, want uint16) []byte {
	header := make([]byte, 10)
	header[0] = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM
	binary.NativeEndian.PutUint16(header[6:], uint16(at))
	frame = append(slices.Clone(frame), 0, 0, 0)
	frame = frame[:len(frame)-(len(frame)-at)%2]
	hole := frame[len(frame)-2:]
	// The sum of all is to be ^want.
	sum := uint32(^want) + uint32(internetChecksum(frame[at:]))
	binary.BigEndian.PutUint16(hole, uint16(sum&0xffff+sum>>16))
	return append(header, frame...)
}

// checksumInSoftware has a device's checksums filled in before frames are sent (ethtool -K DEVICE tx off).
func checksumInSoftware(t *testing.T, dev string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	value := struct{ cmd, data uint32 }{unix.ETHTOOL_STXCSUM, 0}
	var r struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(r.name[:], dev)
	r.data = unsafe.Pointer(&value)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&r)))
	require.Zero(t, errno)
}
