package hooktest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"libvirt-direct/internal/link"
)

// Point is where a call on a fake can be stopped: before it reads, before and after it
// changes something.
type Point struct {
	Op     string // as link.OpError names it
	What   string // the device, VF, port or file
	Change bool
	After  bool // of a change
}

// Gate is passed at each point. Before a call an error fails it, with nothing done; one
// after a change is lost.
type Gate func(Point) error

// Devices are a host's network devices and virtual functions. Whoever has a Kernel on
// them sees the same ones.
type Devices struct {
	Links map[int]*link.Link
	// PCI names the network devices of PCI functions.
	PCI map[string]string
	// PortVLANs and PortMACs are what ports of bridges have, by index.
	PortVLANs map[int][]link.PortVLAN
	PortMACs  map[int]string
	VFs       []*VF
	Driver    Driver
	// Profiles are the 802.1Qbh port profiles, by "eth0/3", "eth0/-1" for the device itself.
	Profiles map[string]string
	// Host is what the host itself does with devices, by name: addresses, routes.
	Host map[string][]link.Use
	// Elsewhere is what stands on devices in other network namespaces, by name.
	Elsewhere map[string][]link.Use
	// Obstacles keep macvtaps from devices, beside the macvtaps that are there, by name.
	Obstacles map[string][]link.Obstacle
	// NodeTaken makes that many macvtaps find their node taken.
	NodeTaken int

	// Next is the index that was last given without being asked for.
	Next int
	// OwnMACs are those of devices below a macvtap in passthrough mode, by its index.
	OwnMACs map[int]string
}

// Kernel is a connection to Devices, as link.Conn is one to the kernel.
type Kernel struct {
	*Devices
	Gate Gate
}

// NewKernel is a host with physical devices of those names, up.
func NewKernel(names ...string) *Kernel {
	d := &Devices{
		Links: map[int]*link.Link{}, PCI: map[string]string{}, PortVLANs: map[int][]link.PortVLAN{}, PortMACs: map[int]string{},
		Profiles: map[string]string{}, OwnMACs: map[int]string{}, Next: 1,
	}
	for _, n := range names {
		l := d.Add(link.Link{Name: n, MTU: 1500, Up: true})
		l.MAC = fmt.Sprintf("02:00:00:00:00:%02x", l.Index)
	}
	return &Kernel{Devices: d}
}

// Add adds a device as it is, with the next index if it has none.
func (d *Devices) Add(l link.Link) *link.Link {
	if l.Index == 0 {
		d.Next++
		l.Index = d.Next
	}
	d.Links[l.Index] = &l
	return &l
}

// With is another connection to the same devices.
func (k *Kernel) With(g Gate) *Kernel { return &Kernel{Devices: k.Devices, Gate: g} }

// read passes the gate in front of a look-up.
func (k *Kernel) read(op, what string) error {
	if k.Gate == nil {
		return nil
	}
	return k.wrap(op, what, k.Gate(Point{Op: op, What: what}))
}

func (k *Kernel) wrap(op, what string, err error) error {
	if err == nil {
		return nil
	}
	return &link.OpError{Op: op, Link: what, Err: err}
}

// change runs a change between the two points at which a process can be stopped.
func (k *Kernel) change(op, what string, do func() error) error {
	if k.Gate != nil {
		if err := k.Gate(Point{Op: op, What: what, Change: true}); err != nil {
			return k.wrap(op, what, err)
		}
	}
	err := do()
	if k.Gate != nil {
		_ = k.Gate(Point{Op: op, What: what, Change: true, After: true})
	}
	return err
}

func notFound(what any) error {
	return &link.OpError{Op: "look up", Link: fmt.Sprint(what), Err: link.ErrNotFound}
}

func (d *Devices) byName(name string) *link.Link {
	for _, l := range d.Links {
		if l.Called(name) {
			return l
		}
	}
	return nil
}

// Name is the name of the device with that index, for messages.
func (d *Devices) Name(index int) string {
	if l := d.Links[index]; l != nil {
		return l.Name
	}
	return fmt.Sprintf("index %d", index)
}

// sorted are all links by name: indexes are drawn at random.
func (d *Devices) sorted() []*link.Link {
	return slices.SortedFunc(maps.Values(d.Links), func(a, b *link.Link) int { return strings.Compare(a.Name, b.Name) })
}

func (k *Kernel) get(what string, l *link.Link) (link.Link, error) {
	if err := k.read("look up", what); err != nil {
		return link.Link{}, err
	}
	if l == nil {
		return link.Link{}, notFound(what)
	}
	return *l, nil
}

// ByName is link.Conn.ByName.
func (k *Kernel) ByName(_ context.Context, name string) (link.Link, error) {
	return k.get(name, k.byName(name))
}

// ByIndex is link.Conn.ByIndex.
func (k *Kernel) ByIndex(_ context.Context, index int) (link.Link, error) {
	return k.get(k.Name(index), k.Links[index])
}

// ByPCI is link.Conn.ByPCI.
func (k *Kernel) ByPCI(_ context.Context, address string) (link.Link, error) {
	return k.get("PCI "+address, k.byName(k.PCI[address]))
}

// ByPermanentMAC is link.Conn.ByPermanentMAC.
func (k *Kernel) ByPermanentMAC(_ context.Context, mac string) (link.Link, error) {
	for _, l := range k.sorted() {
		if l.PermMAC == mac {
			return k.get(mac, l)
		}
	}
	return k.get(mac, nil)
}

// All is link.Conn.All.
func (k *Kernel) All(context.Context) ([]link.Link, error) {
	if err := k.read("list", "links"); err != nil {
		return nil, err
	}
	var all []link.Link
	for _, l := range k.sorted() {
		all = append(all, *l)
	}
	return all, nil
}

// Uppers is link.Conn.Uppers.
func (k *Kernel) Uppers(_ context.Context, name string) ([]string, error) {
	lower, err := k.get(name, k.byName(name))
	if err != nil {
		return nil, err
	}
	return k.uppers(lower.Index), nil
}

func (d *Devices) uppers(index int) []string {
	var uppers []string
	for _, l := range d.sorted() {
		if l.Parent == index {
			uppers = append(uppers, l.Name)
		}
	}
	return uppers
}

// IsVF is link.Conn.IsVF.
func (k *Kernel) IsVF(_ context.Context, name string) bool { return k.vfOf(name) != nil }

// TapNode is link.Conn.TapNode.
func (k *Kernel) TapNode(_ context.Context, l link.Link) (string, error) {
	if k.NodeTaken > 0 {
		k.NodeTaken--
		return "", &link.OpError{Op: "find node", Link: l.Name, Err: link.ErrNodeTaken}
	}
	return fmt.Sprintf("/dev/tap%d", l.Index), nil
}

func (k *Kernel) add(op string, l link.Link) error {
	return k.change(op, l.Name, func() error {
		lower := k.Links[l.Parent]
		if lower == nil {
			return notFound(l.Parent)
		}
		for _, have := range k.Links {
			switch {
			case have.Called(l.Name), l.VLANID != 0 && have.VLANID == l.VLANID && have.Parent == l.Parent:
				return &link.OpError{Op: op, Link: l.Name, Err: link.ErrExists}
			case l.Kind == "macvtap" && have.Parent == l.Parent && have.Kind == "macvtap" && (have.Mode == "passthrough" || l.Mode == "passthrough"):
				return &link.OpError{Op: op, Link: l.Name, Err: link.ErrBusy}
			}
		}
		if l.MTU == 0 {
			l.MTU = lower.MTU
		}
		if l.MAC == "" {
			l.MAC = lower.MAC
		}
		k.Devices.Add(l)
		return nil
	})
}

// AddVLAN is link.Conn.AddVLAN.
func (k *Kernel) AddVLAN(_ context.Context, v link.VLAN) error {
	return k.add("create vlan", link.Link{Index: v.Index, Name: v.Name, Kind: "vlan", Parent: v.Parent, VLANID: v.ID})
}

// AddMacvtap is link.Conn.AddMacvtap.
func (k *Kernel) AddMacvtap(_ context.Context, m link.Macvtap) error {
	mac := m.MAC
	if m.Mode == "passthrough" {
		mac = "" // the lower device's
	}
	return k.add("create macvtap", link.Link{Index: m.Index, Name: m.Name, Kind: "macvtap", Parent: m.Lower, Mode: m.Mode, MAC: mac, MTU: m.MTU})
}

// AddTap is link.Conn.AddTap.
func (k *Kernel) AddTap(_ context.Context, t link.Tap) error {
	return k.change("create tap", t.Name, func() error {
		if k.byName(t.Name) != nil {
			return &link.OpError{Op: "create tap", Link: t.Name, Err: link.ErrExists}
		}
		k.Devices.Add(link.Link{Index: t.Index, Name: t.Name, Kind: "tun", MTU: 1500})
		return nil
	})
}

// SetMTU is link.Conn.SetMTU.
func (k *Kernel) SetMTU(_ context.Context, index, mtu int) error {
	return k.set("set MTU", index, func(l *link.Link) { l.MTU = mtu })
}

// Delete is link.Conn.Delete. What stands on a device goes with it; the device below a
// macvtap in passthrough mode gets its own MAC back.
func (k *Kernel) Delete(_ context.Context, index int) error {
	return k.change("remove", k.Name(index), func() error {
		if k.Links[index] == nil {
			return notFound(index)
		}
		k.remove(index)
		return nil
	})
}

func (d *Devices) remove(index int) {
	for _, l := range d.sorted() {
		if l.Parent == index {
			d.remove(l.Index)
		}
	}
	d.letGo(index)
	delete(d.Links, index)
	delete(d.PortVLANs, index)
	delete(d.PortMACs, index)
}

func (k *Kernel) set(op string, index int, do func(l *link.Link)) error {
	return k.change(op, k.Name(index), func() error {
		if index == 0 {
			return &link.OpError{Op: op, Link: "index 0", Err: unix.EINVAL}
		}
		if k.Links[index] == nil {
			return notFound(index)
		}
		do(k.Links[index])
		return nil
	})
}

// SetUp is link.Conn.SetUp.
func (k *Kernel) SetUp(_ context.Context, index int, up bool) error {
	return k.set(fmt.Sprintf("set up=%t", up), index, func(l *link.Link) { l.Up = up })
}

// SetAllMulticast is link.Conn.SetAllMulticast.
func (k *Kernel) SetAllMulticast(_ context.Context, index int, on bool) error {
	return k.set("set allmulticast", index, func(l *link.Link) { l.AllMulti = on })
}

// SetAlias is link.Conn.SetAlias.
func (k *Kernel) SetAlias(_ context.Context, index int, alias string) error {
	return k.set("set alias", index, func(l *link.Link) { l.Alias = alias })
}

// SetName is link.Conn.SetName.
func (k *Kernel) SetName(_ context.Context, index int, name string) error {
	return k.change("rename", k.Name(index), func() error {
		l := k.Links[index]
		switch {
		case l == nil:
			return notFound(index)
		case k.byName(name) != nil:
			return &link.OpError{Op: "rename", Link: name, Err: link.ErrExists}
		}
		if v := k.vfOf(l.Name); v != nil {
			v.Netdev = name
		}
		for _, v := range k.VFs {
			if v.PFNetdev == l.Name {
				v.PFNetdev = name
			}
		}
		l.Name = name
		return nil
	})
}

// AddAltName is link.Conn.AddAltName.
func (k *Kernel) AddAltName(_ context.Context, index int, name string) error {
	return k.change("add altname", k.Name(index), func() error {
		switch {
		case k.Links[index] == nil:
			return notFound(index)
		case k.byName(name) != nil:
			return &link.OpError{Op: "add altname", Link: name, Err: link.ErrExists}
		}
		k.Links[index].AltNames = append(slices.Clone(k.Links[index].AltNames), name)
		return nil
	})
}

// RemoveAltName is link.Conn.RemoveAltName.
func (k *Kernel) RemoveAltName(_ context.Context, index int, name string) error {
	return k.set("remove altname", index, func(l *link.Link) {
		l.AltNames = slices.DeleteFunc(slices.Clone(l.AltNames), func(n string) bool { return n == name })
	})
}

// DisableIPv6 is link.Conn.DisableIPv6.
func (k *Kernel) DisableIPv6(_ context.Context, name string) error {
	return k.change("disable IPv6", name, func() error { return nil })
}

// SetPortFlags is link.Conn.SetPortFlags.
func (k *Kernel) SetPortFlags(_ context.Context, index int, want link.PortFlags) error {
	return k.set("set port flags", index, func(l *link.Link) {
		have := link.PortFlags{}
		if l.Port != nil {
			have = l.Port.PortFlags
		}
		l.Port = &link.BridgePort{PortFlags: link.PortFlags{
			Isolated: cmp.Or(want.Isolated, have.Isolated), Learning: cmp.Or(want.Learning, have.Learning),
			Hairpin: cmp.Or(want.Hairpin, have.Hairpin), BPDUGuard: cmp.Or(want.BPDUGuard, have.BPDUGuard),
		}}
	})
}

// SetPortVLANs is link.Conn.SetPortVLANs.
func (k *Kernel) SetPortVLANs(_ context.Context, index int, want []link.PortVLAN) error {
	return k.set("set port VLANs", index, func(*link.Link) { k.PortVLANs[index] = want })
}

// AddPortMAC is link.Conn.AddPortMAC.
func (k *Kernel) AddPortMAC(_ context.Context, index int, mac string) error {
	return k.set("add port MAC", index, func(*link.Link) { k.PortMACs[index] = mac })
}

// Dump is the devices' state for comparison. Indexes are left out, since they are drawn.
func (d *Devices) Dump() string {
	var lines []string
	for _, l := range d.sorted() {
		parent := ""
		if p := d.Links[l.Parent]; p != nil {
			parent = p.Name
		}
		lines = append(lines, fmt.Sprintf("%s kind=%s mac=%s up=%t allmulti=%t parent=%s vlan=%d mode=%s alias=%q alt=%v",
			l.Name, l.Kind, l.MAC, l.Up, l.AllMulti, parent, l.VLANID, l.Mode, l.Alias, append([]string{}, l.AltNames...)))
	}
	return strings.Join(lines, "\n")
}
