package hooktest

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"libvirt-direct/internal/ovs"
)

// Ports are an Open vSwitch: its bridge, its ports by name, and whether it runs.
type Ports struct {
	Bridge string
	ByName map[string]ovs.Port
	Down   bool
	// Installed lists the ports that OVN was waited for.
	Waited []string
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

// Attach is ovs.DB.Attach.
func (f *OVS) Attach(_ context.Context, p ovs.Port) error {
	return f.change("attach", p.Name, func() error {
		have, there := f.ByName[p.Name]
		switch {
		case p.Bridge != f.Bridge:
			return fmt.Errorf("%w: %q", ovs.ErrNoBridge, p.Bridge)
		case there && have.Owner != p.Owner:
			return ovs.ErrTaken
		}
		f.ByName[p.Name] = p
		return nil
	})
}

// Amend is ovs.DB.Amend.
func (f *OVS) Amend(_ context.Context, p ovs.Port) error {
	return f.change("amend", p.Name, func() error {
		have, there := f.ByName[p.Name]
		if !there {
			return ovs.ErrNoPort
		}
		p.Bridge = have.Bridge
		f.ByName[p.Name] = p
		return nil
	})
}

// Installed is ovs.DB.Installed.
func (f *OVS) Installed(_ context.Context, name string) error {
	if err := f.at(Point{Op: "wait for OVN", What: name}); err != nil {
		return err
	}
	f.Waited = append(f.Waited, name)
	if _, there := f.ByName[name]; !there {
		return ovs.ErrNotInstalled
	}
	return nil
}

// Detach is ovs.DB.Detach.
func (f *OVS) Detach(_ context.Context, name, owner string) (was bool, err error) {
	err = f.change("detach", name, func() error {
		if was = f.ByName[name].Owner == owner; was {
			delete(f.ByName, name)
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
