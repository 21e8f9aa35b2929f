package hooktest

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"net"
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
	// Journal: it is of the journal, and not of the host.
	Journal bool
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
	PortMACs  map[int][]string
	// SelfMACs are the devices' own forwarding entries, by index; with SelfFull none has room
	// for another.
	SelfMACs map[int][]string
	SelfFull bool
	VFs      []*VF
	Driver   Driver
	// Profiles are the 802.1Qbh port profiles, by "eth0/3", "eth0/-1" for the device itself.
	Profiles map[string]string
	// Host is what the host itself does with devices, by name: addresses, routes.
	Host map[string][]link.Use
	// Elsewhere is what stands on devices in other network namespaces, by name, beside
	// what Away has.
	Elsewhere map[string][]link.Use
	// Away are the devices that have been moved into containers, by the container's name.
	Away map[string][]*link.Link
	// NoIPv6 tells for which devices the host's IPv6 is off, by index.
	NoIPv6 map[int]bool
	// Obstacles keep macvtaps from devices, beside what is there, by name.
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
		Links: map[int]*link.Link{}, PCI: map[string]string{}, PortVLANs: map[int][]link.PortVLAN{}, PortMACs: map[int][]string{},
		SelfMACs: map[int][]string{},
		Profiles: map[string]string{}, OwnMACs: map[int]string{}, Away: map[string][]*link.Link{}, NoIPv6: map[int]bool{}, Next: 1,
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

// look passes the gate in front of a look-up, whose answer is from behind it.
func (k *Kernel) look(op, what string) error {
	if k.Gate == nil {
		return nil
	}
	return k.wrap(op, what, k.Gate(Point{Op: op, What: what}))
}

// read is a look-up by rtnetlink, which does not answer whose time is up. What is read
// from sysfs has no time limit.
func (k *Kernel) read(ctx context.Context, op, what string) error {
	if err := k.look(op, what); err != nil {
		return err
	}
	return k.late(ctx, op, what)
}

func (k *Kernel) late(ctx context.Context, op, what string) error {
	if ctx.Err() == nil {
		return nil
	}
	return k.wrap(op, what, context.DeadlineExceeded)
}

func (k *Kernel) wrap(op, what string, err error) error {
	if err == nil {
		return nil
	}
	return &link.OpError{Op: op, Link: what, Err: err}
}

// change runs a change between the two points at which a process can be stopped.
func (k *Kernel) change(ctx context.Context, op, what string, do func() error) error {
	if k.Gate != nil {
		if err := k.Gate(Point{Op: op, What: what, Change: true}); err != nil {
			return k.wrap(op, what, err)
		}
	}
	if err := k.late(ctx, op, what); err != nil {
		return err
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

func refused(op, what string, err error) error { return &link.OpError{Op: op, Link: what, Err: err} }

func (d *Devices) byName(name string) *link.Link {
	for _, l := range d.Links {
		if l.Called(name) {
			return l
		}
	}
	return nil
}

// inSysfs is byName without altnames, which sysfs does not show.
func (d *Devices) inSysfs(name string) *link.Link {
	if l := d.byName(name); l != nil && l.Name == name {
		return l
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

// on are the devices that stand on one, by name, those in containers last.
func (d *Devices) on(index int) []*link.Link {
	var on []*link.Link
	for _, l := range d.sorted() {
		if l.Parent == index {
			on = append(on, l)
		}
	}
	for _, c := range slices.Sorted(maps.Keys(d.Away)) {
		for _, l := range d.Away[c] {
			if l.Parent == index {
				on = append(on, l)
			}
		}
	}
	return on
}

func macvlan(l *link.Link) bool { return l.Kind == "macvtap" || l.Kind == "macvlan" }

func (k *Kernel) get(ctx context.Context, what string, find func() *link.Link) (link.Link, error) {
	if err := k.read(ctx, "look up", what); err != nil {
		return link.Link{}, err
	}
	l := find()
	if l == nil {
		return link.Link{}, notFound(what)
	}
	return *l, nil
}

// ByName is link.Conn.ByName.
func (k *Kernel) ByName(ctx context.Context, name string) (link.Link, error) {
	return k.get(ctx, name, func() *link.Link { return k.byName(name) })
}

// ByIndex is link.Conn.ByIndex.
func (k *Kernel) ByIndex(ctx context.Context, index int) (link.Link, error) {
	l, err := k.get(ctx, k.Name(index), func() *link.Link { return k.Links[index] })
	if err != nil && index == 0 { // to the kernel no index is no question
		return link.Link{}, refused("look up", "index 0", unix.EINVAL)
	}
	return l, err
}

// ByPCI is link.Conn.ByPCI.
func (k *Kernel) ByPCI(ctx context.Context, address string) (link.Link, error) {
	return k.get(ctx, "PCI "+address, func() *link.Link {
		for _, v := range k.VFs {
			switch address {
			case v.Device:
				return k.inSysfs(v.Netdev)
			case v.PF:
				return k.inSysfs(v.PFNetdev)
			}
		}
		return k.byName(k.PCI[address])
	})
}

// ByPermanentMAC is link.Conn.ByPermanentMAC.
func (k *Kernel) ByPermanentMAC(ctx context.Context, mac string) (link.Link, error) {
	if err := k.read(ctx, "look up", "permanent MAC "+mac); err != nil {
		return link.Link{}, err
	}
	var names []string
	for _, l := range k.sorted() {
		if l.PermMAC == mac {
			names = append(names, l.Name)
		}
	}
	name, err := link.Only(names)
	if err != nil {
		return link.Link{}, refused("look up", "permanent MAC "+mac, err)
	}
	return *k.byName(name), nil
}

// All is link.Conn.All.
func (k *Kernel) All(ctx context.Context) ([]link.Link, error) {
	if err := k.read(ctx, "list", "links"); err != nil {
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
	if err := k.look("look up", name); err != nil {
		return nil, err
	}
	l := k.inSysfs(name)
	if l == nil {
		return nil, notFound(name)
	}
	uppers := k.uppers(l.Index)
	if m := k.Links[l.Master]; m != nil {
		uppers = append(uppers, m.Name)
		slices.Sort(uppers)
	}
	return uppers, nil
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
	if have := k.Links[l.Index]; have == nil || have.Kind != "macvtap" {
		return "", refused("find node", l.Name, fs.ErrNotExist)
	}
	if k.NodeTaken > 0 {
		k.NodeTaken--
		return "", refused("find node", l.Name, link.ErrNodeTaken)
	}
	return fmt.Sprintf("/dev/tap%d", l.Index), nil
}

// nameSize is IFNAMSIZ, with the NUL.
const nameSize = unix.IFNAMSIZ

func (k *Kernel) add(ctx context.Context, op string, l link.Link, fit func(lower *link.Link) error) error {
	return k.change(ctx, op, l.Name, func() error {
		switch {
		case len(l.Name) >= nameSize:
			return refused(op, l.Name, unix.ERANGE)
		case k.byName(l.Name) != nil || k.Links[l.Index] != nil:
			return refused(op, l.Name, link.ErrExists)
		}
		lower := k.Links[l.Parent]
		if lower == nil {
			return notFound(l.Parent)
		}
		if macvlan(&l) && macvlan(lower) {
			lower = k.Links[lower.Parent]
			l.Parent = lower.Index
		}
		if l.MTU > lower.MTU {
			return refused(op, l.Name, unix.EINVAL)
		}
		if err := fit(lower); err != nil {
			return refused(op, l.Name, err)
		}
		l.MTU, l.MAC = cmp.Or(l.MTU, lower.MTU), cmp.Or(l.MAC, lower.MAC)
		k.Devices.Add(l)
		return nil
	})
}

// AddVLAN is link.Conn.AddVLAN.
func (k *Kernel) AddVLAN(ctx context.Context, v link.VLAN) error {
	return k.add(ctx, "create vlan", link.Link{Index: v.Index, Name: v.Name, Kind: "vlan", Parent: v.Parent, VLANID: v.ID}, func(lower *link.Link) error {
		if v.ID > 4094 {
			return unix.ERANGE
		}
		for _, have := range k.on(lower.Index) {
			if have.Kind == "vlan" && have.VLANID == v.ID {
				return link.ErrExists
			}
		}
		return nil
	})
}

// AddMacvtap is link.Conn.AddMacvtap.
func (k *Kernel) AddMacvtap(ctx context.Context, m link.Macvtap) error {
	const op = "create macvtap"
	if !slices.Contains([]string{"vepa", "bridge", "private", "passthrough"}, m.Mode) {
		return refused(op, m.Name, fmt.Errorf("unknown mode %q", m.Mode))
	}
	if err := unicast(m.MAC); err != nil {
		return refused(op, m.Name, err)
	}
	whole, mac := m.Mode == "passthrough", m.MAC
	if whole {
		mac = "" // the lower device's
	}
	l := link.Link{Index: m.Index, Name: m.Name, Kind: "macvtap", Parent: m.Lower, Mode: m.Mode, MAC: mac, MTU: m.MTU}
	return k.add(ctx, op, l, func(lower *link.Link) error {
		if lower.Master != 0 {
			return fmt.Errorf("%w: %w", link.ErrBusy, unix.EBUSY)
		}
		for _, have := range k.on(lower.Index) {
			if macvlan(have) && (whole || have.Mode == "passthrough") {
				return unix.EINVAL
			}
		}
		return nil
	})
}

// unicast checks an address as link.Conn does, and as the kernel does.
func unicast(mac string) error {
	b, err := net.ParseMAC(mac)
	switch {
	case err != nil:
		return err
	case len(b) != 6:
		return fmt.Errorf("%q is no Ethernet address", mac)
	case b[0]&1 != 0:
		return unix.EADDRNOTAVAIL
	}
	return nil
}

// AddTap is link.Conn.AddTap.
func (k *Kernel) AddTap(ctx context.Context, t link.Tap) error {
	const op = "create tap"
	return k.change(ctx, op, t.Name, func() error {
		switch have := k.byName(t.Name); {
		case have != nil && have.Kind != "tun":
			return refused(op, t.Name, unix.EINVAL)
		case have != nil || k.Links[t.Index] != nil:
			return refused(op, t.Name, link.ErrExists)
		}
		k.Devices.Add(link.Link{Index: t.Index, Name: t.Name, Kind: "tun", MTU: 1500, MAC: fmt.Sprintf("02:00:00:00:01:%02x", len(k.Links)&0xff)})
		return nil
	})
}

// SetMTU is link.Conn.SetMTU.
func (k *Kernel) SetMTU(ctx context.Context, index, mtu int) error {
	const op = "set MTU"
	if mtu < 1 {
		return refused(op, k.Name(index), unix.EINVAL)
	}
	return k.set(ctx, op, index, func(l *link.Link) error {
		if lower := k.Links[l.Parent]; lower != nil && mtu > lower.MTU {
			if l.Kind == "vlan" {
				return unix.ERANGE
			}
			return unix.EINVAL
		}
		k.shrink(l, mtu)
		return nil
	})
}

// shrink gives a device an MTU, and what stands on it no larger one.
func (d *Devices) shrink(l *link.Link, mtu int) {
	l.MTU = mtu
	for _, u := range d.on(l.Index) {
		if u.MTU > mtu {
			d.shrink(u, mtu)
		}
	}
}

// Delete is link.Conn.Delete. What stands on a device goes with it; the device below a
// macvtap in passthrough mode gets its own MAC back.
func (k *Kernel) Delete(ctx context.Context, index int) error {
	return k.set(ctx, "remove", index, func(l *link.Link) error {
		if l.Kind == "" { // a driver's
			return fmt.Errorf("%w: %w", link.ErrNotSupported, unix.EOPNOTSUPP)
		}
		k.remove(index)
		return nil
	})
}

func (d *Devices) remove(index int) {
	for _, l := range d.sorted() {
		switch {
		case l.Parent == index && index != 0:
			d.remove(l.Index)
		case l.Master == index && index != 0:
			d.leave(l)
		}
	}
	for c := range d.Away {
		d.Away[c] = slices.DeleteFunc(d.Away[c], func(l *link.Link) bool { return l.Parent == index })
	}
	d.letGo(index)
	delete(d.Elsewhere, d.Name(index))
	delete(d.Links, index)
	delete(d.NoIPv6, index)
	delete(d.PortVLANs, index)
	delete(d.PortMACs, index)
	delete(d.SelfMACs, index)
}

// Move moves a device into a container. It stays on the one below it, and goes with it.
func (d *Devices) Move(name, container string) {
	l := d.byName(name)
	if d.Away == nil {
		d.Away = map[string][]*link.Link{}
	}
	d.Away[container] = append(d.Away[container], l)
	l.Up = false // as whatever leaves its namespace
	delete(d.Links, l.Index)
}

func (k *Kernel) set(ctx context.Context, op string, index int, do func(l *link.Link) error) error {
	return k.change(ctx, op, k.Name(index), func() error {
		l := k.Links[index]
		if index == 0 {
			return &link.OpError{Op: op, Link: "index 0", Err: unix.EINVAL}
		}
		if l == nil {
			return notFound(index)
		}
		return k.wrap(op, l.Name, do(l))
	})
}

// SetUp is link.Conn.SetUp.
func (k *Kernel) SetUp(ctx context.Context, index int, up bool) error {
	return k.set(ctx, fmt.Sprintf("set up=%t", up), index, func(l *link.Link) error {
		switch lower := k.Links[l.Parent]; {
		case !up || l.Up:
		case l.Kind == "vlan" && lower != nil && !lower.Up:
			return unix.ENETDOWN
		case macvlan(l) && k.busy(l, l.MAC):
			return unix.EADDRINUSE
		}
		k.turn(l, up)
		return nil
	})
}

// turn sets a device up or down, and its VLANs with it.
func (d *Devices) turn(l *link.Link, up bool) {
	if l.Up == up {
		return
	}
	l.Up = up
	for _, u := range d.on(l.Index) {
		if u.Kind == "vlan" {
			d.turn(u, up)
		}
	}
}

// busy reports whether a macvtap cannot be up with a MAC: that of the device below it, or
// of one beside it that is up.
func (d *Devices) busy(l *link.Link, mac string) bool {
	lower := d.Links[l.Parent]
	if l.Mode == "passthrough" || lower == nil {
		return false
	}
	return lower.MAC == mac || slices.ContainsFunc(d.on(lower.Index), func(o *link.Link) bool {
		return o.Index != l.Index && macvlan(o) && o.Up && o.MAC == mac
	})
}

// Receiver is the device that gets a frame which a macvtap sends to a MAC: one beside it,
// where both are in mode bridge, and otherwise nil for what is on the wire.
func (d *Devices) Receiver(from, mac string) *link.Link {
	sender := d.byName(from)
	for _, l := range d.on(sender.Parent) {
		if sender.Mode == "bridge" && l.Mode == "bridge" && l.Up && l.MAC == mac {
			return l
		}
	}
	return nil
}

// SetAllMulticast is link.Conn.SetAllMulticast.
func (k *Kernel) SetAllMulticast(ctx context.Context, index int, on bool) error {
	return k.set(ctx, "set allmulticast", index, func(l *link.Link) error { l.AllMulti = on; return nil })
}

// SetAlias is link.Conn.SetAlias.
func (k *Kernel) SetAlias(ctx context.Context, index int, alias string) error {
	return k.set(ctx, "set alias", index, func(l *link.Link) error {
		if len(alias) > 255 {
			return unix.ERANGE
		}
		l.Alias = alias
		return nil
	})
}

// SetName is link.Conn.SetName.
func (k *Kernel) SetName(ctx context.Context, index int, name string) error {
	return k.set(ctx, "rename", index, func(l *link.Link) error {
		switch {
		case name == l.Name:
			return nil
		case len(name) >= nameSize:
			return unix.ERANGE
		case k.byName(name) != nil:
			return link.ErrExists
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
func (k *Kernel) AddAltName(ctx context.Context, index int, name string) error {
	return k.set(ctx, "add altname", index, func(l *link.Link) error {
		if k.byName(name) != nil {
			return link.ErrExists
		}
		l.AltNames = append(slices.Clone(l.AltNames), name)
		return nil
	})
}

// RemoveAltName is link.Conn.RemoveAltName.
func (k *Kernel) RemoveAltName(ctx context.Context, index int, name string) error {
	return k.set(ctx, "remove altname", index, func(l *link.Link) error {
		if !slices.Contains(l.AltNames, name) {
			return unix.ENOENT
		}
		l.AltNames = slices.DeleteFunc(slices.Clone(l.AltNames), func(n string) bool { return n == name })
		return nil
	})
}

// Silence is link.Conn.Silence.
func (k *Kernel) Silence(ctx context.Context, index int) error {
	return k.set(ctx, "silence", index, func(l *link.Link) error {
		if k.NoIPv6 == nil {
			k.NoIPv6 = map[int]bool{}
		}
		k.NoIPv6[l.Index] = true
		return nil
	})
}

// Presence is link.Conn.Presence.
func (k *Kernel) Presence(ctx context.Context, l link.Link) (string, error) {
	if err := k.read(ctx, "look for addresses of", l.Name); err != nil {
		return "", err
	}
	for _, u := range k.Host[l.Name] {
		return u.Evidence, nil
	}
	if !k.NoIPv6[l.Index] {
		return "IPv6 is on", nil
	}
	return "", nil
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
		if macs := d.SelfMACs[l.Index]; len(macs) > 0 {
			lines = append(lines, fmt.Sprintf("%s forwards %v", l.Name, slices.Sorted(slices.Values(macs))))
		}
	}
	return strings.Join(lines, "\n")
}
