package hooktest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"libvirt-direct/internal/link"
)

// Driver is what a card's driver does otherwise than one would expect.
type Driver struct {
	// Refuse lists attributes that it refuses to set (igb: minrate, and maxrate without link).
	Refuse []string
	// Mute lists attributes that it takes and does not report.
	Mute []string
	// NotWhileUp makes it refuse a MAC while the VF's network device is up (mlx5 of old).
	NotWhileUp bool
	// NoZeroMAC makes it refuse the zero MAC that it reports (i40e).
	NoZeroMAC bool
}

// VF is a virtual function: its place, its use, and what its PF's driver has set.
type VF struct {
	link.VFUse
	PFNetdev string
	// Fixed: the MAC is given by the PF, so that an untrusted VF may not change it.
	Fixed bool
	link.VFSettings
}

// PFAddress is the PF of AddVFs on the bus.
const PFAddress = "0000:03:00.0"

// NoMAC is what a PF shows of a VF to which it has given none.
const NoMAC = "00:00:00:00:00:00"

// AddVFs gives a device VFs with network devices vf0, vf1 …
func (d *Devices) AddVFs(pf string, n int) {
	for i := range n {
		name := fmt.Sprintf("vf%d", i)
		mac := fmt.Sprintf("02:00:00:00:ff:%02x", i)
		d.Add(link.Link{Name: name, MAC: mac, MTU: 1500})
		no, yes, zero, auto := false, true, 0, link.LinkAuto
		d.VFs = append(d.VFs, &VF{
			VFUse: link.VFUse{
				VFPlace: link.VFPlace{PF: PFAddress, Number: i, Device: fmt.Sprintf("0000:03:10.%d", i)},
				Driver:  "fakevf", Netdev: name, NUMA: i % 2,
			},
			PFNetdev: pf,
			VFSettings: link.VFSettings{
				MAC: &mac, VLAN: &link.VFVLAN{Proto: link.Dot1Q}, Trust: &no, SpoofChk: &yes,
				MinRate: &zero, MaxRate: &zero, LinkState: &auto,
			},
		})
	}
}

// Function returns the VF of a number, nil if there is none.
func (d *Devices) Function(number int) *VF {
	if number >= 0 && number < len(d.VFs) {
		return d.VFs[number]
	}
	return nil
}

func (d *Devices) vfOf(netdev string) *VF {
	for _, v := range d.VFs {
		if v.Netdev == netdev && netdev != "" {
			return v
		}
	}
	return nil
}

// under returns the VF on which a macvtap in passthrough mode stands, nil if none.
func (d *Devices) under(index int) *VF {
	l := d.Links[index]
	if l == nil || l.Mode != "passthrough" || d.Links[l.Parent] == nil {
		return nil
	}
	return d.vfOf(d.Links[l.Parent].Name)
}

// letGo gives the device below a macvtap in passthrough mode its own MAC back, by its
// driver, which tells the PF.
func (d *Devices) letGo(index int) {
	own, changed := d.OwnMACs[index]
	if !changed {
		return
	}
	delete(d.OwnMACs, index)
	lower := d.Links[d.Links[index].Parent]
	if lower == nil {
		return
	}
	if v := d.vfOf(lower.Name); v != nil && v.mayNotBe(own) {
		return // the PF has fixed another meanwhile
	} else if v != nil {
		v.MAC = &own
	}
	lower.MAC = own
}

// mayNotBe reports whether a VF's own driver may not give it a MAC.
func (v *VF) mayNotBe(mac string) bool { return v.Fixed && !*v.Trust && *v.MAC != mac }

// Unbind takes the driver of a VF's network device away, as for VFIO: the device goes.
func (d *Devices) Unbind(number int, driver string) {
	v := d.Function(number)
	if l := d.byName(v.Netdev); l != nil && v.Netdev != "" {
		d.remove(l.Index)
	}
	v.Netdev, v.Driver = "", driver
}

// Bind gives a VF a new network device of that name, with the MAC that its PF shows.
func (d *Devices) Bind(number int, name string) {
	v := d.Function(number)
	d.Add(link.Link{Name: name, MAC: *v.MAC, MTU: 1500})
	v.Netdev, v.Driver = name, "fakevf"
}

// SetMAC is link.Conn.SetMAC. That of a macvtap in passthrough mode becomes its lower
// device's, and a lower device's that of such a macvtap. A VF's driver tells the PF.
func (k *Kernel) SetMAC(ctx context.Context, index int, mac string) error {
	op := "set MAC " + mac
	if err := unicast(mac); err != nil {
		return refused(op, k.Name(index), err)
	}
	return k.set(ctx, op, index, func(l *link.Link) error {
		if macvlan(l) && l.Mode != "passthrough" {
			if k.busy(l, mac) {
				return unix.EADDRINUSE
			}
			l.MAC = mac
			return nil
		}
		lower := l
		if macvlan(l) {
			lower = k.Links[l.Parent]
		}
		v := k.vfOf(lower.Name)
		switch {
		case v == nil:
		case k.Driver.NotWhileUp && lower.Up:
			return link.ErrBusy
		case v.mayNotBe(mac):
			return link.ErrMACFixed
		default:
			v.MAC = &mac
		}
		for _, u := range k.on(lower.Index) {
			if u.Mode != "passthrough" {
				continue
			}
			// What the lower device gets otherwise is its own from then on.
			if _, noted := k.OwnMACs[u.Index]; l == lower {
				delete(k.OwnMACs, u.Index)
			} else if !noted {
				k.OwnMACs[u.Index] = lower.MAC
			}
			u.MAC = mac
		}
		lower.MAC = mac
		return nil
	})
}

func (k *Kernel) place(what string, find func() (*VF, error)) (link.VFPlace, error) {
	const op = "find the PF of"
	if err := k.look(op, what); err != nil {
		return link.VFPlace{}, err
	}
	v, err := find()
	if err != nil {
		return link.VFPlace{}, refused(op, what, err)
	}
	return v.VFPlace, nil
}

// VFOf is link.Conn.VFOf.
func (k *Kernel) VFOf(_ context.Context, name string) (link.VFPlace, error) {
	return k.place(name, func() (*VF, error) {
		l, v := k.inSysfs(name), k.vfOf(name)
		switch {
		case l == nil || l.Kind != "": // on no bus
			return nil, link.ErrNotFound
		case v == nil:
			return nil, link.ErrNoVF
		}
		return v, nil
	})
}

// VFAt is link.Conn.VFAt.
func (k *Kernel) VFAt(_ context.Context, address string) (link.VFPlace, error) {
	return k.place("PCI "+address, func() (*VF, error) {
		_, other := k.PCI[address]
		for _, v := range k.VFs {
			if v.Device == address {
				return v, nil
			}
			other = other || v.PF == address
		}
		if other {
			return nil, link.ErrNoVF
		}
		return nil, link.ErrNotFound
	})
}

// PF is link.Conn.PF.
func (k *Kernel) PF(ctx context.Context, p link.VFPlace) (link.Link, error) {
	if len(k.VFs) == 0 || p.PF != PFAddress {
		return link.Link{}, notFound(p.PF)
	}
	return k.ByName(ctx, k.VFs[0].PFNetdev)
}

// VFUses is link.Conn.VFUses.
func (k *Kernel) VFUses(_ context.Context, pf string) ([]link.VFUse, error) {
	const op = "list the VFs of"
	if err := k.look(op, pf); err != nil {
		return nil, err
	}
	if l := k.inSysfs(pf); l == nil || l.Kind != "" {
		return nil, refused(op, pf, link.ErrNotFound)
	}
	var uses []link.VFUse
	for _, v := range k.VFs {
		if v.PFNetdev == pf {
			uses = append(uses, v.VFUse)
		}
	}
	return uses, nil
}

// VFUseAt is link.Conn.VFUseAt.
func (k *Kernel) VFUseAt(_ context.Context, p link.VFPlace) (link.VFUse, error) {
	if err := k.look("look up", p.Device); err != nil {
		return link.VFUse{}, err
	}
	if v := k.Function(p.Number); v != nil && v.VFPlace == p {
		return v.VFUse, nil
	}
	return link.VFUse{}, notFound(p.Device)
}

// VFUsed is link.Conn.VFUsed, as far as Devices go: what stands on the VF's network device,
// whose port it is, and Host; or why it has none.
func (k *Kernel) VFUsed(ctx context.Context, vf link.VFUse, _ *link.Elsewhere) iter.Seq[link.Use] {
	return func(yield func(link.Use) bool) {
		switch {
		case vf.Netdev == "" && vf.Driver == "":
			yield(link.Use{Kind: link.UseUnbound, Evidence: "it is bound to no driver"})
			return
		case vf.Netdev == "":
			yield(link.Use{Kind: link.UseDriver, Evidence: "it is bound to " + vf.Driver + " and has no network device"})
			return
		}
		l, err := k.ByName(ctx, vf.Netdev)
		if err != nil {
			yield(link.Use{Kind: link.UseUnknown, Evidence: "whether it is used cannot be told: " + err.Error(), Err: err})
			return
		}
		for _, u := range k.usesHere(l) {
			if !yield(u) {
				return
			}
		}
	}
}

// usesHere are a device's uses in this network namespace.
func (k *Kernel) usesHere(l link.Link) []link.Use {
	var uses []link.Use
	for _, u := range k.uppers(l.Index) {
		uses = append(uses, link.Use{Kind: link.UseUpper, Evidence: u + " stands on it", Device: u})
	}
	return append(append(uses, k.masterUse(l)...), k.Host[l.Name]...)
}

func (k *Kernel) masterUse(l link.Link) []link.Use {
	m := k.Links[l.Master]
	if m == nil {
		return nil
	}
	return []link.Use{{Kind: link.UseMaster, Evidence: "it is a port of " + m.Kind + " " + m.Name, Device: m.Name}}
}

// UppersEverywhere is link.Conn.UppersEverywhere.
func (k *Kernel) UppersEverywhere(ctx context.Context, name string) ([]link.Use, error) {
	l, err := k.ByName(ctx, name)
	if err != nil {
		return nil, err
	}
	uses := k.masterUse(l)
	for _, u := range k.uppers(l.Index) {
		uses = append(uses, link.Use{Kind: link.UseUpper, Evidence: u + " stands on it", Device: u})
	}
	for _, c := range slices.Sorted(maps.Keys(k.Away)) {
		for _, u := range k.Away[c] {
			if u.Parent != l.Index {
				continue
			}
			what := u.Kind + " " + u.Name
			if u.Mode != "" {
				what += " (" + u.Mode + ")"
			}
			uses = append(uses, link.Use{Kind: link.UseElsewhere, Evidence: what + " stands on it in the network namespace of " + c})
		}
	}
	return append(uses, k.Elsewhere[l.Name]...), nil
}

// Lower is link.Conn.Lower, without a look at other network namespaces.
func (k *Kernel) Lower(ctx context.Context, name, mode string, _ *link.Elsewhere) ([]link.Obstacle, error) {
	const op = "look whether a macvtap can be made on"
	if err := k.read(ctx, op, name); err != nil {
		return nil, err
	}
	l := k.byName(name)
	if l == nil {
		return nil, notFound(name)
	}
	if !slices.Contains([]string{"vepa", "bridge", "private", "passthrough"}, mode) {
		return nil, refused(op, name, fmt.Errorf("unknown mode %q", mode))
	}
	obstacles := append(k.refusal(l, mode == "passthrough"), k.Obstacles[name]...)
	if mode != "passthrough" {
		return obstacles, nil
	}
	for _, u := range k.usesHere(*l) {
		if !slices.ContainsFunc(obstacles, func(o link.Obstacle) bool { return o.Evidence == u.Evidence }) {
			obstacles = append(obstacles, link.Obstacle{Use: u})
		}
	}
	return obstacles, nil
}

// refusal is what AddMacvtap answers, by what is here.
func (k *Kernel) refusal(l *link.Link, whole bool) []link.Obstacle {
	unfit := func(evidence string) []link.Obstacle {
		return []link.Obstacle{{Use: link.Use{Kind: link.UseUnfit, Evidence: evidence}, Errno: unix.EINVAL}}
	}
	switch {
	case macvlan(l) && l.Mode == "passthrough":
		return unfit("it is a " + l.Kind + " in mode passthrough, which has its own lower device alone")
	case macvlan(l) && whole:
		return unfit("it is a " + l.Kind + ", and a macvtap in mode passthrough needs the device below that alone")
	case macvlan(l):
		return nil
	}
	for _, u := range k.masterUse(*l) {
		return []link.Obstacle{{Use: u, Errno: unix.EBUSY, Instead: u.Device, Advice: "use " + u.Device}}
	}
	for _, u := range k.sorted() {
		if u.Parent == l.Index && macvlan(u) && (u.Mode == "passthrough" || whole) {
			return []link.Obstacle{{Use: link.Use{Kind: link.UseUpper, Evidence: u.Name + " stands on it", Device: u.Name}, Errno: unix.EINVAL}}
		}
	}
	return nil
}

// RestoreVF is link.Conn.RestoreVF.
func (k *Kernel) RestoreVF(ctx context.Context, pf link.Link, number int, choose func(now link.VFSettings) link.VFSettings) error {
	now, err := k.readVF(ctx, pf, number)
	if err != nil {
		return err
	}
	want := choose(now.VFSettings)
	if err := want.Check(); err != nil {
		return &link.VFError{PF: pf.Name, VF: number, Err: err}
	}
	var errs []error
	for _, attr := range now.Differ(want) {
		errs = append(errs, k.setAttr(ctx, k.Function(number), attr, want))
	}
	return errors.Join(errs...)
}

func noVF(pf string, number int) error {
	return &link.VFError{PF: pf, VF: number, Err: link.ErrNoVF}
}

func (k *Kernel) shown(v *VF) link.VFSettings {
	return v.Only(func(attr string) bool { return !slices.Contains(k.Driver.Mute, attr) })
}

// readVF is what VF returns.
func (k *Kernel) readVF(ctx context.Context, pf link.Link, number int) (link.VF, error) {
	const op = "read the VFs of"
	if err := k.read(ctx, op, pf.Name); err != nil {
		return link.VF{}, err
	}
	l, v := k.Links[pf.Index], k.Function(number)
	switch {
	case l == nil:
		return link.VF{}, refused(op, pf.Name, link.ErrNotFound)
	case v == nil || v.PFNetdev != l.Name:
		return link.VF{}, noVF(pf.Name, number)
	}
	return link.VF{Number: number, VFSettings: k.shown(v)}, nil
}

// VF is link.Conn.VF.
func (k *Kernel) VF(ctx context.Context, pf link.Link, number int) (link.VF, error) {
	return k.readVF(ctx, pf, number)
}

// Spoofers is link.Conn.Spoofers.
func (k *Kernel) Spoofers(ctx context.Context, pf link.Link) (all []link.VF, err error) {
	for _, v := range k.VFs {
		vf, err := k.readVF(ctx, pf, v.Number)
		if err != nil {
			return nil, err
		}
		if vf.Spoofs() != "" {
			all = append(all, vf)
		}
	}
	return all, nil
}

// SetVF is link.Conn.SetVF: one attribute after the other, and back when one is refused.
// A process can be stopped between any two of them.
func (k *Kernel) SetVF(ctx context.Context, pf link.Link, number int, want link.VFSettings, optional ...string) (warnings []error, err error) {
	if err := want.Check(); err != nil {
		return nil, &link.VFError{PF: pf.Name, VF: number, Err: err}
	}
	now, err := k.readVF(ctx, pf, number)
	if err != nil {
		return nil, err
	}
	v := k.Function(number)
	var written []string
	for _, attr := range now.Differ(want) {
		err := k.setAttr(ctx, v, attr, want)
		if err != nil && slices.Contains(optional, attr) && errors.Is(err, link.ErrVFRefused) {
			warnings = append(warnings, err)
			continue
		}
		if err != nil {
			for _, back := range slices.Backward(written) {
				err = errors.Join(err, k.setAttr(context.WithoutCancel(ctx), v, back, now.VFSettings))
			}
			return warnings, err
		}
		written = append(written, attr)
	}
	return warnings, nil
}

func (k *Kernel) setAttr(ctx context.Context, v *VF, attr string, want link.VFSettings) error {
	value, _ := want.Value(attr)
	what := fmt.Sprintf("VF %d of %s", v.Number, v.PFNetdev)
	return k.change(ctx, "set "+attr+" "+value, what, func() error {
		if slices.Contains(k.Driver.Refuse, attr) || attr == link.AttrMAC && k.Driver.NoZeroMAC && value == NoMAC {
			return &link.VFError{PF: v.PFNetdev, VF: v.Number, Driver: "fake", Attr: attr, Value: value, Err: link.ErrVFRefused}
		}
		v.Set(attr, want)
		return nil
	})
}

// Set takes one attribute over.
func (v *VF) Set(attr string, want link.VFSettings) {
	if attr == link.AttrMAC {
		v.Fixed = *want.MAC != NoMAC
	}
	v.VFSettings = want.Only(func(a string) bool { return a == attr }).Override(v.VFSettings)
}

// ported runs a change of a port profile, for a driver that has them.
func (k *Kernel) ported(ctx context.Context, op string, dev link.Link, vf int, do func(at string) error) error {
	return k.change(ctx, op, dev.Name, func() error {
		err := error(nil)
		switch l, v := k.Links[dev.Index], k.Function(vf); {
		case l == nil:
			err = link.ErrNotFound
		case l.Kind != "" || vf != link.SelfPort && (v == nil || v.PFNetdev != l.Name):
			err = link.ErrPortRefused
		default:
			err = do(fmt.Sprintf("%s/%d", l.Name, vf))
		}
		if err != nil {
			return &link.PortError{Device: dev.Name, VF: vf, Driver: "fake", Err: err}
		}
		return nil
	})
}

// AssociatePort is link.Conn.AssociatePort.
func (k *Kernel) AssociatePort(ctx context.Context, dev link.Link, _ link.PortRequest, p link.Port) error {
	return k.ported(ctx, "associate", dev, p.VF, func(at string) error {
		if p.Profile == "" || len(p.Profile) > 39 {
			return fmt.Errorf("profile %q: want 1 to 39 octets", p.Profile)
		}
		k.Profiles[at] = p.Profile
		return nil
	})
}

// DisassociatePort is link.Conn.DisassociatePort.
func (k *Kernel) DisassociatePort(ctx context.Context, dev link.Link, vf int) error {
	return k.ported(ctx, "disassociate", dev, vf, func(at string) error {
		delete(k.Profiles, at)
		return nil
	})
}

// DumpVFs is the VFs' state for comparison.
func (d *Devices) DumpVFs() string {
	text := fmt.Sprint(d.Profiles) + "\n"
	for _, v := range d.VFs {
		text += fmt.Sprintf("%s: %s\n", v.Device, v.VFSettings)
	}
	return text
}

// Give is what libvirt does to a VF when it gives it to a guest, and when it takes it
// back: it sets a MAC and a VLAN by the PF.
func (v *VF) Give(mac string, vlan int) {
	v.MAC, v.VLAN = &mac, &link.VFVLAN{ID: vlan, Proto: link.Dot1Q}
}
