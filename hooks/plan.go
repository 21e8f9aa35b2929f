// Package hooks is what each libvirt hook operation does to a domain's NICs: plan,
// apply, undo.
//
// Plan is a pure function from an operation, the domain's NICs, the host's
// configuration and what the host's devices are to a list of steps; nothing else
// decides anything. Apply runs the steps, each written to the journal before it
// acts, and undoes those that were done when one fails.
package hooks

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"libvirt-direct/internal/config"
	"libvirt-direct/internal/link"
	"libvirt-direct/xmlfilter"
)

// Op is a libvirt hook operation (libvirt's docs/hooks.rst; enum virHookQemuOp in
// src/util/virhook.h).
type Op string

// The operations that we do something for. Others are accepted, and nothing is done.
const (
	Prepare   Op = "prepare"
	Start     Op = "start"
	Started   Op = "started"
	Stopped   Op = "stopped"
	Release   Op = "release"
	Migrate   Op = "migrate"
	Restore   Op = "restore"
	Reconnect Op = "reconnect"
)

// Plan returns what an operation does, in order. It is pure: the same arguments give
// the same steps, and nothing is touched. stopped and release have no plan of their
// own, they undo what the journal says; migrate and restore have Rewrite.
//
// An error is a *NICError: which NIC, what is wrong, what to do.
func Plan(op Op, d *xmlfilter.Domain, cfg *config.Config, host Host) ([]Step, error) {
	p := newPlanner(op, d, cfg, host)
	for i := range d.NICs {
		n := &d.NICs[i]
		if !ours(n) {
			continue
		}
		var err error
		switch op {
		case Prepare, Reconnect:
			if err = n.Err(); err == nil {
				err = p.prepare(n)
			}
		case Start:
			err = p.start(n)
		}
		if err != nil {
			return nil, &NICError{Domain: d.Name, NIC: n.String(), Err: err}
		}
	}
	return p.steps, nil
}

type planner struct {
	op     Op
	domain *xmlfilter.Domain
	cfg    *config.Config
	host   Host
	steps  []Step
	taken  map[link.VFPlace]bool // VFs that another NIC of the domain gets
}

// add appends a step once: two NICs of a domain can stand on one VLAN.
func (p *planner) add(s Step) {
	if !slices.ContainsFunc(p.steps, func(o Step) bool { return o.key() == s.key() }) {
		p.steps = append(p.steps, s)
	}
}

// id is what tells a NIC from the domain's others: its MAC, where the domain has it once;
// else also its user's alias, or its position.
func (p *planner) id(n *xmlfilter.NIC) string { return nicID(p.domain, n) }

func nicID(d *xmlfilter.Domain, n *xmlfilter.NIC) string {
	same := 0
	for i := range d.NICs {
		if d.NICs[i].MAC == n.MAC {
			same++
		}
	}
	switch {
	case same < 2:
		return n.MAC
	case strings.HasPrefix(n.Alias, "ua-"): // libvirt's own come only after prepare
		return n.MAC + " " + n.Alias
	}
	return fmt.Sprintf("%s #%d", n.MAC, n.Index)
}

func (p *planner) prepare(n *xmlfilter.NIC) error {
	s, err := p.settings(n)
	if err != nil {
		return err
	}
	if err := portSettingsFit(n, s); err != nil {
		return err
	}
	if handled, err := p.prepareOVS(n, s); handled || err != nil {
		return err
	}
	if handled, err := p.prepareBridge(n, s); handled || err != nil {
		return err
	}
	if handled, err := p.prepareVF(n, s); handled || err != nil {
		return err
	}
	switch {
	case n.Type == "direct" && n.Source.Network != "":
		return nil // libvirt's own network chose the device
	case n.Type == "direct" && s.own:
		return p.notRewritten("it asks to be hook-owned")
	case n.Type == "direct":
		err := p.assisted(n, s)
		if err == nil {
			err = p.obstacle(n)
		}
		if err != nil || !isQbg(n.VirtualPort) {
			return err
		}
		return p.assistedQbg(n)
	case n.Type == "ethernet" && s.own:
		if err := p.obstacle(n); err != nil {
			return err
		}
		return p.hookOwned(n, s)
	}
	return remedy(ErrUnsuitable, "its settings in <metadata> are for type='direct', this is type='%s'; remove its <nic>", n.Type)
}

// obstacle refuses a macvtap that the kernel would refuse, with a bare EBUSY. That of a
// plain guest is libvirt's to try.
func (p *planner) obstacle(n *xmlfilter.NIC) error {
	if p.op == Reconnect || n.Settings == nil {
		return nil
	}
	for _, o := range p.host.Obstacles[p.id(n)] {
		if o.Errno != 0 {
			return remedy(ErrNotFree, "no macvtap can be made there: %s", o)
		}
	}
	return nil
}

func (p *planner) notRewritten(why string) error {
	return remedy(ErrNotRewritten, "%s; run: libvirt-direct rewrite --domain %s", why, shellWord(p.domain.Name))
}

// assisted plans what libvirt needs before it can make the macvtap itself.
func (p *planner) assisted(n *xmlfilter.NIC, s settings) error {
	source, there := p.host.Devices[n.Source.Dev]
	if !there && n.VLAN != nil && n.Source.Mode == "passthrough" && p.cfg.UplinkCalled(n.Source.Dev) == nil {
		return noDevice(n.Source.Dev)
	}
	if u := p.cfg.UplinkCalled(n.Source.Dev); u != nil && n.Source.Mode == "passthrough" && p.host.Free[u.Name] != nil &&
		!(there && source.Name == n.Source.Dev && u.Name != n.Source.Dev) {
		// As an altname it would give the guest the whole card, the host's own address with it.
		return p.notRewritten(fmt.Sprintf("%q is to be a virtual function of uplink %q", n.Source.Dev, u.Name))
	}
	if n.VLAN != nil && !(there && source.VF && n.Source.Mode == "passthrough") {
		return p.notRewritten("libvirt refuses <vlan> in this mode")
	}
	if s.mode != "" && s.mode != cmp.Or(n.Source.Mode, "vepa") {
		return p.notRewritten(fmt.Sprintf("it asks for mode %s and its <source> says %s", s.mode, cmp.Or(n.Source.Mode, "vepa")))
	}
	if !config.ValidIfname(n.Source.Dev) {
		return remedy(ErrNoDevice, "%q is no device name", n.Source.Dev)
	}
	parent, vid, isVLAN := splitVLAN(n.Source.Dev)
	if s.vlan != 0 {
		return p.assistedVLAN(n, s, parent)
	}
	if there {
		if err := p.onUplink(n.Source.Dev, source, s.uplink); err != nil {
			return err
		}
		// Possibly ours: held, so that no other guest's end removes it.
		if dev, ok := p.find(parent); ok && source.Kind == "vlan" && dev.Index == source.Parent {
			if err := p.vlan(n, source.Name, dev, source.VLANID); err != nil {
				return err
			}
		}
		if source.Name != n.Source.Dev {
			p.add(Step{NIC: p.id(n), AltName: &AltName{Device: source.Name, Name: n.Source.Dev}})
		}
		return nil
	}
	if u := p.cfg.UplinkCalled(n.Source.Dev); u != nil {
		return p.altName(n, u)
	}
	if isVLAN {
		if u := p.cfg.UplinkCalled(parent); u != nil || p.host.Devices[parent].Index != 0 {
			return p.namedVLAN(n, parent, vid, u)
		}
	}
	return noDevice(n.Source.Dev)
}

// find returns a device by its name, or by what an uplink is called.
func (p *planner) find(name string) (Device, bool) {
	if dev, ok := p.host.Devices[name]; ok {
		return dev, true
	}
	if u := p.cfg.UplinkCalled(name); u != nil {
		dev, ok := p.host.Uplinks[u.Name]
		return dev, ok
	}
	return Device{}, false
}

func noDevice(name string) error {
	return remedy(ErrNoDevice, "%q; say what it is here: [uplink.NAME] device = \"…\", also = [%q] in %s", name, name, config.Path)
}

// altName lets libvirt find an uplink's device by the name that the domain uses.
func (p *planner) altName(n *xmlfilter.NIC, u *config.Uplink) error {
	dev, err := p.uplink(u)
	if err != nil {
		return err
	}
	if dev.VF {
		// libvirt tells a VF by its name in sysfs, where altnames do not exist.
		return p.notRewritten(fmt.Sprintf("%q is the VF %s here", n.Source.Dev, dev.Name))
	}
	p.add(Step{NIC: p.id(n), AltName: &AltName{Device: dev.Name, Name: n.Source.Dev}})
	return nil
}

// uplink returns an uplink's device.
func (p *planner) uplink(u *config.Uplink) (Device, error) {
	dev, ok := p.host.Uplinks[u.Name]
	if !ok {
		return Device{}, fmt.Errorf("%w: uplink %q: %w; mend [uplink.%s] in %s", ErrNoDevice, u.Name, p.host.Missing[u.Name], u.Name, config.Path)
	}
	return dev, nil
}

// namedVLAN plans the sub-interface that <source dev='PARENT.VID'> names without its
// being there. An uplink's name as parent makes it the device's own sub-interface,
// called so as well: the kernel takes a parent's VLAN only once.
func (p *planner) namedVLAN(n *xmlfilter.NIC, parent string, vid int, u *config.Uplink) error {
	if dev, ok := p.host.Devices[parent]; ok && dev.Name == parent {
		return p.vlan(n, n.Source.Dev, dev, vid)
	}
	dev := p.host.Devices[parent]
	if u != nil {
		var err error
		if dev, err = p.uplink(u); err != nil {
			return err
		}
	}
	name := vlanName(dev.Name, vid)
	if err := p.vlan(n, name, dev, vid); err != nil {
		return err
	}
	p.add(Step{NIC: p.id(n), AltName: &AltName{Device: name, Name: n.Source.Dev}})
	return nil
}

// assistedVLAN plans for a NIC whose settings name the VLAN; <source dev=> then is just
// what its sub-interface is called.
func (p *planner) assistedVLAN(n *xmlfilter.NIC, s settings, parentByName string) error {
	dev, err := p.parent(s, cmp.Or(parentByName, n.Source.Dev))
	if err != nil {
		return err
	}
	if source, there := p.host.Devices[n.Source.Dev]; there && source.Index == dev.Index {
		return p.notRewritten(fmt.Sprintf("it asks for VLAN %d and its <source> is %s itself", s.vlan, dev.Name))
	} else if there && (source.Kind != "vlan" || source.VLANID != s.vlan || source.Parent != dev.Index) {
		return remedy(ErrWrongDevice, "%s is not VLAN %d of %s", n.Source.Dev, s.vlan, dev.Name)
	}
	return p.vlan(n, n.Source.Dev, dev, s.vlan)
}

// parent returns the device that a NIC's uplink or device word means.
func (p *planner) parent(s settings, otherwise string) (Device, error) {
	if s.uplink != nil {
		return p.uplink(s.uplink)
	}
	name := cmp.Or(s.dev, otherwise)
	if name == "" {
		return Device{}, remedy(ErrNoDevice, "its settings name neither uplink nor dev")
	}
	dev, ok := p.find(name)
	if !ok {
		return Device{}, noDevice(name)
	}
	return dev, nil
}

// vlan plans a sub-interface, if the host's configuration allows it.
func (p *planner) vlan(n *xmlfilter.NIC, name string, parent Device, vid int) error {
	u := p.host.uplinkOf(p.cfg, parent.Name)
	_, there := p.host.Devices[name]
	if err := p.cfg.VLANFault(); err != nil && !there {
		return err
	}
	switch create := p.cfg.VLAN.Create; {
	case u != nil && !u.Allows(vid):
		return remedy(ErrNotAllowed, "VLAN %d on uplink %q; add it to vlans of [uplink.%s] in %s", vid, u.Name, u.Name, config.Path)
	case there:
	case create == "never":
		return remedy(ErrNotAllowed, "%s is not there, and vlan.create = \"never\" in %s", name, config.Path)
	case create == "uplinks" && u == nil:
		return remedy(ErrNotAllowed, "%s is not there, %s is no uplink, and vlan.create = \"uplinks\" in %s", name, parent.Name, config.Path)
	}
	p.add(Step{NIC: p.id(n), VLAN: &VLAN{Name: name, Parent: parent.Name, ID: vid, ParentIndex: parent.Index}})
	return nil
}

// onUplink checks that a device leads to the uplink that the NIC's settings name: a
// domain defined for another host must not silently get another network here.
func (p *planner) onUplink(name string, dev Device, u *config.Uplink) error {
	if u == nil {
		return nil
	}
	want, err := p.uplink(u)
	if err != nil {
		return err
	}
	if dev.Index != want.Index && dev.Parent != want.Index {
		return p.notRewritten(fmt.Sprintf("uplink %q is %s here, and its <source> says %s", u.Name, want.Name, name))
	}
	return nil
}

// hookOwned plans the macvtap of a NIC that is <interface type='ethernet'> for
// libvirt.
func (p *planner) hookOwned(n *xmlfilter.NIC, s settings) error {
	switch {
	case n.MAC == "":
		return remedy(ErrUnsuitable, "it has no <mac address=>")
	case !config.ValidIfname(n.Target) || n.Managed != "no":
		return p.notRewritten("it has no <target dev= managed='no'>")
	}
	dev, err := p.parent(s, "")
	if err != nil {
		return err
	}
	lower := dev.Name
	if s.vlan != 0 {
		lower = vlanName(dev.Name, s.vlan)
		if err := p.vlan(n, lower, dev, s.vlan); err != nil {
			return err
		}
	}
	p.add(Step{NIC: p.id(n), Macvtap: &Macvtap{
		Name: n.Target, Lower: lower, Mode: cmp.Or(s.mode, "vepa"), MAC: n.MAC,
		MTU: n.MTU, Queues: n.Queues, AllMulti: s.allMulti,
	}})
	if n.Settings == nil || n.Settings.Was == nil || !isQbg(n.Settings.Was.VirtualPort) {
		return nil
	}
	v, err := vsiOf(n.Settings.Was.VirtualPort, n.MAC, dev.Name, s.vlan)
	if err != nil {
		return err
	}
	p.add(Step{NIC: p.id(n), VSI: v})
	return nil
}

// start plans what is to be set on the devices that libvirt has made by then.
func (p *planner) start(n *xmlfilter.NIC) error {
	s, err := p.settings(n)
	if err != nil {
		return err
	}
	if err := portSettingsFit(n, s); err != nil {
		return err
	}
	if handled, err := p.startOVS(n, s); handled || err != nil {
		return err
	}
	if n.Type == "direct" && s.allMulti && config.ValidIfname(n.Target) {
		p.add(Step{NIC: p.id(n), AllMulti: &AllMulti{Device: n.Target}})
	}
	if handled, err := p.startBridge(n, s); handled || err != nil {
		return err
	}
	return p.startVF(n, s)
}
