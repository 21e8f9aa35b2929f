package hooks

import (
	"cmp"
	"context"
	"errors"
	"io/fs"

	"libvirt-direct/internal/config"
	"libvirt-direct/internal/journal"
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

// VFDevice is a virtual function of this host as Plan sees it.
type VFDevice struct {
	link.VFPlace
	PFName  string
	PFIndex int
	Netdev  string
	Driver  string
	NUMA    int

	// Claims are everybody's, as the journals say.
	Claims journal.Claims
	// Used is what the kernel shows of a use, "" for none; Doubt is why that could not be
	// told, which keeps a VF from being chosen and from nobody who names it.
	Used, Doubt string
	// Guest is the macvtap that stands on it, and GuestMAC that one's address: a guest's
	// that runs or is started at this moment. Both are "" without one.
	Guest, GuestMAC string

	// mine: that is the domain's for which it was looked at. bound: Used says how it is bound.
	mine, bound bool
	chosen      bool // by the plan, of those that are free
}

// Host is what Plan knows of this host's devices: those that the domain's NICs name,
// and the uplinks'.
type Host struct {
	// Owner is the UUID of the domain for which it was looked at.
	Owner string
	// Devices by the names under which they were asked for.
	Devices map[string]Device
	// Uplinks holds the uplinks' devices, by uplink name.
	Uplinks map[string]Device
	// Missing says why an uplink has no device.
	Missing map[string]error

	// VFs that the domain's NICs name, by network device or PCI address.
	VFs map[string]VFDevice
	// Free are VFs that the domain could take, as many as it has NICs, by uplink; an
	// uplink whose device has no VFs is not in it. nil where no NIC is in passthrough mode.
	Free map[string][]VFDevice
	// Pooled names libvirt's networks that hand out VFs of an uplink, which are not
	// in Free.
	Pooled map[string][]string
	// Held are the VFs that this domain's hook-owned NICs have already, by NIC.
	Held map[string]VFDevice
	// Faulty are the devices of uplinks whose sections of the configuration are faulty.
	Faulty []FaultyDevice
	// Obstacles are what stands in the way of a NIC's macvtap on its device, by NIC.
	Obstacles map[string][]link.Obstacle
}

// Records are where it is written down who has what on this host.
type Records struct {
	// Journal is ours.
	Journal *journal.Dir
	// Libvirt is the folder in which libvirt keeps its state.
	Libvirt fs.FS
	// Named are virtual functions, by network device or PCI address, that definitions of
	// other domains name: no free choice takes them.
	Named []string
}

// surveyor is a survey at work.
type surveyor struct {
	Records
	kernel Kernel
	cfg    *config.Config
	domain *xmlfilter.Domain

	vfUses map[string][]link.VFUse // by PF
	pooled []*xmlfilter.Network
	asked  bool // for pooled
}

// Survey looks up the devices that a domain's NICs name, the configured uplinks, whether
// a VLAN is allowed depends on whose device its parent is, and who has the virtual
// functions among them. It changes nothing.
func Survey(ctx context.Context, k Kernel, cfg *config.Config, rec Records, d *xmlfilter.Domain) (Host, error) {
	s := surveyor{Records: rec, kernel: k, cfg: cfg, domain: d, vfUses: map[string][]link.VFUse{}}
	h := Host{
		Owner: d.UUID, Devices: map[string]Device{}, Uplinks: map[string]Device{}, Missing: map[string]error{},
		VFs: map[string]VFDevice{}, Held: map[string]VFDevice{}, Obstacles: map[string][]link.Obstacle{},
	}
	for _, name := range cfg.UplinkNames() {
		l, err := FindUplink(ctx, k, cfg.Uplinks[name])
		if err != nil {
			h.Missing[name] = err
			continue
		}
		h.Uplinks[name] = device(ctx, k, l)
	}
	h.lookFaulty(ctx, k, cfg)
	for i := range d.NICs {
		n := &d.NICs[i]
		if !ours(n) {
			continue
		}
		names := []string{n.Source.Dev, n.Source.Bridge, n.Target}
		if n.Settings != nil {
			names = append(names, n.Settings.Dev)
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
	s.lowers(ctx, &h)
	return h, s.vfs(ctx, &h)
}

// lowers looks whether macvtaps can be made where the domain's NICs want them. What cannot
// be told stands in nobody's way.
func (s *surveyor) lowers(ctx context.Context, h *Host) {
	for i := range s.domain.NICs {
		n := &s.domain.NICs[i]
		w, err := settingsOf(s.cfg, *h, n)
		if err != nil || n.VLAN != nil || w.vlan != 0 || n.Source.Network != "" || n.Type != "direct" && !(n.Type == "ethernet" && w.own && wasOnOVS(n) == nil) {
			continue
		}
		dev, there := h.Devices[cmp.Or(w.dev, n.Source.Dev)]
		if u := s.cfg.UplinkCalled(cmp.Or(w.dev, n.Source.Dev)); !there && u != nil {
			dev, there = h.Uplinks[u.Name]
		}
		if w.uplink != nil && n.Type == "ethernet" {
			dev, there = h.Uplinks[w.uplink.Name]
		}
		mode := cmp.Or(w.mode, n.Source.Mode, "vepa")
		if !there || mode == "passthrough" && dev.VF {
			continue
		}
		obstacles, err := s.kernel.Lower(ctx, dev.Name, mode, nil)
		if err != nil {
			continue
		}
		for _, o := range obstacles {
			if o.Kind == link.UseUnfit { // nobody's use: the kernel says it as well
				continue
			}
			if upper, err := s.kernel.ByName(ctx, o.Device); o.Device == "" || err != nil || upper.MAC != n.MAC {
				h.Obstacles[nicID(s.domain, n)] = append(h.Obstacles[nicID(s.domain, n)], o)
			}
		}
	}
}

// vfs looks up the VFs that a domain's NICs name, and free ones of uplinks where a NIC
// could take one.
func (s *surveyor) vfs(ctx context.Context, h *Host) error {
	passthrough := 0
	for i := range s.domain.NICs {
		n := &s.domain.NICs[i]
		if !ours(n) {
			continue
		}
		if n.Type == "hostdev" && n.Source.PCI != "" {
			place, err := s.kernel.VFAt(ctx, n.Source.PCI)
			if err := s.addVF(ctx, h, n.Source.PCI, place, err); err != nil {
				return err
			}
			vf := h.VFs[n.Source.PCI]
			if _, held := vf.Claims.Holder(h.Owner); !held && vf.bound && n.Unmanaged {
				vf.Used, vf.bound = "", false // as whoever runs the host has bound it for this
				h.VFs[n.Source.PCI] = vf
			}
		}
		names := []string{n.Source.Dev}
		if n.Settings != nil {
			names = append(names, n.Settings.Dev)
		}
		for _, name := range names {
			if h.Devices[name].VF {
				place, err := s.kernel.VFOf(ctx, h.Devices[name].Name)
				if err := s.addVF(ctx, h, name, place, err); err != nil {
					return err
				}
			}
		}
		settings, err := settingsOf(s.cfg, *h, n)
		if err == nil && cmp.Or(settings.mode, n.Source.Mode) == "passthrough" {
			passthrough++
		}
	}
	if passthrough == 0 {
		return nil
	}
	h.Free, h.Pooled = map[string][]VFDevice{}, map[string][]string{}
	for _, name := range s.cfg.UplinkNames() {
		dev, there := h.Uplinks[name]
		if !there {
			continue
		}
		free, err := s.freeVFs(ctx, h, dev, s.cfg.Uplinks[name], passthrough)
		if err != nil {
			return err
		}
		if free != nil {
			h.Free[name] = free
		}
	}
	return s.held(h)
}

// addVF adds a VF that a lookup has found. One that is none, or not there, is no
// error here: Plan knows who needs it.
func (s *surveyor) addVF(ctx context.Context, h *Host, name string, place link.VFPlace, err error) error {
	var pf link.Link
	var vf VFDevice
	if err == nil {
		pf, err = s.kernel.PF(ctx, place)
	}
	if err == nil {
		vf, err = s.at(ctx, place)
	}
	if err != nil {
		return ignore(ignore(err, link.ErrNotFound), link.ErrNoVF)
	}
	vf.PFName, vf.PFIndex = pf.Name, pf.Index
	h.VFs[name] = vf
	return nil
}

// held reads which VFs the domain's hook-owned NICs have already.
func (s *surveyor) held(h *Host) error {
	if h.Owner == "" {
		return nil
	}
	_, steps, err := readSteps(s.Journal, h.Owner)
	if err != nil {
		return ignore(ignore(err, journal.ErrCorrupt), journal.ErrNewer)
	}
	vfs := map[string]VFDevice{}
	for _, step := range steps {
		if step.VF != nil {
			vfs[step.NIC] = VFDevice{VFPlace: step.VF.VFPlace, PFName: step.VF.PFName}
		}
		if vf, ok := vfs[step.NIC]; ok && step.Macvtap != nil {
			vf.Netdev = step.Macvtap.Lower
			h.Held[step.NIC] = vf
		}
	}
	return nil
}

// pools are libvirt's running networks that hand out devices, read once.
func (s *surveyor) pools() []*xmlfilter.Network {
	if !s.asked && s.Libvirt != nil {
		s.pooled = Pools(s.Libvirt)
	}
	s.asked = true
	return s.pooled
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
