package link

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Tap is a persistent tap device to make (Documentation/networking/tuntap.rst).
type Tap struct {
	Name   string
	Index  int
	Queues int // more than 1 makes it IFF_MULTI_QUEUE, and only then several can be opened
}

// AddTap makes a tap device, down, that stays until it is deleted. A tap of that name is
// an error matching ErrExists; that of another device is the kernel's, EINVAL.
func (c *Conn) AddTap(_ context.Context, t Tap) error {
	if err := addTap(t); err != nil {
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
			err = fmt.Errorf("%w: %w", ErrExists, err)
		}
		return &OpError{Op: "create tap", Link: t.Name, Err: err}
	}
	return nil
}

func addTap(t Tap) error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open /dev/net/tun", err)
	}
	defer unix.Close(fd)
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETIFINDEX, t.Index); err != nil {
		return os.NewSyscallError("TUNSETIFINDEX", err)
	}
	req, err := unix.NewIfreq(t.Name)
	if err != nil {
		return err
	}
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_TUN_EXCL)
	if t.Queues > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	req.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return os.NewSyscallError("TUNSETIFF", err)
	}
	return os.NewSyscallError("TUNSETPERSIST", unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1))
}

// SetMTU sets the device's MTU in octets.
func (c *Conn) SetMTU(ctx context.Context, index, mtu int) error {
	if mtu < 1 {
		return &OpError{Op: "set MTU of", Link: "index " + strconv.Itoa(index), Err: unix.EINVAL}
	}
	return c.set(ctx, "set MTU of", index, nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu))))
}
