package step

import (
	"context"
	"iter"

	"libvirt-direct/internal/link"
	"libvirt-direct/internal/ovs"
)

// Kernel is what the hook asks of the kernel: link.Conn, or a fake one in tests.
// Errors match those of package link.
type Kernel interface {
	ByName(ctx context.Context, name string) (link.Link, error)
	ByIndex(ctx context.Context, index int) (link.Link, error)
	ByPCI(ctx context.Context, address string) (link.Link, error)
	ByPermanentMAC(ctx context.Context, mac string) (link.Link, error)
	All(ctx context.Context) ([]link.Link, error)
	Uppers(ctx context.Context, name string) ([]string, error)
	UppersEverywhere(ctx context.Context, name string) ([]link.Use, error)
	Lower(ctx context.Context, name, mode string, elsewhere *link.Elsewhere) ([]link.Obstacle, error)
	IsVF(ctx context.Context, name string) bool
	TapNode(ctx context.Context, l link.Link) (string, error)

	AddVLAN(ctx context.Context, v link.VLAN) error
	AddMacvtap(ctx context.Context, m link.Macvtap) error
	AddTap(ctx context.Context, t link.Tap) error
	SetMTU(ctx context.Context, index, mtu int) error
	Delete(ctx context.Context, index int) error
	SetUp(ctx context.Context, index int, up bool) error
	SetAllMulticast(ctx context.Context, index int, on bool) error
	SetAlias(ctx context.Context, index int, alias string) error
	SetMAC(ctx context.Context, index int, mac string) error
	SetName(ctx context.Context, index int, name string) error
	AddAltName(ctx context.Context, index int, name string) error
	RemoveAltName(ctx context.Context, index int, name string) error
	Silence(ctx context.Context, index int) error
	Presence(ctx context.Context, l link.Link) (string, error)

	// Virtual functions.
	VFOf(ctx context.Context, name string) (link.VFPlace, error)
	VFAt(ctx context.Context, address string) (link.VFPlace, error)
	PF(ctx context.Context, p link.VFPlace) (link.Link, error)
	VFUses(ctx context.Context, pf string) ([]link.VFUse, error)
	VFUseAt(ctx context.Context, p link.VFPlace) (link.VFUse, error)
	VFUsed(ctx context.Context, vf link.VFUse, elsewhere *link.Elsewhere) iter.Seq[link.Use]
	VF(ctx context.Context, pf link.Link, number int) (link.VF, error)
	Spoofers(ctx context.Context, pf link.Link) ([]link.VF, error)
	SetVF(ctx context.Context, pf link.Link, number int, want link.VFSettings, optional ...string) ([]error, error)
	RestoreVF(ctx context.Context, pf link.Link, number int, choose func(now link.VFSettings) link.VFSettings) error
	AssociatePort(ctx context.Context, dev link.Link, request link.PortRequest, p link.Port) error
	DisassociatePort(ctx context.Context, dev link.Link, vf int) error

	// Ports of Linux bridges.
	SetPortFlags(ctx context.Context, index int, want link.PortFlags) error
	SetPortVLANs(ctx context.Context, index int, want []link.PortVLAN) error
	AddPortMAC(ctx context.Context, index int, mac string) error

	// Forwarding tables of cards.
	SelfEntries(ctx context.Context, index int) ([]string, error)
	AddSelfEntry(ctx context.Context, index int, mac string) error
	RemoveSelfEntry(ctx context.Context, index int, mac string) error
}

var _ Kernel = (*link.Conn)(nil)

// Switch is what the hook asks of Open vSwitch: ovs.DB, or a fake one in tests. Errors
// match those of package ovs.
type Switch interface {
	Attach(ctx context.Context, p ovs.Port) error
	Amend(ctx context.Context, p ovs.Port) error
	Installed(ctx context.Context, name string) error
	Detach(ctx context.Context, name, owner string) (was bool, err error)
	List(ctx context.Context) ([]ovs.Owned, error)
	Bridges(ctx context.Context) ([]ovs.Bridge, error)
	Close()
}

var _ Switch = (*ovs.DB)(nil)
