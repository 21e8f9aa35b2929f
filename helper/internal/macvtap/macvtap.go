// Package macvtap brings macvtap devices into service and opens them.
package macvtap

import (
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/ether"
	"libvirt-direct/helper/internal/policy"
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

// Name is the name of the device that a namespace of this id keeps.
func Name(id int) string { return Prefix + strconv.FormatInt(int64(id), 16) }

// ID is the id in a name that Name has made, 0 in any other.
func ID(name string) int {
	id, err := strconv.ParseUint(strings.TrimPrefix(name, Prefix), 16, 31)
	if err != nil || Name(int(id)) != name {
		return 0
	}
	return int(id)
}

// Node is the path of the device node. It has one name for all network namespaces.
func Node(index int) string { return "/dev/tap" + strconv.Itoa(index) }

// Device is one that exists and is down.
type Device struct {
	// Index has to be nobody's knowledge until the device exists. Its node is named after it, and anybody may make a
	// macvtap of any index in a namespace of his own: whose is the first gets the node.
	Index int
	Name  string
	MAC   ether.MAC
}

// Open brings the device up and returns one descriptor per queue, opened from the calling thread's network namespace. c is
// the socket to the device's.
func Open(c *rtnl.Conn, d Device, mode tundev.Mode, queues int) ([]int, error) {
	var m rtnl.Batch
	m.Up(d.Index)
	if err := c.Do(&m, -1); err != nil {
		return nil, err
	}
	var fds []int
	for range queues {
		fd, err := d.queue(mode)
		if err != nil {
			return nil, err
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

func (d *Device) queue(mode tundev.Mode) (int, error) {
	fd, err := unix.Open(Node(d.Index), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return -1, ErrNoNode
	}
	if err != nil {
		return -1, err
	}
	if err := tundev.SetMode(fd, mode); err != nil {
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
	if name != d.Name || mac != d.MAC {
		return -1, ErrIdentity
	}
	return fd, nil
}

// Add appends to m the making of a macvtap on a device of another namespace, or of the same one if tid is 0. In mode
// passthrough it changes the lower device's address, if that is not mac.
func Add(m *rtnl.Batch, d Device, lower rtnl.Link, mode policy.Mode, tid int) {
	v := rtnl.Macvlan{Tap: true, Index: d.Index, Name: d.Name, Lower: lower.Index, Mode: uint32(mode), NSPid: tid, Flags: flags}
	if mode != policy.Passthrough { // there the kernel takes over the lower device's address in any case
		v.MAC = &d.MAC
	}
	m.AddMacvlan(v)
}

// flags: the host answers no ARP requests, and multicast frames come through, which IPv6 needs.
const flags = unix.IFF_NOARP | unix.IFF_ALLMULTI
