package topology

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"libvirt-direct/hooks"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/graph"
	"libvirt-direct/internal/libvirtd"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/ovs"
	"libvirt-direct/vdp/control"
	"libvirt-direct/xmlfilter"
)

// Sources say where Collect asks. The kernel is that of the calling thread's network
// namespace, and Open vSwitch the one that runs on this host, if one does.
type Sources struct {
	Config  string        // the configuration's file
	Records hooks.Records // who has what
	Libvirt string        // URI
	Station string        // vdpd's control socket
}

// Collect asks a host for its topology. Who does not answer is left out, and missing says
// why; without the kernel, the journals' folder or a sound configuration there is none. A
// host without Open vSwitch or vdpd lacks nothing.
func Collect(ctx context.Context, s Sources) (t *Topology, missing []error, err error) {
	k, err := link.Open()
	if err != nil {
		return nil, nil, err
	}
	defer k.Close()
	t = &Topology{OwnAlias: step.Alias}
	if t.Links, err = k.All(ctx); err != nil {
		return nil, nil, err
	}
	held, err := hooks.Status(ctx, k, nil, s.Records.Journal)
	if errors.Is(err, fs.ErrPermission) {
		missing = append(missing, err)
	} else if err != nil {
		return nil, nil, err
	}
	for _, d := range held {
		t.Journals = append(t.Journals, journalOf(d))
	}
	if t.PFs, err = PhysicalFunctions(ctx, k, s.Records, ""); err != nil {
		return nil, nil, err
	}
	cfg, err := config.Load(s.Config)
	if err != nil {
		return nil, nil, err
	}
	for _, fault := range cfg.Faults() {
		missing = append(missing, fault)
	}
	missing = append(missing, t.findUplinks(ctx, k, cfg)...)
	if err := t.askLibvirt(ctx, s.Libvirt); err != nil {
		missing = append(missing, err)
	}
	if err := t.askVirtualSwitch(ctx, hooks.FindSwitch(s.Config)); err != nil {
		missing = append(missing, err)
	}
	if err := t.askStation(ctx, s.Station); err != nil {
		missing = append(missing, err)
	}
	return t, missing, nil
}

// journalOf is what there is to draw of a domain's journal.
func journalOf(d hooks.DomainStatus) Journal {
	j := Journal{Name: d.Name, UUID: d.UUID, Error: d.Error}
	for _, h := range d.Held {
		if holding, drawn := holdingOf(h); drawn {
			j.Holdings = append(j.Holdings, holding)
		}
	}
	return j
}

// holdingOf is a step of a journal; not drawn is one that is about no device of its own. A
// VSI is drawn as the station has it.
func holdingOf(h hooks.Held) (_ Holding, drawn bool) {
	out := Holding{NIC: h.NIC, Difference: h.Difference}
	device := func(name, class string) (Holding, bool) {
		out.Device, out.Class = name, class
		return out, true
	}
	switch k := h.Kind.(type) {
	case *step.VF:
		out.VF = k.Device
		return out, true
	case *step.Port:
		out.Profile = k.Profile
		if k.PF != "" {
			out.VF = k.VFPlace.Device
			return out, true
		}
		return device(k.Device, graph.NIC)
	case *step.VLAN:
		return device(k.Name, graph.VLAN)
	case *step.AltName:
		return device(k.Device, graph.NIC)
	case *step.Macvtap:
		return device(k.Name, graph.Tap)
	case *step.Tap:
		return device(k.Name, graph.Tap)
	case *step.OVSPort:
		return device(k.Name, graph.Tap)
	}
	return out, false
}

// PhysicalFunctions reads the PFs of this host, or the one that is called only, beside what
// the records say of their VFs. It never returns nil without an error.
func PhysicalFunctions(ctx context.Context, k *link.Conn, rec hooks.Records, only string) ([]PF, error) {
	names := []string{only}
	if only == "" {
		var err error
		if names, err = k.PFs(ctx); err != nil {
			return nil, err
		}
	}
	pfs := []PF{}
	for _, name := range names {
		pf, err := physicalFunction(ctx, k, rec, name)
		if err != nil {
			return nil, err
		}
		pfs = append(pfs, pf)
	}
	return pfs, nil
}

func physicalFunction(ctx context.Context, k *link.Conn, rec hooks.Records, name string) (PF, error) {
	l, err := k.ByName(ctx, name)
	if err != nil {
		return PF{}, err
	}
	owned, err := hooks.VFs(ctx, k, rec, l)
	if err != nil {
		return PF{}, err
	}
	_, vfs, err := k.VFs(ctx, l)
	if err != nil {
		return PF{}, err
	}
	pf := PF{Name: l.Name, Driver: k.Driver(l.Name), VFs: []VF{}}
	for _, u := range owned {
		v := VF{Number: u.Number, Device: u.Device, Driver: u.Driver, Netdev: u.Netdev, Used: u.Used}
		if i := slices.IndexFunc(vfs, func(f link.VF) bool { return f.Number == u.Number }); i >= 0 {
			v.Read = vfs[i].VFSettings
		}
		v.Owner, v.Wanted = u.Holder()
		pf.VFs = append(pf.VFs, v)
	}
	return pf, nil
}

// findUplinks looks up the configuration's uplinks, and returns why some are not there.
func (t *Topology) findUplinks(ctx context.Context, k *link.Conn, cfg *config.Config) (missing []error) {
	t.Uplinks = map[string]string{}
	for _, name := range cfg.UplinkNames() {
		l, err := hooks.FindUplink(ctx, k, cfg.Uplinks[name])
		if err != nil {
			missing = append(missing, fmt.Errorf("uplink %s: %w", name, err))
			continue
		}
		t.Uplinks[l.Name] = name
	}
	return missing
}

// askLibvirt adds the guests that run, by name.
func (t *Topology) askLibvirt(ctx context.Context, uri string) error {
	conn, err := libvirtd.Dial(ctx, uri)
	if err != nil {
		return err
	}
	defer conn.Close()
	running, err := conn.Running(ctx)
	if err != nil {
		return err
	}
	slices.SortFunc(running, func(a, b libvirtd.Domain) int { return cmp.Compare(a.Name, b.Name) })
	var failed []error
	for _, r := range running {
		text, err := conn.LiveXML(ctx, r)
		if errors.Is(err, libvirtd.ErrNoDomain) { // it has ended meanwhile
			continue
		}
		if err != nil {
			failed = append(failed, err)
			continue
		}
		d, err := xmlfilter.Parse([]byte(text))
		if err != nil && !errors.Is(err, xmlfilter.ErrSettings) {
			failed = append(failed, fmt.Errorf("domain %q: %w", r.Name, err))
			continue
		}
		t.Guests = append(t.Guests, guestOf(d))
	}
	t.AllGuests = len(failed) == 0
	return errors.Join(failed...)
}

func guestOf(d *xmlfilter.Domain) Guest {
	g := Guest{Name: d.Name, UUID: d.UUID}
	for i := range d.NICs {
		n := &d.NICs[i]
		g.NICs = append(g.NICs, NIC{Type: n.Type, MAC: n.MAC, Target: n.Target, PCI: n.Source.PCI})
	}
	return g
}

func (t *Topology) askVirtualSwitch(ctx context.Context, db *ovs.DB) error {
	place, err := db.Place()
	if err == nil && !place.Installed() { // most hosts have none
		return nil
	}
	defer db.Close()
	t.VirtualSwitches, err = db.Bridges(ctx)
	return err
}

func (t *Topology) askStation(ctx context.Context, socket string) error {
	vdpd := control.NewClient(socket)
	var err error
	if t.Stations, err = vdpd.Status(ctx); err == nil {
		t.VSIs, err = vdpd.List(ctx, "")
	}
	if errors.Is(err, control.ErrNoDaemon) { // most hosts have none
		return nil
	}
	return err
}
