package link

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"libvirt-direct/helper/tapname"
)

// Tap is a persistent tap device to make (Documentation/networking/tuntap.rst).
type Tap struct {
	Name   string
	Index  int
	Queues int // more than 1 makes it IFF_MULTI_QUEUE, and only then several can be opened
}

// AddTap makes a tap device, down, that stays until it is deleted. A tap of that name is
// an error matching ErrExists; that of another device is the kernel's, EINVAL.
func (c *Conn) AddTap(ctx context.Context, t Tap) error {
	if err := addTap(t); err != nil {
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
			err = fmt.Errorf("%w: %w", ErrExists, err)
		}
		return &OpError{Op: "create tap", Link: t.Name, Err: err}
	}
	// The kernel takes no group with the ioctl: until now its name has told what it is.
	return c.set(ctx, "set group of", t.Index, group())
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

// Attributes of IFLA_INFO_DATA of kind tun (include/uapi/linux/if_link.h).
const (
	tunPersist           = 6 // IFLA_TUN_PERSIST
	tunMultiQueue        = 7 // IFLA_TUN_MULTI_QUEUE
	tunNumQueues         = 8 // IFLA_TUN_NUM_QUEUES
	tunNumDisabledQueues = 9 // IFLA_TUN_NUM_DISABLED_QUEUES
)

// Taps returns every TUN or TAP device of the namespace, as package tapname judges them.
func (c *Conn) Taps(ctx context.Context) ([]tapname.Device, error) {
	req := message(unix.RTM_GETLINK, 0, 0)
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(filterSkipStats)))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO|unix.NLA_F_NESTED, nil)
	info.AddRtAttr(unix.IFLA_INFO_KIND, nl.ZeroTerminated("tun"))
	req.AddData(info)
	out, err := c.list(ctx, "list", "links", req)
	if err != nil {
		return nil, err
	}
	var taps []tapname.Device
	for _, b := range out {
		d, err := parseTun(b)
		if err != nil {
			return nil, &OpError{Op: "list", Link: "links", Err: err}
		}
		if d.Kind == "tun" { // a kernel that does not filter answers with everything
			taps = append(taps, d)
		}
	}
	return taps, nil
}

// parseTun reads an answer to RTM_GETLINK.
func parseTun(b []byte) (tapname.Device, error) {
	l, err := parseLink(b)
	if err != nil {
		return tapname.Device{}, err
	}
	d := tapname.Device{Index: l.Index, Name: l.Name, Kind: l.Kind}
	if d.Kind != "tun" {
		return d, nil
	}
	return d, EachAttr(b[unix.SizeofIfInfomsg:], func(typ uint16, v []byte) error {
		switch typ {
		case unix.IFLA_CARRIER: // also of a device that is down, unlike IFF_LOWER_UP
			return octetFlag(&d.Carrier, v)
		case unix.IFLA_LINKINFO:
			return EachAttr(v, func(typ uint16, v []byte) error {
				if typ != unix.IFLA_INFO_DATA {
					return nil
				}
				return EachAttr(v, func(typ uint16, v []byte) error { return tunAttr(&d, typ, v) })
			})
		}
		return nil
	})
}

func tunAttr(d *tapname.Device, typ uint16, v []byte) error {
	switch typ {
	case tunPersist:
		return octetFlag(&d.Persist, v)
	case tunMultiQueue:
		return octetFlag(&d.MultiQueue, v)
	case tunNumQueues:
		return count(&d.Queues, v)
	case tunNumDisabledQueues:
		return count(&d.Disabled, v)
	}
	return nil
}

func octetFlag(to *bool, v []byte) error {
	n, err := octet(v)
	*to = n != 0
	return err
}

func count(to *uint32, v []byte) error {
	n, err := u32(v)
	*to = uint32(n)
	return err
}

// SetMTU sets the device's MTU in octets.
func (c *Conn) SetMTU(ctx context.Context, index, mtu int) error {
	if mtu < 1 {
		return &OpError{Op: "set MTU of", Link: "index " + strconv.Itoa(index), Err: unix.EINVAL}
	}
	return c.set(ctx, "set MTU of", index, nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu))))
}
