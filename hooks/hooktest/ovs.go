package hooktest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"libvirt-direct/internal/ovs"
)

// Ports are an Open vSwitch: its bridge, its ports by name, and whether it runs.
type Ports struct {
	Bridge string
	ByName map[string]ovs.Port
	Down   bool
	// Waited lists the ports that OVN was waited for.
	Waited []string
	// Others are ports that are there beside those of ByName, for mirrors.
	Others []string
	// Kernel has the devices that ports are of. With nil each has one.
	Kernel *Devices
	// Bound are the ports that OVN has bound. With nil an ovn-controller binds each at
	// once.
	Bound map[string]bool
}

// OVS is a connection to Ports, as ovs.DB is one to Open vSwitch.
type OVS struct {
	*Ports
	Gate Gate
}

// NewOVS is an Open vSwitch with one bridge.
func NewOVS(bridge string) *OVS {
	return &OVS{Ports: &Ports{Bridge: bridge, ByName: map[string]ovs.Port{}}}
}

// Bridges is ovs.DB.Bridges.
func (f *OVS) Bridges(context.Context) ([]ovs.Bridge, error) {
	if err := f.at(Point{Op: "list bridges"}); err != nil {
		return nil, err
	}
	b := ovs.Bridge{Name: f.Bridge, Devices: []ovs.Device{{Name: f.Bridge}}}
	for _, name := range slices.Sorted(maps.Keys(f.ByName)) {
		d := ovs.Device{Name: name}
		if v := f.ByName[name].VLAN; v != nil {
			d.Tag = value(v.Tag)
		}
		b.Devices = append(b.Devices, d)
	}
	for _, name := range f.Others {
		b.Devices = append(b.Devices, ovs.Device{Name: name})
	}
	slices.SortFunc(b.Devices, func(a, b ovs.Device) int { return cmp.Compare(a.Name, b.Name) })
	return []ovs.Bridge{b}, nil
}

// With is another connection to the same Open vSwitch.
func (f *OVS) With(g Gate) *OVS { return &OVS{Ports: f.Ports, Gate: g} }

// Close is ovs.DB.Close.
func (f *OVS) Close() {}

func (f *OVS) at(p Point) error {
	if f.Gate != nil {
		if err := f.Gate(p); err != nil {
			return fmt.Errorf("port %s: %w", p.What, err)
		}
	}
	if f.Down && !p.After {
		return fmt.Errorf("port %s: %w", p.What, ovs.ErrUnreachable)
	}
	return nil
}

func (f *OVS) change(op, name string, do func() error) error {
	if err := f.at(Point{Op: op, What: name, Change: true}); err != nil {
		return err
	}
	err := do()
	_ = f.at(Point{Op: op, What: name, Change: true, After: true})
	return err
}

// fits looks at what the database refuses.
func (f *OVS) fits(p ovs.Port) error {
	if v := p.VLAN; v != nil {
		for _, id := range append(slices.Clone(v.Trunks), value(v.Tag)) {
			if id < 0 || id > 4095 {
				return &ovs.OpError{Err: "constraint violation", Details: fmt.Sprintf("%d is not in the valid range 0 to 4,095", id)}
			}
		}
	}
	return nil
}

// mirrors reports whether there is a port for a port's mirror.
func (f *OVS) mirrors(p ovs.Port) error {
	if _, there := f.ByName[p.Mirror]; p.Mirror != "" && !there && !slices.Contains(f.Others, p.Mirror) {
		return fmt.Errorf("mirror to %q: %w", p.Mirror, ovs.ErrNoPort)
	}
	return nil
}

// made is what ovs-vswitchd says of a port.
func (f *OVS) made(name string) error {
	if f.Kernel != nil && f.Kernel.byName(name) == nil {
		return fmt.Errorf("%w: could not open network device %s (No such device)", ovs.ErrInterface, name)
	}
	return nil
}

func value(n *int) int {
	if n == nil {
		return 0
	}
	return *n
}

// tuned is a port with those numbers of an earlier state that are not said anew: the
// database has no value for "none" in their columns.
func tuned(p, was ovs.Port) ovs.Port {
	p.MTU, p.IngressRate, p.IngressBurst = cmp.Or(p.MTU, was.MTU), cmp.Or(p.IngressRate, was.IngressRate), cmp.Or(p.IngressBurst, was.IngressBurst)
	return p
}

// Attach is ovs.DB.Attach.
func (f *OVS) Attach(_ context.Context, p ovs.Port) error {
	return f.change("attach", p.Name, func() error {
		have, there := f.ByName[p.Name]
		if err := f.mirrors(p); err != nil {
			return err
		}
		switch {
		case there && have.Owner != p.Owner:
			return ovs.ErrTaken
		case p.Bridge != f.Bridge:
			return fmt.Errorf("%w: %q", ovs.ErrNoBridge, p.Bridge)
		}
		if err := f.fits(p); err != nil {
			return err
		}
		f.ByName[p.Name] = tuned(p, have)
		if !there || have.IDs["iface-id"] != p.IDs["iface-id"] {
			delete(f.Bound, p.Name)
		}
		return f.made(p.Name)
	})
}

// Amend is ovs.DB.Amend.
func (f *OVS) Amend(_ context.Context, p ovs.Port) error {
	return f.change("amend", p.Name, func() error {
		have, there := f.ByName[p.Name]
		if err := f.mirrors(p); err != nil {
			return err
		}
		if !there {
			return ovs.ErrNoPort
		}
		if err := f.fits(p); err != nil {
			return err
		}
		if id, said := p.IDs["iface-id"]; said && id != have.IDs["iface-id"] {
			delete(f.Bound, p.Name)
		}
		ids := maps.Clone(have.IDs)
		if ids == nil {
			ids = map[string]string{}
		}
		maps.Copy(ids, p.IDs)
		if len(ids) > 0 {
			p.IDs = ids
		}
		p.Bridge, p.Type, p.Protected, p.VLAN = have.Bridge, have.Type, p.Protected || have.Protected, cmp.Or(p.VLAN, have.VLAN)
		f.ByName[p.Name] = tuned(p, have)
		return f.made(p.Name)
	})
}

// Installed is ovs.DB.Installed.
func (f *OVS) Installed(ctx context.Context, name string) error {
	if err := f.at(Point{Op: "wait for OVN", What: name}); err != nil {
		return err
	}
	f.Waited = append(f.Waited, name)
	for range 60 { // where ctx does not say, a minute
		if _, there := f.ByName[name]; there && (f.Bound == nil || f.Bound[name]) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ovs.ErrNotInstalled
		case <-time.After(time.Second):
		}
	}
	return ovs.ErrNotInstalled
}

// Detach is ovs.DB.Detach.
func (f *OVS) Detach(_ context.Context, name, owner string) (was bool, err error) {
	err = f.change("detach", name, func() error {
		have, there := f.ByName[name]
		if was = there && have.Owner == owner && owner != ""; was {
			delete(f.ByName, name)
			delete(f.Bound, name)
		}
		return nil
	})
	return was, err
}

// List is ovs.DB.List.
func (f *OVS) List(context.Context) ([]ovs.Owned, error) {
	if err := f.at(Point{Op: "list", What: "*"}); err != nil {
		return nil, err
	}
	var owned []ovs.Owned
	for _, name := range slices.Sorted(maps.Keys(f.ByName)) {
		if o := f.ByName[name].Owner; o != "" {
			owned = append(owned, ovs.Owned{Name: name, Owner: o})
		}
	}
	return owned, nil
}
