package hooks

import (
	"context"
	"fmt"
	"slices"

	"libvirt-direct/internal/link"
)

// fakeSRIOV is the part of a fakeKernel that has virtual functions.
type fakeSRIOV struct {
	vfs   []*fakeVF
	ports map[string]string // port profile by "eth0/3", "eth0/-1"
	// refuse makes the driver refuse an attribute.
	refuse string
	// notWhileUp makes it refuse a MAC while the VF's network device is up.
	notWhileUp bool
	// noZero makes it refuse the zero MAC that it reports.
	noZero bool
}

type fakeVF struct {
	link.VFUse
	pf    string  // the PF's network device
	fixed bool    // the MAC is given by the PF
	was   *string // the MAC before that of a macvtap on it
	link.VFSettings
}

const fakePF = "0000:03:00.0"

// addVFs gives a device VFs with network devices vf0, vf1 …
func (f *fakeKernel) addVFs(pf string, n int) {
	for i := range n {
		f.next++
		name := fmt.Sprintf("vf%d", i)
		mac := fmt.Sprintf("02:00:00:00:ff:%02x", i)
		f.links[f.next] = &link.Link{Index: f.next, Name: name, MAC: mac, MTU: 1500}
		f.vfs[name] = true
		no, yes, zero, auto := false, true, 0, link.LinkAuto
		f.sriov.vfs = append(f.sriov.vfs, &fakeVF{
			VFUse: link.VFUse{
				VFPlace: link.VFPlace{PF: fakePF, Number: i, Device: fmt.Sprintf("0000:03:10.%d", i)},
				Driver:  "fakevf", Netdev: name, NUMA: i % 2,
			},
			pf: pf,
			VFSettings: link.VFSettings{
				MAC: &mac, VLAN: &link.VFVLAN{Proto: link.Dot1Q}, Trust: &no, SpoofChk: &yes,
				MinRate: &zero, MaxRate: &zero, LinkState: &auto,
			},
		})
	}
	f.sriov.ports = map[string]string{}
}

// under returns the VF on which a macvtap in passthrough mode stands, nil if none.
func (f *fakeKernel) under(index int) *fakeVF {
	l := f.links[index]
	if l == nil || l.Mode != "passthrough" || f.links[l.Parent] == nil {
		return nil
	}
	i := slices.IndexFunc(f.sriov.vfs, func(v *fakeVF) bool { return v.Netdev == f.links[l.Parent].Name })
	if i < 0 {
		return nil
	}
	return f.sriov.vfs[i]
}

func (f *fakeKernel) place(is func(*fakeVF) bool) (link.VFPlace, error) {
	if i := slices.IndexFunc(f.sriov.vfs, is); i >= 0 {
		return f.sriov.vfs[i].VFPlace, nil
	}
	return link.VFPlace{}, notFound("VF")
}

func (f *fakeKernel) VFOf(_ context.Context, name string) (link.VFPlace, error) {
	return f.place(func(v *fakeVF) bool { return v.Netdev == name })
}

func (f *fakeKernel) VFAt(_ context.Context, address string) (link.VFPlace, error) {
	return f.place(func(v *fakeVF) bool { return v.Device == address })
}

func (f *fakeKernel) PF(ctx context.Context, p link.VFPlace) (link.Link, error) {
	if len(f.sriov.vfs) == 0 || p.PF != fakePF {
		return link.Link{}, notFound(p.PF)
	}
	return f.ByName(ctx, f.sriov.vfs[0].pf)
}

func (f *fakeKernel) VFUses(_ context.Context, pf string) ([]link.VFUse, error) {
	var uses []link.VFUse
	for _, v := range f.sriov.vfs {
		if v.pf == pf {
			uses = append(uses, v.VFUse)
		}
	}
	return uses, nil
}

func (f *fakeKernel) vf(number int) *fakeVF {
	if number < len(f.sriov.vfs) {
		return f.sriov.vfs[number]
	}
	return nil
}

func (f *fakeKernel) VF(_ context.Context, pf link.Link, number int) (link.VF, error) {
	v := f.vf(number)
	if v == nil {
		return link.VF{}, &link.VFError{PF: pf.Name, VF: number, Err: link.ErrNoVF}
	}
	return link.VF{Number: number, VFSettings: v.VFSettings}, nil
}

// SetVF writes one attribute after the other: a process can die between them.
func (f *fakeKernel) SetVF(_ context.Context, pf link.Link, number int, want link.VFSettings, optional ...string) (warnings []error, err error) {
	v := f.vf(number)
	if v == nil {
		return nil, &link.VFError{PF: pf.Name, VF: number, Err: link.ErrNoVF}
	}
	before := v.VFSettings
	for _, attr := range v.Differ(want) {
		value, _ := want.Value(attr)
		err := f.change("set "+attr, func() error {
			if attr == f.sriov.refuse || attr == link.AttrMAC && f.sriov.noZero && value == noMAC {
				return &link.VFError{PF: pf.Name, VF: number, Driver: "fake", Attr: attr, Value: value, Err: link.ErrVFRefused}
			}
			v.set(attr, want)
			return nil
		})
		if err != nil && slices.Contains(optional, attr) {
			warnings = append(warnings, err)
			continue
		}
		if err != nil {
			v.VFSettings = before
			return warnings, err
		}
	}
	return warnings, nil
}

func (v *fakeVF) set(attr string, want link.VFSettings) {
	switch attr {
	case link.AttrMAC:
		v.MAC, v.fixed = want.MAC, *want.MAC != noMAC
	case link.AttrVLAN:
		v.VLAN = want.VLAN
	case link.AttrTrust:
		v.Trust = want.Trust
	case link.AttrSpoofChk:
		v.SpoofChk = want.SpoofChk
	case link.AttrMinRate:
		v.MinRate = want.MinRate
	case link.AttrMaxRate:
		v.MaxRate = want.MaxRate
	case link.AttrLinkState:
		v.LinkState = want.LinkState
	case link.AttrQueryRSS:
		v.QueryRSS = want.QueryRSS
	}
}

func (f *fakeKernel) AssociatePort(_ context.Context, dev link.Link, _ link.PortRequest, p link.Port) error {
	return f.change("associate", func() error {
		f.sriov.ports[fmt.Sprintf("%s/%d", dev.Name, p.VF)] = p.Profile
		return nil
	})
}

func (f *fakeKernel) DisassociatePort(_ context.Context, dev link.Link, vf int) error {
	return f.change("disassociate", func() error {
		delete(f.sriov.ports, fmt.Sprintf("%s/%d", dev.Name, vf))
		return nil
	})
}

// libvirtTakes plays what libvirt does to a VF between prepare and start, and
// libvirtGives what it does between stopped and release.
func (v *fakeVF) libvirtTakes(mac string, vlan int) {
	v.MAC, v.VLAN = &mac, &link.VFVLAN{ID: vlan, Proto: link.Dot1Q}
}

func (v *fakeVF) libvirtGives(own string, vlan int) {
	v.MAC, v.VLAN = &own, &link.VFVLAN{ID: vlan, Proto: link.Dot1Q}
}

func (f *fakeKernel) dumpVFs() string {
	text := fmt.Sprint(f.sriov.ports) + "\n"
	for _, v := range f.sriov.vfs {
		text += fmt.Sprintf("%s: %s\n", v.Device, v.VFSettings)
	}
	return text
}
