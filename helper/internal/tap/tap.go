// Package tap makes TAP devices in Linux bridges, and such as Open vSwitch takes.
package tap

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
const Prefix = "tap"

// Node is where TAP devices come from.
const Node = "/dev/net/tun"

// Errors matched with errors.Is.
var (
	ErrNotBridge    = errors.New("not a bridge")
	ErrNoVLANFilter = errors.New("the bridge does not filter VLANs (ip link set BRIDGE type bridge vlan_filtering 1)")
)

// Spec is a device to be made.
type Spec struct {
	Index   int
	Bridge  rtnl.Link
	OVS     bool       // Bridge is one of Open vSwitch: the device becomes a port of it by other means
	Own     ether.MAC  // the device's address on the host; its first octet should be 0xfe
	Guest   *ether.MAC // the only source address let through; nil for no filter
	VLANs   policy.VLANSet
	VLAN    uint16 // untagged member of this VLAN alone; 0 leaves the bridge's default
	Port    bool   // set the two flags
	Isolate bool
	Learn   bool
	VNetHdr bool
	Queues  int
}

// Name is the name of the device.
func Name(index int) string { return Prefix + strconv.FormatInt(int64(index), 16) }

// Open makes the device and returns one descriptor per queue. The kernel removes the device with the last of them.
func Open(host *rtnl.Conn, s Spec) ([]int, error) {
	master := s.Bridge.Index
	if s.OVS {
		master = 0
	} else if s.Bridge.Kind != "bridge" {
		return nil, ErrNotBridge
	}
	if s.VLAN != 0 && !s.Bridge.VLANFiltering {
		return nil, ErrNoVLANFilter
	}
	if err := privilege.Forget(); err != nil {
		return nil, err
	}
	var fds []int
	for i := range s.Queues {
		fd, err := unix.Open(Node, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			if err := tundev.SetIndex(fd, s.Index); err != nil {
				return nil, err
			}
		}
		if err := tundev.SetFlags(fd, Name(s.Index), s.VNetHdr, s.Queues > 1); err != nil {
			return nil, err
		}
		fds = append(fds, fd)
	}
	var m rtnl.Batch
	m.NoIPv6Address(s.Index)
	m.Enslave(s.Index, master, s.Own, s.Bridge.MTU)
	if s.Port {
		m.BridgePort(s.Index, s.Isolate, s.Learn)
	}
	if s.VLAN != 0 {
		if pvid := s.Bridge.DefaultPVID; pvid != 0 && pvid != s.VLAN {
			m.DelBridgePortVLAN(s.Index, pvid)
		}
		m.BridgePortVLAN(s.Index, s.VLAN)
	}
	if s.Guest != nil {
		m.AddFilter(s.Index, rtnl.Ingress, antispoof.Outgoing(*s.Guest, s.VLANs, linkproto.Set{}))
	}
	if err := host.Do(&m, 0); err != nil {
		return nil, err
	}
	// Not in the same batch: the kernel would bring the device up even where something above was refused.
	m = rtnl.Batch{}
	m.Up(s.Index)
	return fds, host.Do(&m, -1)
}
