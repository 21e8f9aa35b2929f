package daemon

import (
	"context"
	"time"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
)

// listLine is how many VSIs one line of a list has at most.
const listLine = 1024

// list sends the VSIs of an uplink, or of all if it is empty, line by line. It
// looks at some ports at a time, so that other work gets its turn.
func (d *Daemon) list(ctx context.Context, uplink string, send func(vsis []control.VSIStatus, more bool) error) error {
	line := make([]control.VSIStatus, 0, listLine)
	for next, more := 0, true; more; {
		var found []portVSIs
		d.do(ctx, func(time.Time) { found, next, more = d.someVSIs(uplink, next) })
		if ctx.Err() != nil { // the closure may run yet
			return ctx.Err()
		}
		for _, f := range found {
			for i := range f.vsis {
				if len(line) == listLine {
					if err := send(line, true); err != nil {
						return err
					}
					line = line[:0]
				}
				line = append(line, controlStatus(f.uplink, &f.vsis[i], f.owners[i]))
			}
		}
	}
	return send(line, false)
}

type portVSIs struct {
	uplink string
	vsis   []vdp.VSIStatus
	owners []control.Owner // of these
}

// someVSIs returns the VSIs of the ports from one on, until they are enough for
// a line, and whether there are further ports and from which one on.
func (d *Daemon) someVSIs(uplink string, from int) (found []portVSIs, next int, more bool) {
	named := d.named(uplink)
	for n := 0; from < len(d.ports) && n < listLine; from++ {
		if p := d.ports[from]; uplink == "" || p == named {
			f := portVSIs{uplink: p.cfg.Name, vsis: p.vsis()}
			f.owners = make([]control.Owner, len(f.vsis))
			for i := range f.vsis {
				f.owners[i] = p.owners[f.vsis[i].VSI.ID]
			}
			found = append(found, f)
			n += len(f.vsis)
		}
	}
	return found, from, from < len(d.ports)
}

// show describes a VSI, of one uplink unless that is empty.
func (d *Daemon) show(uplink string, id vdp.ID) (out []control.VSIStatus) {
	named := d.named(uplink)
	for _, p := range d.ports {
		if uplink != "" && p != named {
			continue
		}
		if v, ok := p.vsi(id); ok {
			out = append(out, controlStatus(p.cfg.Name, &v, p.owners[id]))
		}
	}
	return out
}

func controlStatus(uplink string, v *vdp.VSIStatus, owner control.Owner) control.VSIStatus {
	s := control.VSIStatus{
		Uplink: uplink, VSI: control.FromVDP(&v.VSI), Mode: v.Mode.String(),
		State: v.State.String(), Owner: owner, Error: control.NewError(v.Err),
	}
	if v.Have != 0 {
		s.Have = v.Have.String()
	}
	return s
}

// vsis returns what the station has. Without an interface there is no station
// yet, but what it will be asked to restore.
func (p *port) vsis() []vdp.VSIStatus {
	if p.st != nil {
		return p.st.VSIs()
	}
	var out []vdp.VSIStatus
	for _, k := range p.sorted() {
		out = append(out, k.status())
	}
	return out
}

// vsi is vsis for one VSI.
func (p *port) vsi(id vdp.ID) (vdp.VSIStatus, bool) {
	if p.st != nil {
		return p.st.VSI(id)
	}
	k, ok := p.kept[id]
	return k.status(), ok
}

func (k *kept) status() vdp.VSIStatus {
	return vdp.VSIStatus{VSI: k.VSI, Mode: k.Mode, State: vdp.StateLost, Err: control.ErrNoInterface}
}

// status describes the uplinks, one after the other.
func (d *Daemon) status(ctx context.Context) ([]control.Uplink, error) {
	var out []control.Uplink
	for i, more := 0, true; more; i++ {
		var u control.Uplink
		d.do(ctx, func(now time.Time) {
			if more = i < len(d.ports); more {
				u = d.ports[i].status(now)
			}
		})
		if ctx.Err() != nil { // the closure may run yet
			return nil, ctx.Err()
		}
		if more {
			out = append(out, u)
		}
	}
	return out, nil
}

func (p *port) status(now time.Time) control.Uplink {
	u := control.Uplink{
		Name: p.cfg.Name, Ifindex: p.ifindex, Edition: p.edition.String(),
		Device: p.device.name, Sent: p.sent, Received: p.received, LinkSince: p.upSince, Link: !p.upSince.IsZero(),
		Pins: p.cfg.Neighbor, Echoes: p.echoes,
	}
	u.VSIs, u.Established = p.count()
	u.Error = control.NewError(p.ready(now))
	if p.st == nil {
		return u
	}
	t := p.st.Timers()
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	u.MAC, u.Edition = p.mac.String(), p.st.Edition().String()
	u.Timers = &control.Timers{ECPAck: ms(t.ECPAck), ECPRetries: t.ECPRetries, Answer: ms(t.Answer), Keepalive: ms(t.Keepalive)}
	if peer, used := p.st.Exponents(); peer != nil {
		u.Timers.Peer, u.Timers.Used = exponents(peer), exponents(&used)
	}
	if n, ok := p.st.Neighbor(); ok {
		u.Switch = &control.Switch{Source: n.Source.String(), Chassis: n.ChassisID(), Port: n.PortID()}
		switch {
		case n.EVB != nil:
			u.Switch.ReflectiveRelay = n.EVB.RRControl
		case n.Draft != nil:
			u.Switch.ReflectiveRelay = n.Draft.Forwarding&vdp.ForwardReflective != 0
		}
	}
	for _, o := range p.st.Conflicts() {
		if now.Before(o.Until) {
			u.Others = append(u.Others, control.Agent{
				Source: o.Source.String(), Group: o.Group.String(), Chassis: o.ChassisID(), Port: o.PortID(), Since: o.Since,
			})
		}
	}
	return u
}

func exponents(e *vdp.EVBConfig) *control.Exponents {
	return &control.Exponents{Retries: e.Retries, RTE: e.RTE, RWD: e.RWD, RKA: e.RKA}
}

func controlEvent(p *port, e *vdp.Event) control.Event {
	out := control.Event{Time: time.Now(), Uplink: p.cfg.Name, Type: e.Type.String(), Error: control.NewError(e.Err)}
	if e.Source != (vdp.MAC{}) {
		out.Source = e.Source.String()
	}
	if e.AboutVSI() {
		v := control.FromVDP(&e.VSI)
		out.VSI, out.Mode = &v, e.Mode.String()
	}
	return out
}

// count returns how many VSIs there are, and how many of them are established.
func (p *port) count() (vsis, established int) {
	if p.st == nil {
		return len(p.kept), 0
	}
	return p.st.Count()
}
