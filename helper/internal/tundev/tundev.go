// Package tundev has the ioctls that TAP and macvtap descriptors share (linux/if_tun.h).
package tundev

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/ether"
	"libvirt-direct/helper/internal/privilege"
)

// ifreq is the struct of that name (netdevice(7)), with its union as octets.
type ifreq struct {
	name [unix.IFNAMSIZ]byte
	data [24]byte
}

func (r *ifreq) short(v uint16) { *(*uint16)(unsafe.Pointer(&r.data)) = v }

func ioctl(fd int, req uint, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}

// Mode says what a descriptor's frames look like.
type Mode struct {
	VNetHdr    bool // a struct virtio_net_hdr stands before each Ethernet frame
	MultiQueue bool
}

func request(name string, m Mode) ifreq {
	r := ifreq{}
	copy(r.name[:unix.IFNAMSIZ-1], name)
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if m.VNetHdr {
		flags |= unix.IFF_VNET_HDR
	}
	if m.MultiQueue {
		flags |= unix.IFF_MULTI_QUEUE
	}
	r.short(flags)
	return r
}

// SetMode sets the mode of a macvtap's queue.
func SetMode(fd int, m Mode) error {
	r := request("", m)
	return ioctl(fd, unix.TUNSETIFF, unsafe.Pointer(&r))
}

// Attach attaches a descriptor of /dev/net/tun to the TAP device called name, which is made if need be.
func Attach(fd int, name string, m Mode) error {
	r := request(name, m)
	return privilege.With(privilege.NetAdmin, func() error {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(&r)))
		if errno != 0 {
			return errno
		}
		return nil
	})
}

// SetOwner says who, beside those with CAP_NET_ADMIN, may attach further descriptors to the TAP device by its name. A
// new device has no owner, and is then anybody's.
func SetOwner(fd int, uid uint32) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETOWNER, uintptr(uid))
	if errno != 0 {
		return errno
	}
	return nil
}

// SetIndex chooses the interface index of the device that the next Attach makes.
func SetIndex(fd, index int) error {
	v := uint32(index)
	return ioctl(fd, unix.TUNSETIFINDEX, unsafe.Pointer(&v))
}

// Name is the name of the descriptor's device.
func Name(fd int) (string, error) {
	r := ifreq{}
	if err := ioctl(fd, unix.TUNGETIFF, unsafe.Pointer(&r)); err != nil {
		return "", err
	}
	return unix.ByteSliceToString(r.name[:]), nil
}

// MAC is the address of the descriptor's device.
func MAC(fd int) (ether.MAC, error) {
	r := ifreq{}
	if err := ioctl(fd, unix.SIOCGIFHWADDR, unsafe.Pointer(&r)); err != nil {
		return ether.MAC{}, err
	}
	return ether.MAC(r.data[2:8]), nil
}

// Exists reports whether the network namespace of a socket has a device of this index.
func Exists(socket, index int) bool {
	r := ifreq{}
	*(*int32)(unsafe.Pointer(&r.data)) = int32(index)
	return ioctl(socket, unix.SIOCGIFNAME, unsafe.Pointer(&r)) == nil
}

// Rewrites reports whether the kernel writes the checksum that a frame's sender asks for (struct virtio_net_hdr) into the
// Ethernet header too, where a filter may already have been: Linux 6.1 does, and later kernels refuse such a frame
// (virtio_net_hdr_to_skb, linux/virtio_net.h). fd is of a TAP device that is up; the frame that it tries has no source
// address. Without the header nobody can ask for a checksum.
func Rewrites(fd int, mode Mode) bool {
	if !mode.VNetHdr {
		return false
	}
	frame := make([]byte, 10+60)
	const etherType = 12
	frame[0] = 1                                      // VIRTIO_NET_HDR_F_NEEDS_CSUM
	*(*uint16)(unsafe.Pointer(&frame[6])) = etherType // csum_start; csum_offset is 0
	_, err := unix.Write(fd, frame)
	return err != unix.EINVAL
}
