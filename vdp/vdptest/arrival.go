package vdptest

import (
	"time"

	"libvirt-direct/vdp"
)

// arrive is the arrival of a frame at either end.
func (p *play) arrive(c Carried) {
	// What the station does then has to do with the frame.
	for p.st != nil && p.found == nil && !p.st.Next().IsZero() && !p.st.Next().After(p.now) {
		p.tick()
	}
	switch {
	case c.To == ToSwitch:
		if c.From == FromGuest {
			p.disturb(p.now)
		}
		out := p.br.Handle(p.now, c.Frame)
		p.supervise()
		p.fromSwitch(out)
	case p.st == nil:
	case c.From == FromSwitch:
		p.fromWire(c)
	case c.From == FromAgent:
		p.fromAgent(c)
	default:
		p.fromElsewhere(c)
	}
}

// fromWire is the arrival of a frame of the switch's.
func (p *play) fromWire(c Carried) {
	p.anticipated(c.Frame)
	var f vdp.Frame
	var l vdp.LLDPDU
	counts := f.UnmarshalBinary(c.Frame) == nil && f.EtherType == vdp.EtherTypeLLDP && l.UnmarshalBinary(f.Payload) == nil &&
		!p.evil.sent(p.now, c.Frame) && !p.now.Before(p.deaf)
	n, ok := p.st.Neighbor()
	out := p.handle(c)
	if p.now.Before(p.alive) && !p.now.Before(p.deaf) && !p.evil.sent(p.now, c.Frame) {
		p.checkAcknowledged(&f, out)
	}
	p.do(out)
	switch {
	case !counts, ok && !p.isSwitch(&n):
	case l.TTL == 0, l.EVB == nil && l.Draft == nil:
		p.alive = time.Time{}
		p.disturb(p.now)
	default:
		p.alive = p.now.Add(min(time.Duration(l.TTL)*time.Second, maxTTL))
		if n, ok := p.st.Neighbor(); !ok || !p.isSwitch(&n) {
			p.violated("the first agent with EVB is the neighbour", "neighbour %v", n)
		}
	}
}

// checkAcknowledged: each ECPDU of the switch is, repetitions included.
func (p *play) checkAcknowledged(f *vdp.Frame, out vdp.Output) {
	e, err := ecpdu(f)
	if err != nil || e.Ack || e.Edition != p.st.Edition() {
		return
	}
	for _, frame := range out.Frames {
		var a vdp.Frame
		if a.UnmarshalBinary(frame) == nil {
			if b, err := ecpdu(&a); err == nil && b.Ack && b.Sequence == e.Sequence {
				return
			}
		}
	}
	p.violated("each ECPDU is acknowledged", "%d is not", e.Sequence)
}

// anticipated takes note of a frame that a guest sent before its sender on the wire did.
// The station has to take it for an echo.
func (p *play) anticipated(frame []byte) {
	if !p.evil.sent(p.now, frame) {
		return
	}
	p.disturb(p.now)
	p.alive = time.Time{} // whether it counts depends on how long ago that was
	if p.taken.IsZero() {
		p.taken = p.now
	}
}

// fromAgent is the arrival of a frame of another agent, or of a second switch, from the
// wire. It has its say only while the switch is not the neighbour.
func (p *play) fromAgent(c Carried) {
	p.anticipated(c.Frame)
	var f vdp.Frame
	var l vdp.LLDPDU
	if f.UnmarshalBinary(c.Frame) == nil && f.EtherType == vdp.EtherTypeLLDP && l.UnmarshalBinary(f.Payload) == nil {
		p.others = latest(p.others, p.now.Add(min(time.Duration(l.TTL)*time.Second, maxTTL)+time.Second))
	}
	if !p.now.Before(p.alive) {
		p.do(p.handle(c))
		return
	}
	before := p.view()
	out := p.handle(c)
	for _, e := range out.Events {
		if e.Type != vdp.EventConflict && e.Type != vdp.EventForeign {
			p.violated("another agent has no say", "event %v by %s", e.Type, described(c.Frame))
		}
	}
	if len(out.Frames) > 0 {
		p.violated("another agent has no say", "%s is answered with %s", described(c.Frame), described(out.Frames[0]))
	}
	after := p.view()
	after.conflicts = before.conflicts
	if !before.equal(&after) {
		p.violated("another agent has no say", "%s changes\n%s to\n%s", described(c.Frame), before, after)
	}
	p.do(out)
}

// fromElsewhere is the arrival of a frame that is not from the wire.
func (p *play) fromElsewhere(c Carried) {
	const invariant = "what cannot come from the wire changes nothing"
	before := p.view()
	out := p.handle(c)
	if len(out.Frames) > 0 {
		p.violated(invariant, "%s of the %v is answered with %s", described(c.Frame), c.From, described(out.Frames[0]))
	}
	for _, e := range out.Events {
		p.violated(invariant, "event %v by %s of the %v", e.Type, described(c.Frame), c.From)
	}
	if after := p.view(); !before.equal(&after) {
		p.violated(invariant, "%s of the %v changes\n%s to\n%s", described(c.Frame), c.From, before, after)
	}
	p.do(out)
}

func (p *play) handle(c Carried) vdp.Output {
	out, err := p.st.Handle(p.now, c.Frame)
	if c.From != FromSwitch || err != nil {
		p.tell("station gets %s of the %v: %v", described(c.Frame), c.From, err)
	}
	return out
}
