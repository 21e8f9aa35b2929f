// Package port gives a guest a port of a bridge that he cannot change: one end of a veth pair, whose other end goes to a hub
// in the guest's namespace (package hub). A bridge takes its ports' addresses for its own, and the holder of a TAP descriptor
// may change its device's.
package port

import (
	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/bridgeport"
	"libvirt-direct/helper/internal/ether"
	"libvirt-direct/helper/internal/hub"
	"libvirt-direct/helper/internal/netns"
	"libvirt-direct/helper/internal/rtnl"
	"libvirt-direct/helper/internal/sysctl"
	"libvirt-direct/helper/internal/tundev"
)

const cableName = "cable" // the inner end of the veth pair

// Spec is a device to be made.
type Spec struct {
	Name   string    // of the outer end and the TAP device
	Own    ether.MAC // the outer end's address; its first octet should be 0xfe
	Guest  ether.MAC // the TAP device's address at first
	Port   bridgeport.Port
	Mode   tundev.Mode
	Queues int
}

// Open makes the device and returns one descriptor per queue. The outer end has the id of ns for its interface index. The
// kernel removes all of it with the last descriptor. net is the parameters of host's namespace.
func Open(host *rtnl.Conn, ns *netns.Namespace, net *sysctl.Net, s Spec) ([]int, error) {
	from, to := s.Port.From, s.Port.To
	if s.Port.OVS { // ovs-vswitchd clears the filters of its ports
		s.Port.From, s.Port.To = nil, nil
	}
	cable, inner := ns.ID^1<<28, s.Own
	inner[0] ^= 0x04
	var m rtnl.Batch
	m.AddVeth(rtnl.Veth{
		Name: s.Name, Index: ns.ID, MAC: s.Own, MTU: s.Port.Bridge.MTU,
		Peer: cableName, PeerIndex: cable, PeerMAC: inner, PeerNSPid: ns.TID,
	})
	s.Port.Set(&m, ns.ID)
	if err := host.Do(&m, -1); err != nil {
		return nil, err
	}
	if err := s.Port.Silence(host, net, ns.ID, s.Name); err != nil {
		return nil, err
	}
	m = rtnl.Batch{}
	m.Up(ns.ID)
	if err := host.Do(&m, -1); err != nil {
		return nil, err
	}
	m = rtnl.Batch{}
	if s.Port.OVS {
		m.Filter(cable, to, from)
	}
	if err := ns.Do(&m, -1); err != nil {
		return nil, err
	}
	h := hub.Hub{
		Cable: cable, Name: s.Name, Guest: s.Guest, Own: inner, MTU: s.Port.Bridge.MTU, LinkLocal: true,
		Mode: s.Mode, Queues: s.Queues,
	}
	fds, err := h.Open(ns)
	if err != nil {
		return nil, err
	}
	if len(from) > 0 && tundev.Rewrites(fds[0], s.Mode) {
		// Before the filter at the outer end looks at a frame, not behind it.
		if err := ns.NoChecksumOffload(cableName); err != nil {
			return nil, err
		}
	}
	m = rtnl.Batch{}
	m.Up(cable)
	if err := ns.Do(&m, -1); err != nil || s.Port.OVS {
		return fds, err
	}
	return fds, forwards(host, ns.ID)
}

// forwards waits until the bridge forwards what the guest sends: unlike a TAP device, a veth pair gets its carrier by way
// of the kernel's work queue (net/core/link_watch.c), and what comes before that is lost. It takes some
// microseconds, unless the host is busy.
func forwards(host *rtnl.Conn, index int) error {
	const tries, pause = 200, 100_000 // ns
	for range tries {
		l, err := host.LinkByIndex(index)
		if err != nil || l.Operational {
			return err
		}
		wait := unix.NsecToTimespec(pause)
		_ = unix.Nanosleep(&wait, nil)
	}
	return nil // it will
}
