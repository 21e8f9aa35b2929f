package hooks

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"libvirt-direct/internal/link"
)

// fakeKernel is a kernel's links as a state machine. Every call that changes
// something counts; fail and die are asked before and after it.
type fakeKernel struct {
	links map[int]*link.Link
	vfs   map[string]bool
	pci   map[string]string
	next  int
	sriov fakeSRIOV
	vlans map[int][]link.PortVLAN // of bridge ports
	fdb   map[int]string          // static addresses behind them

	calls int
	fail  func(call int, op string) error // what the call returns, nothing done
	die   func(call int, after bool)      // panics to play a SIGKILL
	// nodeTaken makes that many macvtaps find their node taken.
	nodeTaken int
}

func newFake(names ...string) *fakeKernel {
	f := &fakeKernel{links: map[int]*link.Link{}, vfs: map[string]bool{}, pci: map[string]string{}, next: 1,
		vlans: map[int][]link.PortVLAN{}, fdb: map[int]string{}}
	for _, n := range names {
		f.next++
		f.links[f.next] = &link.Link{Index: f.next, Name: n, MAC: fmt.Sprintf("02:00:00:00:00:%02x", f.next), MTU: 1500, Up: true}
	}
	return f
}

// change runs a change of state between the two points at which a process can die.
func (f *fakeKernel) change(op string, do func() error) error {
	f.calls++
	n := f.calls
	if f.fail != nil {
		if err := f.fail(n, op); err != nil {
			return &link.OpError{Op: op, Link: "fake", Err: err}
		}
	}
	if f.die != nil {
		f.die(n, false)
	}
	err := do()
	if f.die != nil {
		f.die(n, true)
	}
	return err
}

func notFound(what any) error {
	return &link.OpError{Op: "look up", Link: fmt.Sprint(what), Err: link.ErrNotFound}
}

func (f *fakeKernel) ByName(_ context.Context, name string) (link.Link, error) {
	for _, l := range f.links {
		if l.Called(name) {
			return *l, nil
		}
	}
	return link.Link{}, notFound(name)
}

func (f *fakeKernel) ByIndex(_ context.Context, index int) (link.Link, error) {
	if l := f.links[index]; l != nil {
		return *l, nil
	}
	return link.Link{}, notFound(index)
}

func (f *fakeKernel) ByPCI(ctx context.Context, address string) (link.Link, error) {
	if f.pci[address] == "" {
		return link.Link{}, notFound(address)
	}
	return f.ByName(ctx, f.pci[address])
}

func (f *fakeKernel) ByPermanentMAC(_ context.Context, mac string) (link.Link, error) {
	for _, l := range f.links {
		if l.PermMAC == mac {
			return *l, nil
		}
	}
	return link.Link{}, notFound(mac)
}

func (f *fakeKernel) All(context.Context) ([]link.Link, error) {
	var all []link.Link
	for _, i := range slices.Sorted(maps.Keys(f.links)) {
		all = append(all, *f.links[i])
	}
	return all, nil
}

func (f *fakeKernel) Uppers(ctx context.Context, name string) ([]string, error) {
	lower, err := f.ByName(ctx, name)
	if err != nil {
		return nil, err
	}
	var uppers []string
	for _, i := range slices.Sorted(maps.Keys(f.links)) {
		if f.links[i].Parent == lower.Index {
			uppers = append(uppers, f.links[i].Name)
		}
	}
	return uppers, nil
}

func (f *fakeKernel) IsVF(_ context.Context, name string) bool { return f.vfs[name] }

func (f *fakeKernel) TapNode(_ context.Context, l link.Link) (string, error) {
	if f.nodeTaken > 0 {
		f.nodeTaken--
		return "", &link.OpError{Op: "find node", Link: l.Name, Err: link.ErrNodeTaken}
	}
	return fmt.Sprintf("/dev/tap%d", l.Index), nil
}

func (f *fakeKernel) add(op string, l link.Link) error {
	return f.change(op, func() error {
		for _, have := range f.links {
			if have.Called(l.Name) || l.VLANID != 0 && have.VLANID == l.VLANID && have.Parent == l.Parent {
				return &link.OpError{Op: op, Link: l.Name, Err: link.ErrExists}
			}
		}
		if f.links[l.Parent] == nil {
			return notFound(l.Parent)
		}
		f.links[l.Index] = &l
		return nil
	})
}

func (f *fakeKernel) AddVLAN(_ context.Context, v link.VLAN) error {
	return f.add("create vlan", link.Link{Index: v.Index, Name: v.Name, Kind: "vlan", Parent: v.Parent, VLANID: v.ID})
}

func (f *fakeKernel) AddMacvtap(_ context.Context, m link.Macvtap) error {
	mac := m.MAC
	if m.Mode == "passthrough" {
		mac = f.links[m.Lower].MAC
	}
	return f.add("create macvtap", link.Link{Index: m.Index, Name: m.Name, Kind: "macvtap", Parent: m.Lower, Mode: m.Mode, MAC: mac, MTU: m.MTU})
}

func (f *fakeKernel) AddTap(_ context.Context, t link.Tap) error {
	return f.change("create tap", func() error {
		f.links[t.Index] = &link.Link{Index: t.Index, Name: t.Name, Kind: "tun"}
		return nil
	})
}

func (f *fakeKernel) SetMTU(_ context.Context, index, mtu int) error {
	return f.set("set MTU", index, func(l *link.Link) { l.MTU = mtu })
}

func (f *fakeKernel) Delete(_ context.Context, index int) error {
	return f.change("remove", func() error {
		if f.links[index] == nil {
			return notFound(index)
		}
		if vf := f.under(index); vf != nil && vf.was != nil {
			vf.MAC, vf.was = vf.was, nil
		}
		delete(f.links, index)
		for i, l := range f.links {
			if l.Parent == index {
				delete(f.links, i)
			}
		}
		return nil
	})
}

func (f *fakeKernel) set(op string, index int, do func(l *link.Link)) error {
	return f.change(op, func() error {
		if f.links[index] == nil {
			return notFound(index)
		}
		do(f.links[index])
		return nil
	})
}

func (f *fakeKernel) SetUp(_ context.Context, index int, up bool) error {
	return f.set("set up", index, func(l *link.Link) { l.Up = up })
}

func (f *fakeKernel) SetAllMulticast(_ context.Context, index int, on bool) error {
	return f.set("set allmulticast", index, func(l *link.Link) { l.AllMulti = on })
}

func (f *fakeKernel) SetAlias(_ context.Context, index int, alias string) error {
	return f.set("set alias", index, func(l *link.Link) { l.Alias = alias })
}

func (f *fakeKernel) SetMAC(_ context.Context, index int, mac string) error {
	vf := f.under(index)
	if vf != nil && f.sriov.notWhileUp && f.links[f.links[index].Parent].Up {
		return &link.OpError{Op: "set MAC of", Link: vf.Netdev, Err: link.ErrBusy}
	}
	if vf != nil && vf.fixed && !*vf.Trust {
		return &link.OpError{Op: "set MAC of", Link: vf.Netdev, Err: link.ErrMACFixed}
	}
	return f.set("set MAC", index, func(l *link.Link) {
		l.MAC = mac
		if vf != nil { // its driver tells the PF
			vf.was, vf.MAC = vf.MAC, &mac
		}
	})
}

func (f *fakeKernel) SetName(ctx context.Context, index int, name string) error {
	if _, err := f.ByName(ctx, name); err == nil {
		return &link.OpError{Op: "rename", Link: name, Err: link.ErrExists}
	}
	return f.set("rename", index, func(l *link.Link) {
		for _, v := range f.sriov.vfs {
			if v.Netdev == l.Name {
				v.Netdev = name
			}
		}
		l.Name = name
	})
}

func (f *fakeKernel) AddAltName(_ context.Context, index int, name string) error {
	return f.set("add altname", index, func(l *link.Link) { l.AltNames = append(slices.Clone(l.AltNames), name) })
}

func (f *fakeKernel) RemoveAltName(_ context.Context, index int, name string) error {
	return f.set("remove altname", index, func(l *link.Link) {
		l.AltNames = slices.DeleteFunc(slices.Clone(l.AltNames), func(n string) bool { return n == name })
	})
}

func (f *fakeKernel) DisableIPv6(context.Context, string) error {
	return f.change("disable IPv6", func() error { return nil })
}

// dump is the state for comparison; chosen indexes are left out, since they differ.
func (f *fakeKernel) dump() string {
	var lines []string
	for _, l := range f.links {
		parent := ""
		if p := f.links[l.Parent]; p != nil {
			parent = p.Name
		}
		lines = append(lines, fmt.Sprintf("%s kind=%s mac=%s up=%t allmulti=%t parent=%s vlan=%d mode=%s alias=%q alt=%v",
			l.Name, l.Kind, l.MAC, l.Up, l.AllMulti, parent, l.VLANID, l.Mode, l.Alias, append([]string{}, l.AltNames...)))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
