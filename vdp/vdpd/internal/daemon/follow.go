package daemon

import (
	"context"
	"slices"
	"time"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
	"libvirt-direct/vdp/vdpd/internal/uplink"
)

// retryPause is how long after a failure the socket on an interface is opened again.
const retryPause = time.Second

// A wire is what a port needs of package uplink.
type wire interface {
	Send(frame []byte) error
	ReadLoop(ctx context.Context, f func(uplink.Frames)) error
	Bound() bool
	Close() error
}

func openWire(l *linkInfo) (wire, error) { return uplink.Listen(l.netInterface()) }

// A device is the interface that a port has. A port is a device and not a name: a rename
// leaves it where it is, and a new device of the same name is another one.
type device struct {
	name   string // the present one, "" without an interface
	active int    // the slave in use, of a bond
	unfit  error  // why no station can run on it
	opened uint64 // counts them: what an earlier one's reader brings is late
}

// linkSteps follows the interfaces.
func (d *Daemon) linkSteps(ctx context.Context, now time.Time, steps []linkStep) {
	for i := range steps {
		switch s := &steps[i]; s.typ {
		case linkChange:
			d.linkChanged(ctx, now, &s.link)
		case listLost:
			d.links.whole = false
		case listBegin:
			d.links.begin()
		case listEnd:
			for _, l := range d.links.end() {
				d.linkChanged(ctx, now, &l)
			}
			d.evidence.listed(now)
		}
	}
}

// linkChanged follows one interface as it comes, changes and goes.
func (d *Daemon) linkChanged(ctx context.Context, now time.Time, l *linkInfo) {
	old := d.links.change(l)
	d.evidence.linkChanged(now, &old, l)
	for _, p := range d.ports {
		if p.ifindex == l.index || p.cfg.Name == l.name || p.cfg.Name == old.name {
			d.follow(ctx, now, p)
		}
	}
}

// deviceOf finds the interface that a port has, or should have: the one with the configured
// name, or else the one it had, for as long as that exists and is no other port's.
func (d *Daemon) deviceOf(p *port) *linkInfo {
	if l := d.links.byName(p.cfg.Name); l != nil {
		return l
	}
	l := d.links.byIndex(p.ifindex)
	if l == nil || slices.ContainsFunc(d.ports, func(o *port) bool { return o != p && o.cfg.Name == l.name }) {
		return nil
	}
	return l
}

// follow gives a port its interface, and tells the station how that is.
func (d *Daemon) follow(ctx context.Context, now time.Time, p *port) {
	want := d.deviceOf(p)
	// It may have gone and come back, and no message told of it.
	if p.ifindex != 0 && (want == nil || want.index != p.ifindex || want.mac != p.mac || !p.bound()) {
		p.log.Info("interface lost", "ifindex", p.ifindex)
		d.apply(now, p, p.detach(now))
		delete(d.reopenAt, p)
	}
	if want == nil {
		return
	}
	if p.ifindex == 0 {
		if now.Before(d.reopenAt[p]) {
			return
		}
		if !d.openPort(ctx, now, p, want) {
			d.reopenLater(now, p)
			return
		}
		delete(d.reopenAt, p)
	}
	if p.device.name != want.name {
		p.log.Info("interface renamed", "from", p.device.name, "to", want.name)
		p.device.name = want.name
	}
	unfit := want.unfit()
	if unfit != nil && p.device.unfit == nil {
		p.log.Error("uplink not usable", "err", unfit)
	}
	p.device.unfit = unfit
	// Another slave has another switch port behind it.
	if want.bond.active != p.device.active {
		if !p.upSince.IsZero() {
			p.log.Warn("failover of the bond", "from", p.device.active, "to", want.bond.active)
			d.apply(now, p, p.link(now, false))
		}
		p.device.active = want.bond.active
	}
	d.apply(now, p, p.link(now, want.up && unfit == nil))
}

// openPort attaches a port to an interface, and reads its frames in a goroutine.
func (d *Daemon) openPort(ctx context.Context, now time.Time, p *port, l *linkInfo) bool {
	before := p.st
	w, err := d.wire(l)
	if err != nil {
		p.log.Error("uplink not usable", "err", err)
		return false
	}
	out, err := p.attach(now, l.index, l.mac, l.mtu, w.Send)
	if err != nil {
		w.Close()
		p.ifindex, p.send = 0, nil
		p.log.Error("uplink not usable", "err", err)
		return false
	}
	p.device.name, p.device.active, p.device.unfit = l.name, l.bond.active, nil
	p.device.opened++
	index, vfs := l.index, ownVFs{log: p.log}
	vfs.read = func() ([]vdp.MAC, error) { return vfAddresses(index) }
	opened := p.device.opened
	ctx, cancel := context.WithCancel(ctx)
	p.close, p.bound = func() { cancel(); w.Close() }, w.Bound
	do := func(f func(now time.Time)) {
		d.do(ctx, func(now time.Time) {
			if p.ifindex != 0 && p.device.opened == opened {
				f(now)
			}
		})
	}
	go func() {
		err := w.ReadLoop(ctx, func(f uplink.Frames) {
			var locals []vdp.MAC
			if len(f.Arrived) > 0 {
				locals = vfs.addresses(time.Now())
			}
			do(func(now time.Time) { d.frames(now, p, f, locals) })
		})
		do(func(now time.Time) {
			p.log.Warn("uplink lost", "err", err)
			d.apply(now, p, p.detach(now))
			d.reopenLater(now, p)
		})
	}()
	d.apply(now, p, out)
	if p.st != before {
		d.askAgain(now, p, before)
	}
	d.evidence.attached(now, p)
	return true
}

// reopen opens what could not be opened before.
func (d *Daemon) reopen(ctx context.Context, now time.Time) {
	for p, at := range d.reopenAt {
		if !now.Before(at) {
			delete(d.reopenAt, p)
			d.follow(ctx, now, p)
		}
	}
}

func (d *Daemon) reopenLater(now time.Time, p *port) {
	if d.reopenAt == nil {
		d.reopenAt = make(map[*port]time.Time)
	}
	d.reopenAt[p] = now.Add(retryPause)
}

// askAgain asks a new station for what the one before it was asked for and has not got yet.
// What it had is restored.
func (d *Daemon) askAgain(now time.Time, p *port, before *vdp.Station) {
	if before == nil {
		return
	}
	for _, v := range before.VSIs() {
		if v.Mode == vdp.DeAssociate || p.kept[v.VSI.ID].Mode == v.Mode {
			continue
		}
		out, err := p.request(now, v.Mode, v.VSI)
		if err != nil {
			out.Events = append(out.Events, vdp.Event{Type: vdp.EventFailed, VSI: v.VSI, Mode: v.Mode, Err: err})
		}
		d.apply(now, p, out)
	}
}

// port finds an uplink for libvirt, which sends the index of the interface with its present
// name.
func (d *Daemon) port(name string, index int) *port {
	i := -1
	if index != 0 {
		i = slices.IndexFunc(d.ports, func(p *port) bool { return p.ifindex == index })
	}
	if i < 0 {
		return d.named(name)
	}
	return d.ports[i]
}

// named finds an uplink by its configured name, or the present name of its interface.
func (d *Daemon) named(name string) *port {
	if name == "" {
		return nil
	}
	for _, is := range []func(*port) bool{
		func(p *port) bool { return p.cfg.Name == name },
		func(p *port) bool { return p.ifindex != 0 && p.device.name == name },
	} {
		if i := slices.IndexFunc(d.ports, is); i >= 0 {
			return d.ports[i]
		}
	}
	return nil
}

// fit says why the switch is not asked at all, nil if it is.
func (p *port) fit() error {
	switch {
	case p.st == nil || p.ifindex == 0:
		return control.ErrNoInterface
	case p.device.unfit != nil:
		return p.device.unfit
	}
	return nil
}
