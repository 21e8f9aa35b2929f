package hooktest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/ovs"
	"libvirt-direct/vdp"
)

// A Contract says what the fakes and what they stand in for do alike: each row makes
// calls on a host of its own and looks at the answers, at the errors, and at what is
// there afterwards. H is how the host is made; what a row expects, it expects of the
// real host too.
type Contract[H any] []Row[H]

// Row is one behaviour of a method.
type Row[H any] struct {
	Method string // by its name in the hook's interface
	Name   string // what it does
	Do     func(t *testing.T, h H)
}

// Run runs each row on a host that newHost makes for it. A host in a network namespace
// can be one of the calling thread's: rows run one after the other, none in parallel.
func (c Contract[H]) Run(t *testing.T, newHost func(t *testing.T) H) {
	t.Helper()
	for _, row := range c {
		t.Run(row.Method+"/"+row.Name, func(t *testing.T) { row.Do(t, newHost(t)) })
	}
}

// Methods lists what the rows are about, each method once.
func (c Contract[H]) Methods() []string {
	var names []string
	for _, row := range c {
		names = append(names, row.Method)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

var (
	_ step.Kernel  = (*Kernel)(nil)
	_ step.Switch  = (*OVS)(nil)
	_ step.Station = (*Station)(nil)
)

// KernelHost is a host of its own without devices, and how a topology is made on it.
type KernelHost interface {
	Kernel() step.Kernel
	// Card makes an Ethernet device with an MTU of 1500 that is up and has a carrier.
	Card(name string)
	// Bridge makes a Linux bridge, up.
	Bridge(name string)
	// Join makes a device a port of a bridge.
	Join(port, bridge string)
	// Container makes another network namespace and returns a name for it.
	Container() string
	// Move moves a device into a container.
	Move(name, container string)
	// In lists the devices of a container but for its loopback device.
	In(container string) []string
	// Receiver sends a frame from a device to a MAC address and returns which of the
	// others gets it: the name of a macvtap, or "" for the wire of the card below.
	Receiver(from, mac string, macvtaps ...string) string
	// IPv6 reports whether the host's own IPv6 is on for a device.
	IPv6(name string) bool
	// PortVLANs and PortMACs are a bridge port's VLANs, by number, and the addresses that
	// the bridge has been told are behind it.
	PortVLANs(name string) []link.PortVLAN
	PortMACs(name string) []string
}

// CardHost is a host with a card that has two virtual functions, each with its driver's
// network device, down. The PF is up; it has given no VF a MAC.
type CardHost interface {
	Kernel() step.Kernel
	// PF is the PF's network device and its address on the bus.
	PF() (netdev, address string)
	// Unbind takes a VF's driver away.
	Unbind(number int)
}

// PortHost is a host with a device whose driver takes 802.1Qbh port profiles for the two
// VFs that it has.
type PortHost interface {
	Kernel() step.Kernel
	// PF is the device.
	PF() string
	// Profile is the port profile with which a VF is associated, "" for none.
	Profile(vf int) string
}

// SwitchHost is a host with Open vSwitch, an empty bridge br0 in it, and no
// ovn-controller.
type SwitchHost interface {
	Switch() step.Switch
	// Away is a connection to an Open vSwitch that does not run.
	Away() step.Switch
	// Tap makes a device that a port can be of.
	Tap(name string)
	// Port makes a port of br0 as somebody else does, with a VLAN and IDs of its Interface.
	Port(name string, tag int, ids map[string]string)
	// Bind has OVN bind a port's interface.
	Bind(name string)
	// Shown is what the switch has of a port: bridge, owner, IDs, VLAN, MTU, whether it is
	// protected, rate, QoS and mirror. ok is false where there is none.
	Shown(name string) (p ovs.Port, ok bool)
}

// StationHost is a host with a station on whose port the switch has agreed to EVB.
type StationHost interface {
	Station() step.Station
	// Port is the station's.
	Port() string
	// NotYet is the error of a port whose switch is not ready yet.
	NotYet() error
	// Refuse has the switch refuse what it is asked for from now on.
	Refuse()
	// Silence takes the port's link away, so that the switch is no longer there.
	Silence()
	// Held reports whether the switch has a VSI.
	Held(id vdp.ID) bool
}

// ask is a row at work on a host with a kernel.
type ask struct {
	*testing.T
	k   step.Kernel
	ctx context.Context
}

func asking(t *testing.T, k step.Kernel) ask { return ask{t, k, t.Context()} }

// link looks up a device that has to be there.
func (a ask) link(name string) link.Link {
	a.Helper()
	l, err := a.k.ByName(a.ctx, name)
	a.no(err)
	return l
}

// no is for errors that must not be.
func (a ask) no(err error) {
	a.Helper()
	if err != nil {
		a.Fatal(err)
	}
}

// macvtap makes a macvtap that can be made.
func (a ask) macvtap(name, lower, mode, mac string) link.Link {
	a.Helper()
	a.no(a.k.AddMacvtap(a.ctx, link.Macvtap{Name: name, Lower: a.link(lower).Index, Mode: mode, MAC: mac}))
	return a.link(name)
}

// uses are uses as text, "kind: evidence".
func texts(uses []link.Use) []string {
	all := []string{}
	for _, u := range uses {
		all = append(all, fmt.Sprintf("%s: %s", u.Kind, u.Evidence))
	}
	return all
}

// missing is for a device that must not be there.
func (a ask) missing(name string) {
	a.Helper()
	if _, err := a.k.ByName(a.ctx, name); !errors.Is(err, link.ErrNotFound) {
		a.Errorf("%s is there: %v", name, err)
	}
}
