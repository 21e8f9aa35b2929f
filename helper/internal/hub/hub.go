// Package hub joins a guest's TAP device with a cable, in a network namespace of their own.
//
// The holder of a TAP descriptor needs no right to change the device's owner, persistence and address. In a namespace that
// only the descriptors keep alive, nobody else is there to attach to the device, it does not outlive them, and its address
// is a matter of the hub: a bridge that learns nothing and passes on whatever comes in at its one port to the other.
//
// A macvtap would do in the TAP device's place, but for what waits in it to be read: the kernel counts that as its sender's,
// whose namespace, port and address it then keeps from ending (tap_handle_frame, drivers/net/tap.c, unlike tun_net_xmit). The
// hub sees to the other direction: it is promiscuous, so that a bridge passes on a copy, which is nobody's.
package hub

import (
	"libvirt-direct/helper/internal/ether"
	"libvirt-direct/helper/internal/netns"
	"libvirt-direct/helper/internal/rtnl"
	"libvirt-direct/helper/internal/tap"
	"libvirt-direct/helper/internal/tundev"
)

// Hub is a bridge with two ports.
type Hub struct {
	Cable     int // interface index of the other port's device
	Name      string
	Guest     ether.MAC // the TAP device's address at first
	Own       ether.MAC // the bridge's
	MTU       uint32
	LinkLocal bool // passes on what is for the addresses that bridges keep to themselves, too, but for pause frames
	Mode      tundev.Mode
	Queues    int
}

// Open makes the TAP device and the hub and brings both up, not the cable, and returns one descriptor per queue.
func (h *Hub) Open(ns *netns.Namespace) ([]int, error) {
	// What is called like the namespace is the TAP device. Not small numbers: up to Linux 6.1 the kernel asks whether the
	// namespace of the request's socket has the index, and a new namespace may have tunnels beside the loopback device
	// (net.core.fb_tunnels_only_for_init_net).
	index, bridge := ns.ID, ns.ID^1<<29
	if err := ns.BridgesSkipNetfilter(); err != nil {
		return nil, err
	}
	fds, err := tap.Queues(index, h.Name, h.Mode, h.Queues)
	if err != nil {
		return nil, err
	}
	var m rtnl.Batch
	m.AddBridge(bridge, "hub", h.Own)
	m.SetMAC(index, h.Guest)
	m.SetMTU(index, h.MTU)
	for _, port := range [...]int{h.Cable, index} {
		m.SetMaster(port, bridge)
		m.BridgePort(port, false, false)
		if h.LinkLocal {
			m.ForwardLinkLocal(port)
		}
	}
	if err := ns.Do(&m, -1); err != nil {
		return nil, err
	}
	if err := ns.Silence(h.Cable, index, bridge); err != nil {
		return nil, err
	}
	// A bridge takes its ports' addresses for its own. One of the two has the guest's, or none.
	for _, port := range [...]int{h.Cable, index} {
		m = rtnl.Batch{}
		m.ForgetAddress(port, h.Guest)
		if err := ns.Do(&m, 0); err != nil {
			return nil, err
		}
	}
	m = rtnl.Batch{}
	m.Up(index)
	m.Up(bridge)
	return fds, ns.Do(&m, -1)
}
