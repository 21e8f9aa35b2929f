package hooks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"libvirt-direct/hooks/plan"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/ovs"
	"libvirt-direct/xmlfilter"
)

// Records are where it is written down who has what on this host.
type Records struct {
	// Journal is ours.
	Journal *journal.Dir
	// Libvirt is the folder in which libvirt keeps its state.
	Libvirt fs.FS
	// Switches are the bridges of Open vSwitch, or SwitchErr why they are not known, where
	// AskSwitch was called.
	Switches  []ovs.Bridge
	SwitchErr error
	// Named are virtual functions, by network device or PCI address, that definitions of
	// other domains name: no free choice takes them.
	Named []string
	// Others are the definitions of other domains, where libvirt was asked.
	Others []*xmlfilter.Domain
}

// Known is what is known of other domains, for who gives settings back to NICs.
func (r Records) Known() plan.Known {
	uuids, err := r.Journal.Domains()
	if err != nil {
		uuids = nil // who may not read them has libvirt's domains
	}
	return plan.Known{Others: r.Others, UUIDs: uuids}
}

// surveyor is a survey at work.
type surveyor struct {
	Records
	kernel step.Kernel
	cfg    *config.Config
	domain *xmlfilter.Domain

	vfUses map[string][]link.VFUse // by PF
	pooled []*xmlfilter.Network
	asked  bool // for pooled
}

// Survey looks up the devices that a domain's NICs name, the configured uplinks, whether
// a VLAN is allowed depends on whose device its parent is, and who has the virtual
// functions among them. It changes nothing.
func Survey(ctx context.Context, k step.Kernel, cfg *config.Config, rec Records, d *xmlfilter.Domain) (plan.Snapshot, error) {
	s := surveyor{Records: rec, kernel: k, cfg: cfg, domain: d, vfUses: map[string][]link.VFUse{}}
	h := plan.Snapshot{
		Owner: d.UUID, SwitchErr: rec.SwitchErr, Devices: map[string]plan.Device{}, Uplinks: map[string]plan.Device{}, Missing: map[string]error{},
		VFs: map[string]plan.VFDevice{}, Held: map[string]plan.VFDevice{}, Obstacles: map[string][]link.Obstacle{},
	}
	for _, name := range cfg.UplinkNames() {
		l, err := FindUplink(ctx, k, cfg.Uplinks[name])
		if err != nil {
			h.Missing[name] = err
			lookAmbiguous(ctx, k, cfg.Uplinks[name], err, &h)
			continue
		}
		h.Uplinks[name] = device(ctx, k, l)
	}
	lookFaulty(ctx, k, cfg, &h)
	for i := range d.NICs {
		n := &d.NICs[i]
		if !plan.InScope(n) {
			continue
		}
		names := []string{n.Source.Dev, n.Source.Bridge, n.Target}
		if n.Settings != nil {
			names = append(names, n.Settings.Dev)
			if was := plan.WasOnOVS(n); was != nil {
				names = append(names, was.Source.Bridge)
			}
		}
		for _, name := range names {
			if err := lookDown(ctx, k, &h, name); err != nil {
				return h, err
			}
		}
	}
	for i := range d.NICs {
		for _, name := range plan.VLANNames(cfg, h, &d.NICs[i]) {
			if err := look(ctx, k, &h, name); err != nil {
				return h, err
			}
		}
	}
	h.Targets = targets(ctx, k, rec, d)
	s.lowers(ctx, &h)
	if err := s.pfsBelow(ctx, &h); err != nil {
		return h, err
	}
	return h, s.vfs(ctx, &h)
}

// lowers looks whether macvtaps can be made where the domain's NICs want them. What cannot
// be told stands in nobody's way.
func (s *surveyor) lowers(ctx context.Context, h *plan.Snapshot) {
	for i := range s.domain.NICs {
		n := &s.domain.NICs[i]
		w, err := plan.SettingsOf(s.cfg, *h, n)
		if err != nil || n.Source.Network != "" || n.Type != "direct" && !(n.Type == "ethernet" && w.Own && plan.WasOnOVS(n) == nil) {
			continue
		}
		dev, there := h.Devices[cmp.Or(w.Dev, n.Source.Dev)]
		if u := s.cfg.UplinkCalled(cmp.Or(w.Dev, n.Source.Dev)); !there && u != nil {
			dev, there = h.Uplinks[u.Name]
		}
		if w.Uplink != nil && n.Type == "ethernet" {
			dev, there = h.Uplinks[w.Uplink.Name]
		}
		vlan := w.VLAN != 0 || n.VLAN != nil
		if parent, _, is := plan.SplitVLAN(cmp.Or(w.Dev, n.Source.Dev)); !there && is {
			dev, there = h.Devices[parent]
			if u := s.cfg.UplinkCalled(parent); !there && u != nil {
				dev, there = h.Uplinks[u.Name]
			}
			vlan = true
		}
		mode := cmp.Or(w.Mode, n.Source.Mode, "vepa")
		if vlan {
			mode = "vepa" // it is a VLAN of dev that is to be made, not a macvtap
		}
		if !there || mode == "passthrough" && dev.VF {
			continue
		}
		obstacles, err := s.kernel.Lower(ctx, dev.Name, mode, nil)
		if err != nil {
			continue
		}
		for _, o := range obstacles {
			if o.Kind == link.UseUnfit && o.Errno != 0 { // nobody's use: the kernel says it as well
				continue
			}
			if vlan {
				var is bool
				if o, is = o.ForVLAN(); !is {
					continue
				}
			}
			if upper, err := s.kernel.ByName(ctx, o.Device); o.Device == "" || err != nil || upper.MAC != n.MAC {
				h.Obstacles[n.ID()] = append(h.Obstacles[n.ID()], o)
			}
		}
	}
}

// vfs looks up the VFs that a domain's NICs name, and free ones of uplinks where a NIC
// could take one.
func (s *surveyor) vfs(ctx context.Context, h *plan.Snapshot) error {
	passthrough := 0
	for i := range s.domain.NICs {
		n := &s.domain.NICs[i]
		if !plan.InScope(n) {
			continue
		}
		if n.Type == "hostdev" && n.Source.PCI != "" {
			place, err := s.kernel.VFAt(ctx, n.Source.PCI)
			if err := s.addVF(ctx, h, n.Source.PCI, place, err); err != nil {
				return err
			}
			vf := h.VFs[n.Source.PCI]
			if _, held := vf.Claims.Holder(h.Owner); !held && vf.Bound && n.Unmanaged {
				vf.Used, vf.Bound = "", false // as whoever runs the host has bound it for this
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
		of, err := plan.SettingsOf(s.cfg, *h, n)
		if err == nil && cmp.Or(of.Mode, n.Source.Mode) == "passthrough" {
			passthrough++
		}
	}
	if passthrough == 0 {
		return nil
	}
	h.Free, h.Pooled = map[string][]plan.VFDevice{}, map[string][]string{}
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
// error here: the plan knows who needs it.
func (s *surveyor) addVF(ctx context.Context, h *plan.Snapshot, name string, place link.VFPlace, err error) error {
	var pf link.Link
	var vf plan.VFDevice
	if err == nil {
		pf, err = s.kernel.PF(ctx, place)
	}
	if err == nil {
		vf, err = s.at(ctx, place)
	}
	if err != nil {
		return step.Ignore(step.Ignore(err, link.ErrNotFound), link.ErrNoVF)
	}
	vf.PFName, vf.PFIndex = pf.Name, pf.Index
	h.VFs[name] = vf
	return nil
}

// held reads which VFs the domain's hook-owned NICs have already.
func (s *surveyor) held(h *plan.Snapshot) error {
	if h.Owner == "" {
		return nil
	}
	_, steps, err := readSteps(s.Journal, h.Owner)
	if err != nil {
		return step.Ignore(step.Ignore(err, journal.ErrCorrupt), journal.ErrNewer)
	}
	vfs := map[string]plan.VFDevice{}
	for _, s := range steps {
		switch k := s.Kind.(type) {
		case *step.VF:
			vfs[s.NIC] = plan.VFDevice{VFPlace: k.VFPlace, PFName: k.PFName}
		case *step.Macvtap:
			if vf, ok := vfs[s.NIC]; ok {
				vf.Netdev = k.Lower
				h.Held[s.NIC] = vf
			}
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

// lookDown looks a device up, and those of which its name says that it is a VLAN.
func lookDown(ctx context.Context, k step.Kernel, h *plan.Snapshot, name string) error {
	for ok := true; ok; name, _, ok = plan.SplitVLAN(name) {
		if err := look(ctx, k, h, name); err != nil {
			return err
		}
	}
	return nil
}

func look(ctx context.Context, k step.Kernel, h *plan.Snapshot, name string) error {
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

func device(ctx context.Context, k step.Kernel, l link.Link) plan.Device {
	d := plan.Device{
		Name: l.Name, Index: l.Index, Kind: l.Kind, VLANID: l.VLANID, Parent: l.Parent, MTU: l.MTU, Bridge: l.Bridge,
		VF: l.Kind == "" && k.IsVF(ctx, l.Name),
	}
	if d.Below = below(ctx, k, l, maxVLANs); d.Below != nil {
		d.ParentName = d.Below.Name
	}
	return d
}

// maxVLANs is how many VLAN sub-interfaces the kernel stacks (MAX_NEST_DEV).
const maxVLANs = 8

// below returns the devices below a VLAN sub-interface, as long as they are in this network
// namespace.
func below(ctx context.Context, k step.Kernel, l link.Link, most int) *plan.Device {
	if l.Kind != "vlan" || most == 0 {
		return nil
	}
	parent, err := k.ByIndex(ctx, l.Parent)
	if err != nil {
		return nil
	}
	return &plan.Device{
		Name: parent.Name, Index: parent.Index, Kind: parent.Kind, VLANID: parent.VLANID, Parent: parent.Parent,
		Below: below(ctx, k, parent, most-1),
	}
}

// FindUplink looks an uplink's device up by whatever the configuration finds it by. That
// several devices answer to it is an error matching link.ErrAmbiguous, which names them.
func FindUplink(ctx context.Context, k step.Kernel, u *config.Uplink) (l link.Link, err error) {
	switch {
	case u.PCI != "":
		l, err = k.ByPCI(ctx, u.PCI)
	case u.MAC != "":
		l, err = k.ByPermanentMAC(ctx, u.MAC)
	default:
		return k.ByName(ctx, u.Device)
	}
	if errors.Is(err, link.ErrAmbiguous) {
		err = fmt.Errorf("%w; name the one that is meant with device = \"NAME\"", err)
	}
	return l, err
}

// lookAmbiguous looks up the devices that an uplink could mean. What it limits holds for all
// of them: a guest must not be without its limits for a second card.
func lookAmbiguous(ctx context.Context, k step.Kernel, u *config.Uplink, why error, h *plan.Snapshot) {
	if !u.Limits() {
		return
	}
	for _, l := range candidates(ctx, k, why) {
		fault := fmt.Errorf("%w: %s may be that of uplink %q, whose vlans are %s: %w; fix [uplink.%s] in %s",
			plan.ErrNoDevice, l.Name, u.Name, u.VLANText(), why, u.Name, config.Path)
		h.Faulty = append(h.Faulty, plan.FaultyDevice{Index: l.Index, Fault: fault, Uplink: u})
	}
}

// candidates looks up the devices that a link.AmbiguousError names; none for another error.
func candidates(ctx context.Context, k step.Kernel, err error) (found []link.Link) {
	var ambiguous *link.AmbiguousError
	if !errors.As(err, &ambiguous) {
		return nil
	}
	for _, name := range ambiguous.Devices {
		if l, err := k.ByName(ctx, name); err == nil {
			found = append(found, l)
		}
	}
	return found
}

// lookFaulty looks up the devices of uplinks whose sections of the configuration are
// faulty. One that cannot be found is nobody's to name.
func lookFaulty(ctx context.Context, k step.Kernel, cfg *config.Config, h *plan.Snapshot) {
	for _, u := range cfg.FaultyUplinks() {
		for _, way := range u.Devices {
			l, err := FindUplink(ctx, k, way)
			found := []link.Link{l}
			if err != nil { // any of several could be meant
				found = candidates(ctx, k, err)
			}
			for _, l := range found {
				h.Faulty = append(h.Faulty, plan.FaultyDevice{Index: l.Index, Fault: u.Fault})
			}
		}
	}
}
