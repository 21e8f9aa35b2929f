package daemon

import (
	"time"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
)

// list describes VSIs, of one uplink and with one id unless these are empty.
func (d *Daemon) list(uplink, id string) []control.VSIStatus {
	var out []control.VSIStatus
	for _, p := range d.ports {
		if uplink != "" && p.cfg.Name != uplink {
			continue
		}
		for _, v := range p.vsis() {
			s := control.VSIStatus{
				Uplink: p.cfg.Name, VSI: control.FromVDP(&v.VSI), Mode: v.Mode.String(),
				State: v.State.String(), Error: control.NewError(v.Err),
			}
			if v.Have != 0 {
				s.Have = v.Have.String()
			}
			if wanted, err := vdp.ParseUUID(id); id == "" || err == nil && wanted == v.VSI.ID {
				out = append(out, s)
			}
		}
	}
	return out
}

// vsis returns what the station has. Without an interface there is no station
// yet, but what it will be asked to restore.
func (p *port) vsis() []vdp.VSIStatus {
	if p.st != nil {
		return p.st.VSIs()
	}
	var out []vdp.VSIStatus
	for _, k := range p.sorted() {
		out = append(out, vdp.VSIStatus{VSI: k.VSI, Mode: k.Mode, State: vdp.StateLost, Err: control.ErrNoInterface})
	}
	return out
}

func (d *Daemon) status(now time.Time) []control.Uplink {
	out := make([]control.Uplink, 0, len(d.ports))
	for _, p := range d.ports {
		out = append(out, p.status(now))
	}
	return out
}

func (p *port) status(now time.Time) control.Uplink {
	u := control.Uplink{
		Name: p.cfg.Name, Ifindex: p.ifindex, Edition: p.edition.String(),
		Sent: p.sent, Received: p.received, LinkSince: p.upSince, Link: !p.upSince.IsZero(),
		Pins: p.cfg.Neighbor, Echoes: p.echoes,
	}
	for _, v := range p.vsis() {
		u.VSIs++
		if v.State == vdp.StateEstablished {
			u.Established++
		}
	}
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
	n, ok := p.st.Neighbor()
	if ok {
		u.Switch = &control.Switch{Source: n.Source.String(), Chassis: n.ChassisID(), Port: n.PortID()}
		switch {
		case n.EVB != nil:
			u.Switch.ReflectiveRelay = n.EVB.RRControl
		case n.Draft != nil:
			u.Switch.ReflectiveRelay = n.Draft.Forwarding&vdp.ForwardReflective != 0
		}
	}
	for _, o := range p.st.Conflicts() {
		// The switch's port can have an agent for each group address.
		if same := o.ChassisID() == n.ChassisID() && o.PortID() == n.PortID(); !same && now.Before(o.Until) {
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
