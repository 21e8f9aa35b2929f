package daemon

import (
	"fmt"
	"net"
	"time"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
)

// list describes VSIs, of one uplink and with one id unless these are empty.
func (d *Daemon) list(uplink, id string) []control.VSIStatus {
	var out []control.VSIStatus
	named := d.named(uplink)
	for _, p := range d.ports {
		if uplink != "" && p != named {
			continue
		}
		for _, v := range p.vsis() {
			s := control.VSIStatus{
				Uplink: p.cfg.Name, VSI: control.FromVDP(&v.VSI), Mode: v.Mode.String(),
				State: v.State.String(), Error: control.NewError(v.Err), Owner: p.owners[v.VSI.ID],
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

func (d *Daemon) status() []control.Uplink {
	out := make([]control.Uplink, 0, len(d.ports))
	for _, p := range d.ports {
		out = append(out, p.status())
	}
	return out
}

func (p *port) status() control.Uplink {
	u := control.Uplink{
		Name: p.cfg.Name, Ifindex: p.ifindex, Edition: p.edition.String(),
		Device: p.device.name, Sent: p.sent, Received: p.received, LinkSince: p.upSince, Link: !p.upSince.IsZero(),
	}
	for _, v := range p.vsis() {
		u.VSIs++
		if v.State == vdp.StateEstablished {
			u.Established++
		}
	}
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
