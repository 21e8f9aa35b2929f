package hooks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"libvirt-direct/hooks/plan"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/settings"
	"libvirt-direct/xmlfilter"
)

// LibvirtDir is where libvirt's system daemons keep their state.
const LibvirtDir = "/run/libvirt"

// ForNetworks reports whether libvirt runs a program as its network hook, by the path
// that it uses: /etc/libvirt/hooks/network, or one in network.d.
func ForNetworks(program string) bool {
	return filepath.Base(program) == "network" || filepath.Base(filepath.Dir(program)) == "network.d"
}

// NetworkCall is one call of the network hook by libvirt (libvirt's docs/hooks.rst).
type NetworkCall struct {
	Network string  // argv[1], the network's name, for messages only
	Op      step.Op // argv[2]
	Stdin   io.Reader
}

// RunNetwork does what one call of the network hook asks for: it keeps libvirt's pools
// from handing out a device that a guest of ours has, and sets what the network's
// metadata wants of a virtual function that it hands out. A guest that is being started
// is not, when this fails.
func (h *Hook) RunNetwork(ctx context.Context, c NetworkCall) error {
	if !h.Privileged || c.Op != step.PortCreated && c.Op != step.PortDeleted {
		return nil
	}
	doc, err := readXML(c.Stdin, "network's")
	if err != nil {
		return err
	}
	if len(doc) > maxXML {
		return tooLong(maxXML)
	}
	n, p, err := xmlfilter.ParseHook(doc)
	if c.Op == step.PortDeleted {
		err = step.Ignore(err, xmlfilter.ErrSettings)
	}
	if err != nil && !plan.MaySay(doc) {
		h.withoutUs(Call{Domain: c.Network, Op: c.Op}, err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("network %q: %w", c.Network, err)
	}
	if p == nil {
		return nil
	}
	port := networkPort{h, p}
	if name := n.Stray(p); name != "" && c.Op == step.PortCreated && p.OwnerUUID != "" {
		return fmt.Errorf("network %q: %w", c.Network, &plan.NICError{Domain: p.Owner, NIC: "NIC " + p.MAC, Err: step.Hint(plan.ErrStray,
			"the network's metadata has some for portgroup %q, which it does not have; name it as it is called in <network>, or take it out", name)})
	}
	if tap := p.Dev == "" && p.PCI == ""; tap && c.Op == step.PortCreated {
		err = port.tap(n)
	} else if tap {
		return nil
	} else if c.Op == step.PortDeleted {
		err = port.deleted(ctx)
	} else {
		err = port.created(ctx, n)
		if err != nil && n.Settings(p) == nil && !errors.Is(err, step.ErrInUse) {
			h.withoutUs(Call{Domain: p.Owner, Op: c.Op}, err)
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("network %q: %w", c.Network, err)
	}
	return nil
}

// networkPort is a port of a network for which libvirt calls the hook.
type networkPort struct {
	*Hook
	*xmlfilter.NetworkPort
}

// tap refuses a tap of a network whose settings restrict its guests: nothing would set them.
func (h networkPort) tap(n *xmlfilter.Network) error {
	wanted := n.Settings(h.NetworkPort)
	if wanted == nil || h.OwnerUUID == "" {
		return nil
	}
	vf, _, err := h.profiled(wanted)
	of := settings.NIC{VF: vf}
	if restricting := of.Restricting(); err == nil && len(restricting) > 0 {
		text, _ := restricting[0].Text(of)
		err = step.Hint(step.ErrUnsuitable, "the network's settings say %s='%s', which is for virtual functions, and this is a tap; take it out of them", restricting[0].Name, text)
	}
	if err != nil {
		return &plan.NICError{Domain: h.Owner, NIC: "NIC " + h.MAC, Err: err}
	}
	return nil
}

// profiled is what a network's settings want of a virtual function, with those of their profile,
// and which of it a driver may refuse.
func (h networkPort) profiled(wanted *xmlfilter.NetworkSettings) (vf settings.VF, optional []string, err error) {
	if wanted.Profile == "" {
		return wanted.VF, nil, nil
	}
	cfg, err := h.Config()
	if err != nil {
		return vf, nil, err
	}
	if err := cfg.ProfileFault(wanted.Profile); err != nil {
		return vf, nil, err
	}
	profile := cfg.Profiles[wanted.Profile]
	if profile == nil {
		return vf, nil, step.Hint(plan.ErrNotConfigured, "profile %q; add [profile.%s] to %s", wanted.Profile, wanted.Profile, config.Path)
	}
	return wanted.Override(profile.VF), profile.Optional, nil
}

// created sees to a device that libvirt's pool hands out.
func (h networkPort) created(ctx context.Context, n *xmlfilter.Network) error {
	p := h.NetworkPort
	ctx, cancel := context.WithTimeout(ctx, config.DefaultDeadline)
	defer cancel()
	k, closeKernel, err := h.Kernel()
	if err != nil {
		return err
	}
	defer closeKernel()
	place, err := h.place(ctx, k)
	isVF := err == nil
	if err := step.Ignore(step.Ignore(err, link.ErrNoVF), link.ErrNotFound); err != nil {
		return err
	}
	wanted := n.Settings(p)
	if wanted == nil || p.OwnerUUID == "" {
		return h.handedOut(ctx, k, place, isVF)
	}
	of, err := h.function(ctx, k, wanted, place, isVF)
	if err != nil {
		return &plan.NICError{Domain: p.Owner, NIC: "NIC " + p.MAC, Err: err}
	}
	return h.ofOwner(ctx, k, func(a *session) error {
		a.op = step.PortCreated
		steps := []step.Step{of}
		err := a.withClaims(ctx, func() error {
			if err := h.handedOut(ctx, k, place, isVF); err != nil {
				return err
			}
			return a.claim(steps, 0)
		})
		if err != nil {
			return err
		}
		return a.apply(ctx, p.Owner, steps)
	})
}

// place finds the virtual function that the port has.
func (h networkPort) place(ctx context.Context, k step.Kernel) (link.VFPlace, error) {
	if h.PCI != "" {
		return k.VFAt(ctx, h.PCI)
	}
	return k.VFOf(ctx, h.Dev)
}

// handedOut refuses a device that a pool hands out and another domain has: a virtual
// function, or a whole device under a hook-owned macvtap in passthrough mode. libvirt also
// calls for the port of a guest that it finds running, which has the device already.
func (h networkPort) handedOut(ctx context.Context, k step.Kernel, place link.VFPlace, isVF bool) error {
	p := h.NetworkPort
	refuse := func(owner string) error {
		return step.Hint(step.ErrInUse, "it hands out %s, which domain %q has; take it out of the network, or stop that domain (libvirt-direct gc if it is gone)", cmp.Or(p.Dev, p.PCI), owner)
	}
	if !isVF {
		owner, err := h.passedThrough(ctx, k)
		if err != nil || owner == "" {
			return err
		}
		return refuse(owner)
	}
	s := surveyor{Records: h.records(), kernel: k}
	vf, err := s.at(ctx, place)
	if err != nil {
		return step.Ignore(err, link.ErrNotFound)
	}
	host := plan.Snapshot{Owner: p.OwnerUUID}
	var taken *plan.TakenError
	if err := host.Available(vf, true); errors.As(err, &taken) && taken.By != "" && vf.GuestMAC != p.MAC {
		return refuse(taken.By)
	}
	return nil
}

// passedThrough names the domain whose hook-owned macvtap has the whole of a port's device.
func (h networkPort) passedThrough(ctx context.Context, k step.Kernel) (domain string, err error) {
	p := h.NetworkPort
	if p.Dev == "" {
		return "", nil
	}
	uppers, err := k.Uppers(ctx, p.Dev)
	if err != nil {
		return "", step.Ignore(err, link.ErrNotFound)
	}
	for _, u := range uppers {
		claims, err := claimsTo(h.Journal, "link/"+u)
		if err != nil {
			return "", err
		}
		for _, c := range claims.Others(p.OwnerUUID) {
			s, err := step.Decode(c.Step)
			if m, is := s.Kind.(*step.Macvtap); err == nil && is && m.Mode == "passthrough" {
				return c.Name, nil
			}
		}
	}
	return "", nil
}

// function is the step for a VF that a network's settings concern.
func (h networkPort) function(ctx context.Context, k step.Kernel, wanted *xmlfilter.NetworkSettings, place link.VFPlace, isVF bool) (step.Step, error) {
	p := h.NetworkPort
	vf, optional, err := h.profiled(wanted)
	if err != nil {
		return step.Step{}, err
	}
	switch {
	case vf.QoS != nil || vf.Proto != "" || vf.PortProfile != "":
		return step.Step{}, step.Hint(step.ErrUnsuitable, "qos, proto and portprofile are set when the guest starts: they are for the domain's <metadata>, not for the network's")
	case !isVF:
		return step.Step{}, step.Hint(step.ErrUnsuitable, "the network's settings are for virtual functions, and %s is none", cmp.Or(p.Dev, p.PCI))
	}
	want := link.VFSettings(vf.VFAttributes)
	if err := want.Check(); err != nil {
		return step.Step{}, step.Hint(step.ErrUnsuitable, "%v", err)
	}
	pf, err := k.PF(ctx, place)
	if err != nil {
		return step.Step{}, err
	}
	return step.Step{NIC: p.MAC, Kind: &step.VF{
		VFPlace: place, PFName: pf.Name, MAC: p.MAC, LibvirtVLAN: p.VLAN, Want: want, Optional: optional,
		Program: true, Managed: true, Hostdev: p.PCI != "",
	}}, nil
}

// deleted undoes what was done for a NIC whose device libvirt takes back: it can be
// another guest's before this one ends, where the NIC was unplugged.
func (h networkPort) deleted(ctx context.Context) error {
	p := h.NetworkPort
	if p.OwnerUUID == "" {
		return nil
	}
	if held, err := h.holds(p.OwnerUUID); err != nil || !held {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, config.DefaultDeadline)
	defer cancel()
	k, closeKernel, err := h.Kernel()
	if err != nil {
		return err
	}
	defer closeKernel()
	return h.ofOwner(ctx, k, func(a *session) error {
		place, err := h.place(ctx, k)
		return a.undoAll(ctx, func(_ string, s step.Step) bool {
			name, _ := s.Resource()
			if err != nil || !strings.HasPrefix(name, "vf/") { // the function is gone, or it is about another thing
				return s.NIC == p.MAC
			}
			// Another NIC of the domain can have the MAC.
			return name == step.VFResource(place) && (s.NIC == p.MAC || strings.HasPrefix(s.NIC, p.MAC+" "))
		})
	})
}

// ofOwner does something in the journal of the domain that a port belongs to.
func (h networkPort) ofOwner(ctx context.Context, k step.Kernel, do func(*session) error) error {
	p := h.NetworkPort
	a, unlock, err := h.open(ctx, p.OwnerUUID, p.Owner)
	if err != nil {
		return err
	}
	defer unlock()
	a.on(k, h.Libvirt, h.Station, h.OVS)
	defer a.close()
	defer func() { h.log(Call{Domain: p.Owner, Op: a.op}, a.events) }()
	return do(a)
}

// Pools reads libvirt's running networks that hand out devices of the host, from the
// state that libvirt keeps of them below its state directory: a hook must not ask
// libvirt. A file that is gone or not understood is passed over.
func Pools(libvirt fs.FS) []*xmlfilter.Network {
	files, _ := fs.Glob(libvirt, "network/*.xml") // the pattern is well-formed
	var pools []*xmlfilter.Network
	for _, f := range files {
		doc, err := fs.ReadFile(libvirt, f)
		if err != nil || len(doc) > maxXML {
			continue
		}
		if n, err := xmlfilter.ParseNetworkState(doc); err == nil && n.Pool() {
			pools = append(pools, n)
		}
	}
	return pools
}
