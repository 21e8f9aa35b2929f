// Package plan decides what is to be done for a domain's NICs, and cannot act: it knows the
// host by a Snapshot, and imports nothing that reaches the kernel, a daemon or a file
// (hooks/imports_test.go).
//
// For returns the steps of an operation, Remap what devices of a domain from elsewhere are
// called here, and Rewrite what a definition has to become. The same arguments give the same
// answer.
package plan

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/link"
	"libvirt-direct/xmlfilter"
)

// For returns what an operation does, in order. It is pure: the same arguments give
// the same steps, and nothing is touched. stopped and release have no plan of their
// own, they undo what the journal says; migrate and restore have Remap.
//
// An error is a *NICError: which NIC, what is wrong, what to do. Of a domain that runs it is
// those of several, beside the steps of its other NICs.
func For(op step.Op, d *xmlfilter.Domain, cfg *config.Config, host Snapshot) ([]step.Step, error) {
	p := newPlanner(op, d, cfg, host)
	lost := wholeDomain(p)
	if lost != nil && !host.Running {
		return nil, lost
	}
	err := errors.Join(lost, eachNIC(d, host.Running, func(_ int, n *xmlfilter.NIC) error { return p.nic(n) }))
	if err != nil && !host.Running {
		return nil, err
	}
	return append(p.steps, p.last...), err
}

// eachNIC does something for each NIC in scope. It ends with the first error, unless it is
// to go on, and says of which NIC an error is.
func eachNIC(d *xmlfilter.Domain, goOn bool, do func(i int, n *xmlfilter.NIC) error) error {
	var errs []error
	for i := range d.NICs {
		n := &d.NICs[i]
		if !InScope(n) {
			continue
		}
		err := do(i, n)
		if err == nil {
			continue
		}
		errs = append(errs, &NICError{Domain: d.Name, NIC: n.String(), Err: err})
		if !goOn {
			return errs[0]
		}
	}
	return errors.Join(errs...)
}

// Lost says why a domain does not start that names another guest's device, or has lost settings
// that restrict its guest; nil for others. Of the host it needs Targets alone.
func Lost(d *xmlfilter.Domain, cfg *config.Config, host Snapshot) error {
	return wholeDomain(newPlanner(step.Prepare, d, cfg, host))
}

// wholeDomain refuses what concerns NICs of any kind.
func wholeDomain(p *planner) error {
	switch p.op {
	case step.Prepare, step.Start, step.Reconnect:
		return cmp.Or(devices{p}.others(), strays(p.domain, p.cfg), devices{p}.missing())
	}
	return nil
}

func (p *planner) nic(n *xmlfilter.NIC) error {
	if p.host.Targets[n.Target].Owner != nil {
		return nil // of a domain that runs: wholeDomain has said it
	}
	plan := p.prepare
	switch p.op {
	case step.Prepare, step.Reconnect:
		if err := n.Err(); err != nil {
			return err
		}
	case step.Start:
		plan = p.start
	default:
		return nil
	}
	s, err := p.settings(n)
	if err != nil {
		return err
	}
	if err := plan(n, s); err != nil {
		return err
	}
	if p.op == step.Prepare && n.Settings != nil { // what a plain guest cannot have, libvirt says
		if err := libvirtRefuses(p.host, n); err != nil {
			return err
		}
	}
	return p.enforce(n)
}

// settings are a NIC's, if they fit it.
func (p *planner) settings(n *xmlfilter.NIC) (Settings, error) {
	s, err := p.known(n)
	if err != nil {
		return s, err
	}
	return s, cmp.Or(portSettingsFit(n, s), fdbFits(n, s))
}

// An attachment is one way in which a NIC is attached to the host's network. handled is
// false for a NIC that is attached otherwise.
type attachment interface {
	// prepare plans what is done before libvirt makes the NIC's device, or in its place.
	prepare(n *xmlfilter.NIC, s Settings) (handled bool, err error)
	// start plans what is set on the device that libvirt has made.
	start(n *xmlfilter.NIC, s Settings) (handled bool, err error)
	// convert says how the NIC's XML is to become one that libvirt takes on this host.
	convert(n *xmlfilter.NIC, s Settings) (c xmlfilter.Change, handled bool, err error)
	// remap says what the devices that the NIC's XML names are called on this host.
	remap(n *xmlfilter.NIC, s Settings) (r Rename, handled bool, err error)
}

// attachments are asked in order.
func (p *planner) attachments() []attachment {
	return []attachment{ovsPort{p}, bridgePort{p}, function{p}, macvtap{p}}
}

type planner struct {
	op     step.Op
	domain *xmlfilter.Domain
	cfg    *config.Config
	host   Snapshot
	steps  []step.Step
	last   []step.Step           // behind those of all NICs
	taken  map[link.VFPlace]bool // VFs that another NIC of the domain gets
}

// add appends a step once: two NICs of a domain can stand on one VLAN.
func (p *planner) add(s step.Step) {
	if !slices.ContainsFunc(p.steps, func(o step.Step) bool { return o.Key() == s.Key() }) {
		p.steps = append(p.steps, s)
	}
}

func (p *planner) id(n *xmlfilter.NIC) string { return n.ID() }

func (p *planner) notRewritten(why string) error {
	return step.Hint(ErrNotRewritten, "%s; run: libvirt-direct rewrite --domain %s", why, shellWord(p.domain.Name))
}

// find returns a device by its name, or by what an uplink is called.
func (p *planner) find(name string) (Device, bool) {
	if dev, ok := p.host.Devices[name]; ok {
		return dev, true
	}
	if u := p.host.Called(p.cfg, name); u != nil {
		dev, ok := p.host.Uplinks[u.Name]
		return dev, ok
	}
	return Device{}, false
}

func noDevice(name string) error {
	if name == "" {
		return step.Hint(ErrNoDevice, "neither <source dev=> nor its settings name one; say <source dev='…'/>, or uplink='…' in its settings")
	}
	return step.Hint(ErrNoDevice, "%q; say what it is here: [uplink.NAME] device = \"…\", also = [%q] in %s", name, name, config.Path)
}

// uplink returns an uplink's device.
func (p *planner) uplink(u *config.Uplink) (Device, error) {
	dev, ok := p.host.Uplinks[u.Name]
	if !ok {
		return Device{}, fmt.Errorf("%w: uplink %q: %w; fix [uplink.%s] in %s", ErrNoDevice, u.Name, p.host.Missing[u.Name], u.Name, config.Path)
	}
	return dev, nil
}

// parent returns the device that a NIC's uplink or device word means.
func (p *planner) parent(s Settings, otherwise string) (Device, error) {
	if s.Uplink != nil {
		return p.uplink(s.Uplink)
	}
	name := cmp.Or(s.Dev, otherwise)
	if name == "" {
		return Device{}, step.Hint(ErrNoDevice, "its settings name neither uplink nor dev")
	}
	dev, _, ok := p.stack().reach(name)
	if !ok {
		return Device{}, noDevice(name)
	}
	return dev, nil
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
	if !dev.on(want.Index) {
		return p.notRewritten(fmt.Sprintf("uplink %q is %s here, and its <source> says %s", u.Name, want.Name, name))
	}
	return nil
}

// start plans what is to be set on the devices that libvirt has made by then.
func (p *planner) start(n *xmlfilter.NIC, s Settings) error {
	if err := p.fdb(n, s); err != nil {
		return err
	}
	if n.Type == "ethernet" && s.Own && config.ValidIfname(n.Target) {
		p.last = append(p.last, step.Step{NIC: p.id(n), Kind: &step.LinkUp{Device: n.Target}})
	}
	for _, a := range p.attachments() {
		if handled, err := a.start(n, s); handled || err != nil {
			return err
		}
	}
	return nil
}

func (p *planner) prepare(n *xmlfilter.NIC, s Settings) error {
	if err := (macvtap{p}).onDev(n, s); err != nil {
		return err
	}
	for _, a := range p.attachments() {
		if handled, err := a.prepare(n, s); handled || err != nil {
			return err
		}
	}
	return unsuited(n)
}

func unsuited(n *xmlfilter.NIC) error {
	return step.Hint(step.ErrUnsuitable, "its settings in <metadata> are for type='direct', this is type='%s'; remove its <nic>", n.Type)
}
