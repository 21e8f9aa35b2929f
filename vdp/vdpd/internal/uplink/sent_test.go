package uplink

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A checksum that is still to come is in the forms of a frame, as the kernel computes it: this
// frame came back from a bridge with 91 7d.
func TestSent(t *testing.T) {
	frame := make([]byte, 100)
	for i := range frame[49:] {
		frame[49+i] = byte(1 + i)
	}
	header := func(flags uint8, start, offset uint16) []byte {
		h := make([]byte, vnetLen)
		h[0] = flags
		binary.NativeEndian.PutUint16(h[6:], start)
		binary.NativeEndian.PutUint16(h[8:], offset)
		return h
	}
	forms := sent(append(header(0, 60, 20), frame...))
	require.Equal(t, [][]byte{frame}, forms)

	filled := append([]byte{}, frame...)
	filled[80], filled[81] = 0x91, 0x7d
	require.Equal(t, [][]byte{frame, filled}, sent(append(header(unix.VIRTIO_NET_HDR_F_NEEDS_CSUM, 60, 20), frame...)))

	// Out of the frame, and of none.
	require.Equal(t, [][]byte{frame}, sent(append(header(unix.VIRTIO_NET_HDR_F_NEEDS_CSUM, 60, 39), frame...)))
	require.Empty(t, sent(make([]byte, vnetLen-1)))

	// A sum of zero may be on the wire in both forms.
	zero := append(make([]byte, 60), 0xff, 0xff, 0, 0)
	require.Len(t, sent(append(header(unix.VIRTIO_NET_HDR_F_NEEDS_CSUM, 60, 2), zero...)), 3)
}
