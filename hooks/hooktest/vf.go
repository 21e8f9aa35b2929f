package hooktest

import (
	"context"
	"errors"
	"fmt"
	"iter"
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

	// Was is the MAC before that of a macvtap in passthrough mode, nil without one.
	Was *string
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

// letGo gives the device below a macvtap in passthrough mode its own MAC back.
func (d *Devices) letGo(index int) {
	if own, changed := d.OwnMACs[index]; changed && d.Links[d.Links[index].Parent] != nil {
		d.Links[d.Links[index].Parent].MAC = own
	}
	delete(d.OwnMACs, index)
	if v := d.under(index); v != nil && v.Was != nil {
		v.MAC, v.Was = v.Was, nil
	}
}

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
// device's, whose driver tells the PF.
func (k *Kernel) SetMAC(_ context.Context, index int, mac string) error {
	return k.change("set MAC "+mac, k.Name(index), func() error {
		l := k.Links[index]
		if l == nil {
			return notFound(index)
		}
		lower, vf := l, k.vfOf(l.Name)
		if l.Mode == "passthrough" {
			lower, vf = k.Links[l.Parent], k.under(index)
			if _, noted := k.OwnMACs[index]; !noted {
				k.OwnMACs[index] = lower.MAC
			}
		}
		switch {
		case vf == nil:
		case k.Driver.NotWhileUp && lower.Up:
			return &link.OpError{Op: "set MAC of", Link: lower.Name, Err: link.ErrBusy}
		case vf.Fixed && !*vf.Trust && *vf.MAC != mac:
			return &link.OpError{Op: "set MAC of", Link: lower.Name, Err: link.ErrMACFixed}
		case l != lower && vf.Was == nil:
			vf.Was = vf.MAC
			fallthrough
		default:
			vf.MAC = &mac
		}
		l.MAC, lower.MAC = mac, mac
		return nil
	})
}

func (k *Kernel) place(what string, v *VF, other error) (link.VFPlace, error) {
	if err := k.read("find the PF of", what); err != nil {
		return link.VFPlace{}, err
	}
	if v == nil {
		return link.VFPlace{}, &link.OpError{Op: "find the PF of", Link: what, Err: other}
	}
	return v.VFPlace, nil
}

// VFOf is link.Conn.VFOf.
func (k *Kernel) VFOf(_ context.Context, name string) (link.VFPlace, error) {
	if k.byName(name) == nil {
		return k.place(name, nil, link.ErrNotFound)
	}
	return k.place(name, k.vfOf(name), link.ErrNoVF)
}

// VFAt is link.Conn.VFAt.
func (k *Kernel) VFAt(_ context.Context, address string) (link.VFPlace, error) {
	for _, v := range k.VFs {
		if v.Device == address {
			return k.place("PCI "+address, v, nil)
		}
	}
	return k.place("PCI "+address, nil, link.ErrNotFound)
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
	if err := k.read("list the VFs of", pf); err != nil {
		return nil, err
	}
	if k.byName(pf) == nil {
		return nil, &link.OpError{Op: "list the VFs of", Link: pf, Err: link.ErrNotFound}
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
	if err := k.read("look up", p.Device); err != nil {
		return link.VFUse{}, err
	}
	if v := k.Function(p.Number); v != nil && v.VFPlace == p {
		return v.VFUse, nil
	}
	return link.VFUse{}, notFound(p.Device)
}

// VFUsed is link.Conn.VFUsed, as far as Devices go: what stands on the VF's network device,
// or that it has none.
func (k *Kernel) VFUsed(ctx context.Context, vf link.VFUse, _ *link.Elsewhere) iter.Seq[link.Use] {
	return func(yield func(link.Use) bool) {
		if vf.Netdev == "" {
			yield(link.Use{Kind: link.UseDriver, Evidence: "it is bound to " + vf.Driver + " and has no network device"})
			return
		}
		uppers, err := k.Uppers(ctx, vf.Netdev)
		if err != nil {
			yield(link.Use{Kind: link.UseUnknown, Evidence: "whether it is used cannot be told: " + err.Error(), Err: err})
			return
		}
		for _, u := range uppers {
			if !yield(link.Use{Kind: link.UseUpper, Evidence: u + " stands on it", Device: u}) {
				return
			}
		}
		for _, u := range k.Host[vf.Netdev] {
			if !yield(u) {
				return
			}
		}
	}
}

// UppersEverywhere is link.Conn.UppersEverywhere.
func (k *Kernel) UppersEverywhere(ctx context.Context, name string) ([]link.Use, error) {
	uppers, err := k.Uppers(ctx, name)
	if err != nil {
		return nil, err
	}
	var uses []link.Use
	for _, u := range uppers {
		uses = append(uses, link.Use{Kind: link.UseUpper, Evidence: u + " stands on it", Device: u})
	}
	return append(uses, k.Elsewhere[name]...), nil
}

// Lower is link.Conn.Lower.
func (k *Kernel) Lower(_ context.Context, name, mode string, _ *link.Elsewhere) ([]link.Obstacle, error) {
	if err := k.read("look whether a macvtap can be made on", name); err != nil {
		return nil, err
	}
	l := k.byName(name)
	if l == nil {
		return nil, notFound(name)
	}
	var obstacles []link.Obstacle
	for _, u := range k.sorted() {
		if u.Parent == l.Index && u.Kind == "macvtap" && (u.Mode == "passthrough" || mode == "passthrough") {
			obstacles = append(obstacles, link.Obstacle{Use: link.Use{Kind: link.UseUpper, Evidence: u.Name + " stands on it", Device: u.Name}, Errno: unix.EBUSY})
		}
	}
	return append(obstacles, k.Obstacles[name]...), nil
}

// RestoreVF is link.Conn.RestoreVF.
func (k *Kernel) RestoreVF(_ context.Context, pf link.Link, number int, choose func(now link.VFSettings) link.VFSettings) error {
	now, err := k.readVF(pf.Name, number)
	if err != nil {
		return err
	}
	want := choose(now.VFSettings)
	var errs []error
	for _, attr := range now.Differ(want) {
		errs = append(errs, k.setAttr(k.Function(number), attr, want))
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
func (k *Kernel) readVF(pf string, number int) (link.VF, error) {
	if err := k.read("read the VFs of", pf); err != nil {
		return link.VF{}, err
	}
	v := k.Function(number)
	if v == nil {
		return link.VF{}, noVF(pf, number)
	}
	return link.VF{Number: number, VFSettings: k.shown(v)}, nil
}

// VF is link.Conn.VF.
func (k *Kernel) VF(_ context.Context, pf link.Link, number int) (link.VF, error) {
	return k.readVF(pf.Name, number)
}

// SetVF is link.Conn.SetVF: one attribute after the other, and back when one is refused.
// A process can be stopped between any two of them.
func (k *Kernel) SetVF(_ context.Context, pf link.Link, number int, want link.VFSettings, optional ...string) (warnings []error, err error) {
	now, err := k.readVF(pf.Name, number)
	if err != nil {
		return nil, err
	}
	v := k.Function(number)
	var written []string
	for _, attr := range now.Differ(want) {
		err := k.setAttr(v, attr, want)
		if err != nil && slices.Contains(optional, attr) && errors.Is(err, link.ErrVFRefused) {
			warnings = append(warnings, err)
			continue
		}
		if err != nil {
			for _, back := range slices.Backward(written) {
				err = errors.Join(err, k.setAttr(v, back, now.VFSettings))
			}
			return warnings, err
		}
		written = append(written, attr)
	}
	return warnings, nil
}

func (k *Kernel) setAttr(v *VF, attr string, want link.VFSettings) error {
	value, _ := want.Value(attr)
	what := fmt.Sprintf("VF %d of %s", v.Number, v.PFNetdev)
	return k.change("set "+attr+" "+value, what, func() error {
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
	v.VFSettings = want.Only(func(a string) bool { return a == attr }).Over(v.VFSettings)
}

// AssociatePort is link.Conn.AssociatePort.
func (k *Kernel) AssociatePort(_ context.Context, dev link.Link, _ link.PortRequest, p link.Port) error {
	return k.change("associate", dev.Name, func() error {
		k.Profiles[fmt.Sprintf("%s/%d", dev.Name, p.VF)] = p.Profile
		return nil
	})
}

// DisassociatePort is link.Conn.DisassociatePort.
func (k *Kernel) DisassociatePort(_ context.Context, dev link.Link, vf int) error {
	return k.change("disassociate", dev.Name, func() error {
		delete(k.Profiles, fmt.Sprintf("%s/%d", dev.Name, vf))
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
