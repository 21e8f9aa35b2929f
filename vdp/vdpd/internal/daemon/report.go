package daemon

import (
	"context"
	"fmt"
	"net"
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
				line = append(line, controlStatus(f.uplink, &f.vsis[i]))
			}
		}
	}
	return send(line, false)
}

type portVSIs struct {
	uplink string
	vsis   []vdp.VSIStatus
}

// someVSIs returns the VSIs of the ports from one on, until they are enough for
// a line, and whether there are further ports and from which one on.
func (d *Daemon) someVSIs(uplink string, from int) (found []portVSIs, next int, more bool) {
	for n := 0; from < len(d.ports) && n < listLine; from++ {
		if p := d.ports[from]; uplink == "" || p.cfg.Name == uplink {
			f := portVSIs{p.cfg.Name, p.vsis()}
			found = append(found, f)
			n += len(f.vsis)
		}
	}
	return found, from, from < len(d.ports)
}

// show describes a VSI, of one uplink unless that is empty.
func (d *Daemon) show(uplink string, id vdp.ID) (out []control.VSIStatus) {
	for _, p := range d.ports {
		if uplink != "" && p.cfg.Name != uplink {
			continue
		}
		if v, ok := p.vsi(id); ok {
			out = append(out, controlStatus(p.cfg.Name, &v))
		}
	}
	return out
}

func controlStatus(uplink string, v *vdp.VSIStatus) control.VSIStatus {
	s := control.VSIStatus{
		Uplink: uplink, VSI: control.FromVDP(&v.VSI), Mode: v.Mode.String(),
		State: v.State.String(), Error: control.NewError(v.Err),
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
		d.do(ctx, func(time.Time) {
			if more = i < len(d.ports); more {
				u = d.ports[i].status()
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

func (p *port) status() control.Uplink {
	u := control.Uplink{
		Name: p.cfg.Name, Ifindex: p.ifindex, Edition: p.edition.String(),
		Sent: p.sent, Received: p.received, LinkSince: p.upSince, Link: !p.upSince.IsZero(),
	}
	u.VSIs, u.Established = p.count()
	u.Error = control.NewError(p.ready())
	if p.st == nil {
		return u
	}
	t := p.st.Timers()
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	u.MAC, u.Edition = p.mac.String(), p.st.Edition().String()
	u.Timers = &control.Timers{ECPAck: ms(t.ECPAck), ECPRetries: t.ECPRetries, Answer: ms(t.Answer), Keepalive: ms(t.Keepalive)}
	if n, ok := p.st.Neighbor(); ok {
		u.Switch = &control.Switch{Source: n.Source.String(), Chassis: lldpID(n.Chassis, 4, 5), Port: lldpID(n.Port, 3, 4)}
		switch {
		case n.EVB != nil:
			u.Switch.ReflectiveRelay = n.EVB.RRControl
		case n.Draft != nil:
			u.Switch.ReflectiveRelay = n.Draft.Forwarding&vdp.ForwardReflective != 0
		}
	}
	return u
}

// lldpID writes an id of LLDP for people. The first octet is its subtype;
// which of them is a MAC address or a network address differs between
// chassis and port (802.1AB 8.5.2.2, 8.5.3.2).
func lldpID(id []byte, mac, network byte) string {
	if len(id) < 2 {
		return ""
	}
	typ, v := id[0], id[1:]
	switch {
	case typ == mac && len(v) == 6:
		return net.HardwareAddr(v).String()
	case typ == network && v[0] == 1 && len(v) == 5, typ == network && v[0] == 2 && len(v) == 17:
		return net.IP(v[1:]).String()
	}
	for _, c := range v {
		if c < ' ' || c > '~' {
			return fmt.Sprintf("%x", v)
		}
	}
	return string(v)
}

func controlEvent(p *port, e *vdp.Event) control.Event {
	out := control.Event{Time: time.Now(), Uplink: p.cfg.Name, Type: e.Type.String(), Error: control.NewError(e.Err)}
	if e.Type != vdp.EventNeighbor && e.Type != vdp.EventNeighborLost {
		v := control.FromVDP(&e.VSI)
		out.VSI, out.Mode = &v, e.Mode.String()
	}
	return out
}

// count returns how many VSIs there are, and how many of them are established.
func (p *port) count() (vsis, established int) {
	for _, v := range p.vsis() {
		vsis++
		if v.State == vdp.StateEstablished {
			established++
		}
	}
	return vsis, established
}
