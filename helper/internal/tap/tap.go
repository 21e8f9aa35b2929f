// Package tap makes TAP devices that are ports of Linux bridges, and such as Open vSwitch takes.
package tap

import (
	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/bridgeport"
	"libvirt-direct/helper/internal/ether"
	"libvirt-direct/helper/internal/netns"
	"libvirt-direct/helper/internal/rtnl"
	"libvirt-direct/helper/internal/sysctl"
	"libvirt-direct/helper/internal/tundev"
)

// Node is where TAP devices come from.
const Node = "/dev/net/tun"

// Spec is a device to be made.
type Spec struct {
	Index  int
	Name   string
	Own    ether.MAC // the device's address on the host; its first octet should be 0xfe
	Port   bridgeport.Port
	Mode   tundev.Mode
	Queues int
}

// Open makes the device, whose owner is root, and returns one descriptor per queue. The kernel removes the device with the
// last of them, unless its holder made it persistent. net is the parameters of host's namespace.
//
// A device of several queues is anybody's, by its name, until it has an owner. It is made in ns, the namespace that the
// calling thread has entered for it and that nobody else can, and then moved to the one that home is an open file of. A
// device of one queue has it taken from the first.
func Open(host *rtnl.Conn, ns *netns.Namespace, home int, net *sysctl.Net, s Spec) ([]int, error) {
	fds, err := Queues(s.Index, s.Name, s.Mode, s.Queues)
	if err != nil {
		return nil, err
	}
	var m rtnl.Batch
	if s.Queues > 1 {
		m.Move(s.Index, home)
		if err := ns.Do(&m, -1); err != nil {
			return nil, err
		}
		m = rtnl.Batch{}
	}
	m.SetGroup(s.Index)
	m.SetMAC(s.Index, s.Own)
	m.SetMTU(s.Index, s.Port.Bridge.MTU)
	m.NoARP(s.Index)
	s.Port.Set(&m, s.Index)
	if err := host.Do(&m, -1); err != nil {
		return nil, err
	}
	if err := s.Port.Silence(host, net, s.Index, s.Name); err != nil {
		return nil, err
	}
	// Not in the same batch: the kernel would bring the device up even where something above was refused.
	m = rtnl.Batch{}
	m.Up(s.Index)
	return fds, host.Do(&m, -1)
}

// Queues makes a TAP device of root's in the calling thread's network namespace, and returns one descriptor per queue.
func Queues(index int, name string, mode tundev.Mode, queues int) ([]int, error) {
	var fds []int
	for i := range queues {
		fd, err := unix.Open(Node, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			if err := tundev.SetIndex(fd, index); err != nil {
				return nil, err
			}
		}
		if err := tundev.Attach(fd, name, mode); err != nil {
			return nil, err
		}
		if i == 0 {
			if err := tundev.SetOwner(fd, 0); err != nil {
				return nil, err
			}
		}
		fds = append(fds, fd)
	}
	return fds, nil
}
