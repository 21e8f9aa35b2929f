package hooks

import (
	"context"
	"errors"

	"libvirt-direct/internal/config"
	"libvirt-direct/internal/link"
	"libvirt-direct/xmlfilter"
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
	DisableIPv6(ctx context.Context, name string) error

	vfKernel
	bridgeKernel
}

var _ Kernel = (*link.Conn)(nil)

// Device is a network device of this host as Plan sees it.
type Device struct {
	Name   string
	Index  int
	Kind   string
	VLANID int
	Parent int // ifindex
	VF     bool
	// ParentName is the name of a VLAN sub-interface's parent.
	ParentName string
	MTU        int
	// Bridge is nil for what is no Linux bridge.
	Bridge *link.Bridge
}

// Host is what Plan knows of this host's devices: those that the domain's NICs name,
// and the uplinks'.
type Host struct {
	// Devices by the names under which they were asked for.
	Devices map[string]Device
	// Uplinks holds the uplinks' devices, by uplink name.
	Uplinks map[string]Device
	// Missing says why an uplink has no device.
	Missing map[string]error

	SRIOV
}

// Survey looks up the devices that a domain's NICs name, and the configured uplinks:
// whether a VLAN is allowed depends on whose device its parent is.
func Survey(ctx context.Context, k Kernel, cfg *config.Config, d *xmlfilter.Domain) (Host, error) {
	h := Host{Devices: map[string]Device{}, Uplinks: map[string]Device{}, Missing: map[string]error{}}
	for _, name := range cfg.UplinkNames() {
		l, err := FindUplink(ctx, k, cfg.Uplinks[name])
		if err != nil {
			h.Missing[name] = err
			continue
		}
		h.Uplinks[name] = device(ctx, k, l)
	}
	for i := range d.NICs {
		n := &d.NICs[i]
		if !ours(n) {
			continue
		}
		names := []string{n.Source.Dev, n.Source.Bridge, n.Target}
		if n.Words != nil {
			names = append(names, n.Words.Dev)
			if was := wasOnOVS(n); was != nil {
				names = append(names, was.Source.Bridge)
			}
		}
		for _, name := range names {
			if parent, _, ok := splitVLAN(name); ok {
				names = append(names, parent)
			}
		}
		for _, name := range names {
			if err := h.look(ctx, k, name); err != nil {
				return h, err
			}
		}
	}
	return h, h.surveyVFs(ctx, k, cfg, d)
}

// uplinkOf returns the uplink that a device name means or leads to: by what the
// uplink is called, or because it is its device, or a VLAN of it.
func (h Host) uplinkOf(cfg *config.Config, name string) *config.Uplink {
	if u := cfg.UplinkCalled(name); u != nil {
		return u
	}
	if dev, there := h.Devices[name]; there {
		for _, u := range cfg.UplinkNames() {
			if up, ok := h.Uplinks[u]; ok && (up.Index == dev.Index || up.Index == dev.Parent) {
				return cfg.Uplinks[u]
			}
		}
	}
	if parent, _, ok := splitVLAN(name); ok {
		return h.uplinkOf(cfg, parent)
	}
	return nil
}

func (h *Host) look(ctx context.Context, k Kernel, name string) error {
	if _, known := h.Devices[name]; known || !config.ValidIfname(name) {
		return nil
	}
	l, err := k.ByName(ctx, name)
	if errors.Is(err, link.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	h.Devices[name] = device(ctx, k, l)
	return nil
}

func device(ctx context.Context, k Kernel, l link.Link) Device {
	d := Device{
		Name: l.Name, Index: l.Index, Kind: l.Kind, VLANID: l.VLANID, Parent: l.Parent, MTU: l.MTU, Bridge: l.Bridge,
		VF: l.Kind == "" && k.IsVF(ctx, l.Name),
	}
	if l.Kind == "vlan" {
		if parent, err := k.ByIndex(ctx, l.Parent); err == nil { // not if it is in another namespace
			d.ParentName = parent.Name
		}
	}
	return d
}

// FindUplink looks an uplink's device up by whatever the configuration finds it by.
func FindUplink(ctx context.Context, k Kernel, u *config.Uplink) (link.Link, error) {
	switch {
	case u.PCI != "":
		return k.ByPCI(ctx, u.PCI)
	case u.MAC != "":
		return k.ByPermanentMAC(ctx, u.MAC)
	default:
		return k.ByName(ctx, u.Device)
	}
}
