package vdptest

import (
	"errors"
	"time"

	"libvirt-direct/vdp"
)

// soon is the time for one request and its answer while all is well.
func (p *play) soon() time.Duration { return time.Second + 2*p.br.Manager + 20*p.wire.Delay }

// epilogue is what must succeed soon after a time without trouble, whatever was before:
// to ask, to be refused, to be asked again by a switch that has forgotten, to follow its
// timers, and to end.
func (p *play) epilogue() {
	p.tell("epilogue")
	var held []*slot
	var refusal *slot
	for i := range p.own.slots {
		s := &p.own.slots[i]
		switch {
		case s.want != 0:
			if s.takes() {
				held = append(held, s)
			}
		case refusal == nil:
			s.reply = Reply{Status: vdp.ReasonNoResources}
			if p.tape.Head[12]&1 != 0 && p.br.Edition == vdp.Edition2012 {
				s.reply = Reply{DeAssociate: true}
			}
			if s.ask(p, 1) {
				refusal = s
			}
		default:
			s.reply = Reply{}
			if s.ask(p, 0) {
				held = append(held, s)
			}
		}
	}
	if p.later(p.soon()); p.found != nil {
		return
	}
	var refused *vdp.RefusedError
	if refusal != nil && !errors.As(refusal.failed, &refused) && !errors.Is(refusal.failed, vdp.ErrBridgeDeassociated) {
		p.violated("a refusal is told at once", "%d: %v", refusal.id.Octets[15], refusal.failed)
	}
	p.established(held, "what is wanted is associated at once")

	// It is busy for as long as ECP tries.
	if refusal != nil && refusal.want == 0 && p.ecpTime() < 2*time.Second {
		p.tell("epilogue: the switch is busy")
		refusal.reply, p.br.NoAck = Reply{}, true
		if refusal.ask(p, 2) {
			held = append(held, refusal)
		}
		p.later(p.ecpTime() + time.Millisecond)
		p.br.NoAck = false
		p.later(p.soon() + 100*time.Millisecond)
		p.established(held, "a busy switch is asked again soon")
	}

	// The switch restarts, and its LLDPDU shows it: with a gap, or because it does not
	// know the station's any more.
	p.tell("epilogue: the switch restarts")
	shown := p.br.Edition == vdp.Edition2012 && p.cfg.EVB.ReflectiveRelay
	if p.tape.Head[12]&2 != 0 || !shown {
		p.alive = time.Time{}
		p.fromSwitch([][]byte{p.br.Goodbye()})
		p.br.NoEVB = true
		p.later(time.Second)
		p.br.NoEVB = false
	}
	p.br.Restart()
	p.disturb(p.now)
	p.last = true
	if p.later(2*time.Second + p.soon()); p.found != nil {
		return
	}
	p.established(held, "a switch that has restarted is asked at once")

	// It wants to hear from the VSIs more often.
	p.tell("epilogue: the switch wants the usual timers")
	p.change(func() { p.br.EVB.Retries, p.br.EVB.RTE, p.br.EVB.RWD, p.br.EVB.RKA = 3, 8, 20, 20 })
	if p.later(40 * time.Second); p.found != nil {
		return
	}
	p.established(held, "keepalives follow the switch")

	for i := range p.own.slots {
		p.own.slots[i].end(p)
	}
	p.later(p.soon())
	if n := len(p.st.VSIs()); n > 0 && p.found == nil {
		p.violated("what nobody wants is gone at once", "the station holds %d VSIs", n)
	}
	for i := range p.own.slots {
		if s := &p.own.slots[i]; p.br.Mode(s.id) != 0 {
			p.violated("what nobody wants is gone at once", "the switch holds %d", s.id.Octets[15])
		}
	}
}

func (p *play) later(d time.Duration) { p.run(p.now.Add(d)) }

func (p *play) established(slots []*slot, invariant string) {
	for _, s := range slots {
		if !s.established(p) {
			st, _ := p.st.VSI(s.id)
			p.violated(invariant, "%d: station %v %v %v, switch %v", s.id.Octets[15], st.State, st.Have, st.Err, p.br.Mode(s.id))
		}
	}
}
