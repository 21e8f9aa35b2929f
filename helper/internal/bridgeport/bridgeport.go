// Package bridgeport says what becomes of a device that is a guest's port of a Linux bridge.
package bridgeport

import (
	"errors"

	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/rtnl"
	"libvirt-direct/helper/internal/sysctl"
)

// Errors matched with errors.Is.
var (
	ErrNotBridge    = errors.New("not a bridge")
	ErrNoVLANFilter = errors.New("the bridge does not filter VLANs (ip link set BRIDGE type bridge vlan_filtering 1)")
)

// Port is a port to be.
type Port struct {
	Bridge  rtnl.Link
	OVS     bool   // Bridge is one of Open vSwitch: the device becomes its port by other means
	VLAN    uint16 // untagged member of this VLAN alone; 0 leaves the bridge's default
	Flags   bool   // set the two that follow
	Isolate bool
	Learn   bool
	From    []unix.SockFilter // judges what the guest sends; empty for no filter
	To      []unix.SockFilter // judges what goes to the guest
	Alias   string            // tells people whose it is
}

// Check tells what a bridge cannot do.
func (p *Port) Check() error {
	switch {
	case p.OVS:
		return nil
	case p.Bridge.Kind != "bridge":
		return ErrNotBridge
	case p.VLAN != 0 && !p.Bridge.VLANFiltering:
		return ErrNoVLANFilter
	}
	return nil
}

// Set appends to m what makes the device a port, all but that it comes up.
func (p *Port) Set(m *rtnl.Batch, index int) {
	m.SetAlias(index, p.Alias)
	if !p.OVS {
		m.SetMaster(index, p.Bridge.Index)
	}
	if p.Flags {
		m.BridgePort(index, p.Isolate, p.Learn)
	}
	if p.VLAN != 0 {
		if pvid := p.Bridge.DefaultPVID; pvid != 0 && pvid != p.VLAN {
			m.DelBridgePortVLAN(index, pvid)
		}
		m.BridgePortVLAN(index, p.VLAN)
	}
	m.Filter(index, p.From, p.To)
}

// Silence keeps the host from speaking on the device, which is not up yet. A Linux bridge takes what comes in at a port;
// the userspace switch of Open vSwitch leaves it to the host's IP stack as well.
func (p *Port) Silence(host *rtnl.Conn, net *sysctl.Net, index int, name string) error {
	if p.OVS {
		return net.Mute(host, index, name)
	}
	return net.NoIPv6(host, index, name)
}
