// Package macvtap makes macvtap devices and opens them.
//
// A macvtap device normally stays when the last descriptor of its node is closed. This package makes it in an anonymous
// network namespace that nothing but those descriptors keeps alive: the node's sockets belong to the namespace in which
// open(2) was called (tap_open, drivers/net/tap.c), so the kernel removes the namespace, and the device with it, as
// soon as the last descriptor is closed, however that comes about.
package macvtap

import (
	"errors"
	"strconv"

	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/antispoof"
	"libvirt-direct/helper/internal/ether"
	"libvirt-direct/helper/internal/linkproto"
	"libvirt-direct/helper/internal/policy"
	"libvirt-direct/helper/internal/privilege"
	"libvirt-direct/helper/internal/rtnl"
	"libvirt-direct/helper/internal/tundev"
)

// Prefix is the beginning of a device's name; the hexadecimal interface index follows.
const Prefix = "mvt"

// Errors matched with errors.Is.
var (
	ErrNoNode   = errors.New("the device has no node below /dev: devtmpfs is not mounted there")
	ErrIdentity = errors.New("the node below /dev belongs to another device")
)

// Spec is a device to be made.
type Spec struct {
	Index   int // of the new device, and the number in its node's name, which is one for all network namespaces
	Lower   rtnl.Link
	Mode    policy.Mode
	MAC     ether.MAC
	Filter  bool
	VLANs   policy.VLANSet
	VNetHdr bool
	Queues  int
	Visible bool // in the namespace of host
}

// Node is the path of the device node.
func Node(index int) string { return "/dev/tap" + strconv.Itoa(index) }

// Name is the name of the device.
func Name(index int) string { return Prefix + strconv.FormatInt(int64(index), 16) }

// Open makes the device, with host as the socket to the namespace of its lower device, and returns one descriptor per
// queue. The calling goroutine has to be locked to its thread, which may end up in the device's namespace. On an error
// an anonymous namespace ends with the process; a visible device has been removed.
func Open(host *rtnl.Conn, s Spec) ([]int, error) {
	inner := host
	nspid := 0
	if s.Visible {
		if err := privilege.Forget(); err != nil {
			return nil, err
		}
	} else {
		if err := privilege.Raise(privilege.SysAdmin); err != nil {
			return nil, err
		}
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return nil, err
		}
		if err := privilege.Forget(); err != nil {
			return nil, err
		}
		c, err := rtnl.Dial()
		if err != nil {
			return nil, err
		}
		inner, nspid = c, unix.Gettid()
	}
	var m rtnl.Batch
	d := rtnl.Macvtap{Index: s.Index, Name: Name(s.Index), Lower: s.Lower.Index, Mode: uint32(s.Mode), NSPid: nspid}
	if s.Mode != policy.Passthrough { // there the kernel takes over the lower device's address in any case
		d.MAC = &s.MAC
	}
	m.AddMacvtap(d)
	if err := host.Do(&m, -1); err != nil {
		return nil, err
	}
	fds, err := configure(inner, s)
	if err != nil && s.Visible {
		var m rtnl.Batch
		m.Delete(s.Index)
		_ = host.Do(&m, -1) // what failed first is what matters; a leftover is swept by the next call
	}
	return fds, err
}

func configure(c *rtnl.Conn, s Spec) ([]int, error) {
	var m rtnl.Batch
	m.NoIPv6Address(s.Index)
	if s.Mode == policy.Passthrough && s.MAC != s.Lower.MAC {
		m.SetMAC(s.Index, s.MAC)
	}
	if s.Filter {
		m.AddFilter(s.Index, rtnl.Egress, antispoof.Outgoing(s.MAC, s.VLANs, linkproto.Set{}))
	}
	if err := c.Do(&m, 0); err != nil {
		return nil, err
	}
	// Not in the same batch: the kernel would bring the device up even where the filter was refused.
	m = rtnl.Batch{}
	m.Up(s.Index)
	if err := c.Do(&m, -1); err != nil {
		return nil, err
	}
	var fds []int
	for range s.Queues {
		fd, err := openQueue(s)
		if err != nil {
			return nil, err
		}
		fds = append(fds, fd)
	}
	if s.Visible {
		// Held as long as any copy of the descriptor, and seen in /proc/locks: see Sweep.
		if err := unix.Flock(fds[0], unix.LOCK_EX|unix.LOCK_NB); err != nil {
			return nil, err
		}
	}
	return fds, nil
}

func openQueue(s Spec) (int, error) {
	fd, err := unix.Open(Node(s.Index), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return -1, ErrNoNode
	}
	if err != nil {
		return -1, err
	}
	if err := tundev.SetFlags(fd, Name(s.Index), s.VNetHdr, s.Queues > 1); err != nil {
		return -1, err
	}
	// Two namespaces may have devices of one index, but there is one node: the first one's.
	name, err := tundev.Name(fd)
	if err != nil {
		return -1, err
	}
	mac, err := tundev.MAC(fd)
	if err != nil {
		return -1, err
	}
	if name != Name(s.Index) || mac != s.MAC {
		return -1, ErrIdentity
	}
	return fd, nil
}
