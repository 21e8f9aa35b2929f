// Package tundev has the ioctls that TAP and macvtap descriptors share (linux/if_tun.h).
package tundev

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/ether"
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

// SetFlags attaches a descriptor of /dev/net/tun to the device called name, which is made if need be, or sets the flags
// of a macvtap queue. Frames are Ethernet frames, after a struct virtio_net_hdr if vnetHdr is set.
func SetFlags(fd int, name string, vnetHdr, multiQueue bool) error {
	r := ifreq{}
	copy(r.name[:unix.IFNAMSIZ-1], name)
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if vnetHdr {
		flags |= unix.IFF_VNET_HDR
	}
	if multiQueue {
		flags |= unix.IFF_MULTI_QUEUE
	}
	r.short(flags)
	return ioctl(fd, unix.TUNSETIFF, unsafe.Pointer(&r))
}

// SetIndex chooses the interface index of the device that the next SetFlags makes.
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
