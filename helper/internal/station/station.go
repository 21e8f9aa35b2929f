// Package station gives a guest an address on a lower device that he cannot exchange for another one.
//
// The holder of a macvtap descriptor needs no right to change the device's address, and with it takes the place of
// whoever has that address, or is about to have it, on the same lower device. Here the device on the lower one is a
// macvlan, which nobody has a descriptor of, and goes to a hub in the guest's namespace (package hub).
package station

import (
	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/ether"
	"libvirt-direct/helper/internal/hub"
	"libvirt-direct/helper/internal/netns"
	"libvirt-direct/helper/internal/policy"
	"libvirt-direct/helper/internal/rtnl"
	"libvirt-direct/helper/internal/tundev"
)

// Spec is a device to be made.
type Spec struct {
	Name      string // of the TAP device
	MAC       ether.MAC
	Own       ether.MAC         // an address that is nobody's
	From      []unix.SockFilter // judges what the guest sends; empty for no filter
	To        []unix.SockFilter // judges what goes to the guest
	Lower     rtnl.Link
	Kind      policy.Mode // private, vepa or bridge
	LinkLocal bool        // see package hub
	Mode      tundev.Mode
	Queues    int
}

// Open makes the device and returns one descriptor per queue. The kernel removes all of it with the last of them. It is
// EADDRINUSE if something else on the lower device has the address; then Open may be called again with another.
func Open(host *rtnl.Conn, ns *netns.Namespace, s Spec) ([]int, error) {
	station := ns.ID ^ 1<<28
	var m rtnl.Batch
	m.AddMacvlan(rtnl.Macvlan{
		Index: station, Name: "station", Lower: s.Lower.Index, MAC: &s.MAC, Mode: uint32(s.Kind), NSPid: ns.TID,
	})
	if err := host.Do(&m, -1); err != nil {
		return nil, err
	}
	fds, err := s.join(ns, station)
	if err != nil {
		m = rtnl.Batch{}
		m.Delete(station)
		_ = ns.Do(&m, -1) // what failed first is what matters
		return nil, err
	}
	return fds, nil
}

func (s *Spec) join(ns *netns.Namespace, station int) ([]int, error) {
	// First, since it may turn out to be another's address.
	if err := ns.Silence(station); err != nil {
		return nil, err
	}
	var m rtnl.Batch
	m.Filter(station, s.To, s.From)
	if err := ns.Do(&m, -1); err != nil {
		return nil, err
	}
	m = rtnl.Batch{}
	m.Up(station)
	if err := ns.Do(&m, -1); err != nil {
		return nil, err
	}
	h := hub.Hub{
		Cable: station, Name: s.Name, Guest: s.MAC, Own: s.Own, MTU: s.Lower.MTU, LinkLocal: s.LinkLocal,
		Mode: s.Mode, Queues: s.Queues,
	}
	return h.Open(ns)
}
