package hooks

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"libvirt-direct/internal/ovs"
)

// fakeOVS is an Open vSwitch as a state machine, whose changes count as the kernel's.
type fakeOVS struct {
	kernel    *fakeKernel
	bridge    string
	ports     map[string]ovs.Port
	installed []string // ports that were waited for
}

func (f *fakeOVS) open() Switch { return f }
func (f *fakeOVS) Close()       {}

func (f *fakeOVS) Attach(_ context.Context, p ovs.Port) error {
	return f.kernel.change("attach", func() error {
		have, there := f.ports[p.Name]
		switch {
		case p.Bridge != f.bridge:
			return fmt.Errorf("%w: %q", ovs.ErrNoBridge, p.Bridge)
		case there && have.Owner != p.Owner:
			return ovs.ErrTaken
		}
		f.ports[p.Name] = p
		return nil
	})
}

func (f *fakeOVS) Amend(_ context.Context, p ovs.Port) error {
	return f.kernel.change("amend", func() error {
		have, there := f.ports[p.Name]
		if !there {
			return ovs.ErrNoPort
		}
		p.Bridge = have.Bridge
		f.ports[p.Name] = p
		return nil
	})
}

func (f *fakeOVS) Installed(_ context.Context, name string) error {
	f.installed = append(f.installed, name)
	if _, there := f.ports[name]; !there {
		return ovs.ErrNotInstalled
	}
	return nil
}

func (f *fakeOVS) Detach(_ context.Context, name, owner string) (was bool, err error) {
	err = f.kernel.change("detach", func() error {
		if was = f.ports[name].Owner == owner; was {
			delete(f.ports, name)
		}
		return nil
	})
	return was, err
}

func (f *fakeOVS) List(context.Context) ([]ovs.Owned, error) {
	var owned []ovs.Owned
	for _, name := range slices.Sorted(maps.Keys(f.ports)) {
		if o := f.ports[name].Owner; o != "" {
			owned = append(owned, ovs.Owned{Name: name, Owner: o})
		}
	}
	return owned, nil
}
