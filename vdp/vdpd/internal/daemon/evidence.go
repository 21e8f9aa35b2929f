package daemon

import (
	"context"
	"errors"
	"slices"
	"time"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
)

const (
	// guestGrace is how long nothing may show the guest of a VSI before the VSI is taken back.
	guestGrace = 30 * time.Second
	// restoredGrace is the same for a VSI of the last run whose guest was not seen in this one:
	// it may have ended while nobody ran whom libvirt could have told.
	restoredGrace = 5 * time.Second
	// lookInterval is how often VFs are read, while a VSI has no other device.
	lookInterval = 10 * time.Second
)

// evidence of guests: a VSI lives as long as what it is for. A guest shows by a device with the
// VSI's MAC address that leads to the port, by a VF with it, or by the hook's journal together
// with its process. Devices are followed by the kernel's events. Only while a VSI has none are
// the other two looked at, in a goroutine of their own. A VSI that was made by hand or has no MAC
// address has no guest that could show.
//
// It belongs to the goroutine of Daemon.Run.
type evidence struct {
	d       *Daemon
	vsis    map[vsiKey]*watched
	macs    map[vdp.MAC]map[vsiKey]struct{} // and by what libvirt gives their TAPs
	changed map[int]map[vsiKey]struct{}     // by devices that had a VSI's address
	missing map[vsiKey]*watched             // those of vsis without a device
	next    time.Time                       // when to look for other evidence of these; zero: never
	looking bool
	stale   bool // something between devices and ports has changed
	sources sources
}

// sources are the evidence that the kernel tells only when it is asked.
type sources struct {
	// vfs returns the MAC addresses of the VFs of a port.
	vfs func(ctx context.Context, ifindex int) ([]vdp.MAC, error)
	// vfOf reports whether an interface is a VF of a port.
	vfOf func(name, port string) (bool, error)
	// guest reports whether a guest runs that has a VSI on a port by the hook's journal. The
	// port may have several names.
	guest func(ports []string, id vdp.ID) (bool, error)
}

type vsiKey struct {
	p  *port
	id vdp.ID
}

// watched is a VSI that is to end with its guest.
type watched struct {
	macs []vdp.MAC
	// changed are devices that had one of macs: a guest may have changed its address, which is
	// not its end.
	changed []int
	moved   bool // its device is in another namespace
	absent  bool // nothing showed the guest when last looked at
	since   time.Time
	grace   time.Duration
	warned  bool // that it cannot be looked at
}

func newEvidence(d *Daemon) *evidence {
	return &evidence{
		d: d, vsis: make(map[vsiKey]*watched), macs: make(map[vdp.MAC]map[vsiKey]struct{}),
		changed: make(map[int]map[vsiKey]struct{}), missing: make(map[vsiKey]*watched), sources: hostSources(),
	}
}

// tapMAC is the address that libvirt gives the TAP of a guest with an address.
func tapMAC(m vdp.MAC) vdp.MAC {
	m[0] = 0xfe
	return m
}

// restored watches over the VSIs of the last run.
func (e *evidence) restored(now time.Time) {
	for _, p := range e.d.ports {
		for _, k := range p.kept {
			e.watch(now, p, &k.VSI, restoredGrace)
			if w := e.vsis[vsiKey{p, k.VSI.ID}]; w != nil {
				w.moved = k.Moved
			}
		}
	}
}

// asked takes note of whose a VSI is that a port was asked for.
func (e *evidence) asked(now time.Time, p *port, id vdp.ID, owner control.Owner) {
	p.owners[id] = owner
	if w := e.vsis[vsiKey{p, id}]; w != nil {
		w.since, w.grace = now, guestGrace
		e.setMoved(vsiKey{p, id}, w, false)
		e.update(now, vsiKey{p, id}, w)
	}
}

// event follows what becomes of VSIs.
func (e *evidence) event(now time.Time, p *port, ev *vdp.Event) {
	id := ev.VSI.ID
	switch ev.Type {
	case vdp.EventNeighbor:
		if len(e.missing) > 0 { // that waited for it, maybe
			e.wake(now)
		}
	case vdp.EventEstablished:
		e.watch(now, p, &ev.VSI, guestGrace)
	case vdp.EventFailed:
		if v, _ := p.st.VSI(id); v.Have == 0 {
			e.end(p, id)
		}
	case vdp.EventRemoved:
		if _, again := p.st.VSI(id); !again {
			e.end(p, id)
		}
	}
}

func (e *evidence) watch(now time.Time, p *port, v *vdp.VSI, grace time.Duration) {
	key := vsiKey{p, v.ID}
	var macs []vdp.MAC
	if p.owners[v.ID] != control.OwnerHand && (v.FilterFormat == vdp.FilterMACVID || v.FilterFormat == vdp.FilterGroupMACVID) {
		for _, f := range v.Filters {
			if f.MAC != (vdp.MAC{}) {
				macs = append(macs, f.MAC)
			}
		}
	}
	if w := e.vsis[key]; w != nil {
		if slices.Equal(w.macs, macs) {
			return
		}
		e.unwatch(key)
	}
	if len(macs) == 0 {
		return
	}
	w := &watched{macs: macs, absent: true, since: now, grace: grace}
	e.vsis[key] = w
	for _, m := range macs {
		add(e.macs, m, key)
		add(e.macs, tapMAC(m), key)
	}
	e.update(now, key, w)
}

// end forgets a VSI that is no more.
func (e *evidence) end(p *port, id vdp.ID) {
	delete(p.owners, id)
	e.unwatch(vsiKey{p, id})
}

func (e *evidence) unwatch(key vsiKey) {
	w := e.vsis[key]
	if w == nil {
		return
	}
	delete(e.vsis, key)
	delete(e.missing, key)
	for _, m := range w.macs {
		remove(e.macs, m, key)
		remove(e.macs, tapMAC(m), key)
	}
	for _, i := range w.changed {
		remove(e.changed, i, key)
	}
}

// update looks for a VSI's device.
func (e *evidence) update(now time.Time, key vsiKey, w *watched) {
	device := e.device(key, w)
	if device {
		e.setMoved(key, w, false)
	}
	if device || w.moved {
		delete(e.missing, key)
		w.absent, w.grace, w.warned = false, guestGrace, false
		return
	}
	if e.missing[key] == nil {
		e.missing[key] = w
		if !w.absent {
			w.absent, w.since = true, now
		}
	}
	e.wake(w.due(now))
}

// due is when to look at a VSI without a device.
func (w *watched) due(now time.Time) time.Time {
	next := now.Add(lookInterval)
	if end := w.since.Add(w.grace); w.absent && end.After(now) && end.Before(next) {
		return end
	}
	return next
}

func (e *evidence) wake(at time.Time) {
	if e.next.IsZero() || at.Before(e.next) {
		e.next = at
	}
}

// present reports whether there is a device of a VSI, here or elsewhere.
func (e *evidence) present(key vsiKey, w *watched) bool { return w.moved || e.device(key, w) }

func (e *evidence) device(key vsiKey, w *watched) bool {
	links := e.d.links
	for _, m := range w.macs {
		for i := range links.macs[m] {
			if links.on(links.byIndex(i), key.p.ifindex) {
				return true
			}
		}
		for i := range links.macs[tapMAC(m)] {
			if l := links.byIndex(i); l.kind == "tun" && links.on(l, key.p.ifindex) {
				return true
			}
		}
	}
	return slices.ContainsFunc(w.changed, func(i int) bool {
		l := links.byIndex(i)
		return l != nil && links.on(l, key.p.ifindex)
	})
}

// linkChanged follows the devices.
func (e *evidence) linkChanged(now time.Time, old, l *linkInfo) {
	if old.index != 0 && old.master != 0 && (l.removed || l.master != old.master) && !guestKind(old.kind) {
		e.stale = true
		e.wake(now.Add(lookInterval))
	}
	if old.index != 0 && !l.removed && old.mac != l.mac && guestKind(l.kind) {
		for key := range e.macs[old.mac] {
			if w := e.vsis[key]; !slices.Contains(w.changed, l.index) {
				add(e.changed, l.index, key)
				w.changed = append(w.changed, l.index)
			}
		}
	}
	if l.removed {
		for key := range e.changed[l.index] {
			w := e.vsis[key]
			w.changed = slices.DeleteFunc(w.changed, func(i int) bool { return i == l.index })
			e.update(now, key, w)
		}
		delete(e.changed, l.index)
	}
	macs := []vdp.MAC{old.mac, l.mac}
	for i, m := range macs {
		if i > 0 && m == macs[0] {
			continue
		}
		for key := range e.macs[m] {
			w := e.vsis[key]
			_, missed := e.missing[key]
			if l.removed && l.moved && !missed && !e.present(key, w) {
				// A container's device, for example: nobody tells how it fares there.
				e.setMoved(key, w, true)
			}
			e.update(now, key, w)
		}
	}
}

// guestKind tells devices that are a guest's from those on the way to the port.
func guestKind(kind string) bool {
	return slices.Contains([]string{"tun", "macvtap", "macvlan", "veth"}, kind)
}

// setMoved notes whether the device of a VSI is in another namespace, for the next run as well.
func (e *evidence) setMoved(key vsiKey, w *watched, moved bool) {
	if w.moved == moved {
		return
	}
	w.moved = moved
	if k, ok := key.p.kept[key.id]; ok {
		k.Moved = moved
		key.p.keep(k)
	}
}

// listed looks for all devices again, now that it is known which there are.
func (e *evidence) listed(now time.Time) {
	for _, w := range e.missing {
		if w.grace == restoredGrace { // until now, no device may have been known
			w.since = now
		}
	}
	e.recheck(now)
}

func (e *evidence) recheck(now time.Time) {
	e.stale = false
	for key, w := range e.vsis {
		e.update(now, key, w)
	}
}

// attached begins anew with the VSIs of a port that has got an interface: without one nothing
// can show a guest.
func (e *evidence) attached(now time.Time, p *port) {
	for id := range p.kept {
		if w := e.vsis[vsiKey{p, id}]; w != nil {
			w.since = now
			e.update(now, vsiKey{p, id}, w)
		}
	}
}

// nextLook is when judge has something to do; zero for never.
func (e *evidence) nextLook() time.Time {
	if e.looking || !e.d.links.whole {
		return time.Time{}
	}
	return e.next
}

// A look is at one VSI, beyond devices.
type look struct {
	key     vsiKey
	w       *watched
	since   time.Time
	macs    []vdp.MAC
	on      []string // interfaces with one of these addresses, or below such
	due     bool     // it ends unless there is evidence
	seen    bool
	unknown error
}

// A portLook is at the VSIs of one port.
type portLook struct {
	ifindex int
	names   []string   // the configured and the present one
	nics    []linkInfo // that may have VFs: the port, or a bond's slaves
	vsis    []look
}

// judge looks for evidence of the guests that have no device, when it is time to, and takes
// back the VSIs of those that are gone.
func (e *evidence) judge(ctx context.Context, now time.Time) {
	if at := e.nextLook(); at.IsZero() || now.Before(at) {
		return
	}
	e.next = time.Time{}
	if e.stale {
		e.recheck(now)
	}
	all := e.looks(now)
	if len(all) == 0 {
		return
	}
	e.looking = true
	go func() {
		for i := range all {
			e.sources.look(ctx, &all[i])
		}
		e.d.do(ctx, func(now time.Time) {
			e.looking = false
			e.judged(now, all)
		})
	}()
}

// looks returns what to look at.
func (e *evidence) looks(now time.Time) []portLook {
	byPort := make(map[*port]*portLook)
	for key, w := range e.missing {
		if !key.p.has(key.id) {
			e.end(key.p, key.id)
			continue
		}
		if e.present(key, w) { // what lies between has changed
			e.update(now, key, w)
			continue
		}
		if key.p.ifindex == 0 {
			continue
		}
		pl := byPort[key.p]
		if pl == nil {
			pl = &portLook{
				ifindex: key.p.ifindex, names: slices.Compact([]string{key.p.cfg.Name, key.p.device.name}),
				nics: e.d.links.nics(key.p.ifindex),
			}
			byPort[key.p] = pl
		}
		pl.vsis = append(pl.vsis, look{
			key: key, w: w, since: w.since, macs: w.macs, on: e.d.links.below(w.macs),
			due: w.absent && !now.Before(w.since.Add(w.grace)),
		})
	}
	var all []portLook
	for _, p := range e.d.ports { // in their order
		if pl := byPort[p]; pl != nil {
			all = append(all, *pl)
		}
	}
	return all
}

func (s *sources) look(ctx context.Context, pl *portLook) {
	for _, nic := range pl.nics {
		vfs, err := s.vfs(ctx, nic.index)
		for i := range pl.vsis {
			l := &pl.vsis[i]
			for _, m := range l.macs {
				l.note(slices.Contains(vfs, m), err)
			}
			for _, name := range l.on {
				l.note(s.vfOf(name, nic.name))
			}
		}
	}
	for i := range pl.vsis {
		l := &pl.vsis[i]
		if l.due && !l.seen {
			l.note(s.guest(pl.names, l.key.id))
		}
	}
}

// note takes note of what one look has shown.
func (l *look) note(seen bool, err error) {
	if l.seen = l.seen || seen; err != nil {
		l.unknown = err
	}
}

// judged draws the conclusions. What has changed since is looked at again.
func (e *evidence) judged(now time.Time, all []portLook) {
	for i := range all {
		for j := range all[i].vsis {
			l := &all[i].vsis[j]
			w := e.missing[l.key]
			if w != l.w || w.since != l.since || l.key.p.ifindex != all[i].ifindex || e.present(l.key, w) {
				continue
			}
			switch {
			case l.seen:
				w.absent, w.grace, w.warned = false, guestGrace, false
			case l.unknown != nil:
				if l.due && !w.warned {
					w.warned = true
					l.key.p.log.Warn("VSI kept: it is not known whether its guest runs", "vsi", l.key.id, "err", l.unknown)
				}
			case !w.absent:
				w.absent, w.since = true, now
			case l.due && e.d.links.whole && !errors.Is(l.key.p.ready(now), vdp.ErrNoEVB):
				e.takeBack(now, l.key, w) // without a switch that could be told, later
			}
		}
	}
	for key, w := range e.missing {
		if key.p.ifindex != 0 { // otherwise attached wakes
			e.wake(w.due(now))
		}
	}
}

// takeBack ends a VSI whose guest is gone.
func (e *evidence) takeBack(now time.Time, key vsiKey, w *watched) {
	p := key.p
	p.log.Warn("VSI taken back: its guest is gone, no device or VF has its MAC address",
		"vsi", key.id, "owner", p.owners[key.id], "mac", w.macs, "since", w.since.Format(time.TimeOnly))
	out, _, err := p.ask(now, vdp.DeAssociate, vdp.VSI{ID: key.id})
	if err != nil {
		p.log.Debug("VSI not taken back", "vsi", key.id, "err", err)
	}
	e.unwatch(key)
	e.d.apply(now, p, out)
}

// nextLook is when an interface is to be opened again, or guests to be looked for; zero for
// never.
func (d *Daemon) nextLook() time.Time {
	next := d.evidence.nextLook()
	for _, at := range d.reopenAt {
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return next
}
