package vdptest

import (
	"errors"
	"time"

	"libvirt-direct/vdp"
)

// An epilogue is what must succeed soon after a time without trouble, whatever was
// before.
type epilogue struct {
	*play
	held    []*slot // what is wanted, and granted
	refused *slot   // what was not wanted before, and was refused
}

func (p *play) epilogue() {
	p.tell("epilogue")
	e := &epilogue{play: p}
	for _, chapter := range []func(){
		e.ask, e.busy, e.takenBack, e.deafened, e.daemonRestarts, e.switchRestarts, e.usualTimers, e.end,
	} {
		if chapter(); p.found != nil {
			return
		}
	}
}

// soon is the time for one request and its answer.
func (p *play) soon() time.Duration { return time.Second + 2*p.br.Manager + 20*p.wire.Delay }

func (e *epilogue) established(invariant string) {
	for _, s := range e.held {
		if e.found == nil && !s.established(e.play) {
			st, _ := e.st.VSI(s.id)
			e.violated(invariant, "%d: station %v %v %v, switch %v", s.id.Octets[15], st.State, st.Have, st.Err, e.br.Mode(s.id))
		}
	}
}

// ask has the owner ask for all that it does not have. One is refused.
func (e *epilogue) ask() {
	for i := range e.own.slots {
		s := &e.own.slots[i]
		switch {
		case s.want != 0:
			if s.takes(e.play) {
				e.held = append(e.held, s)
			}
		case e.refused == nil:
			s.reply = Reply{Status: vdp.ReasonNoResources}
			if e.tape.Head[12]&1 != 0 && e.br.Edition == vdp.Edition2012 {
				s.reply = Reply{DeAssociate: true}
			}
			if s.ask(e.play, 1) {
				e.refused = s
			}
		default:
			s.reply = Reply{}
			if s.ask(e.play, 0) {
				e.held = append(e.held, s)
			}
		}
	}
	e.later(e.soon())
	e.established("what is wanted is associated at once")
	var refused *vdp.RefusedError
	if s := e.refused; s != nil && !errors.As(s.failed, &refused) && !errors.Is(s.failed, vdp.ErrBridgeDeassociated) {
		e.violated("a refusal is told at once", "%d: %v", s.id.Octets[15], s.failed)
	}
}

// busy has the switch be busy for as long as ECP tries to give it a request.
func (e *epilogue) busy() {
	s := e.refused
	if s == nil || e.ecpTime() >= 2*time.Second {
		return
	}
	e.tell("epilogue: the switch is busy")
	s.reply, e.br.NoAck = Reply{}, true
	if s.ask(e.play, 2) {
		e.held = append(e.held, s)
	}
	e.later(e.ecpTime() + time.Millisecond)
	e.br.NoAck = false
	e.later(e.soon() + 100*time.Millisecond)
	e.established("a busy switch is asked again soon")
}

// takenBack has a guest de-associate a VSI in the host's name, which the switch believes.
func (e *epilogue) takenBack() {
	if len(e.held) == 0 || e.held[0].want != vdp.Associate {
		return
	}
	e.tell("epilogue: a guest de-associates %d", e.held[0].id.Octets[15])
	e.disturb(e.now)
	e.fromSwitch(e.br.Handle(e.now, e.deassociation(e.held[0].vsi)))
	e.later(e.soon())
	e.established("what is taken back in the host's name is asked for at once")
}

func (e *epilogue) deassociation(v vdp.VSI) []byte {
	p := vdp.ECPDU{Edition: e.br.Edition, Sequence: e.evil.seq[ToSwitch] + 1000}
	f := vdp.Frame{Src: stationMAC, Dst: vdp.NearestBridge, EtherType: vdp.EtherTypeECPDraft}
	if p.Edition == vdp.Edition2012 {
		p.Subtype, f.Dst, f.EtherType = vdp.ECPSubtypeVDP, vdp.NearestCustomerBridge, vdp.EtherTypeECP
	}
	p.Payload = must(vdp.MarshalMessages(p.Edition, []vdp.Message{{Mode: vdp.DeAssociate, VSI: v}}))
	f.Payload = must(p.MarshalBinary())
	return must(f.MarshalBinary())
}

// deafened has a guest send so much that the station hears nothing, but the switch does.
func (e *epilogue) deafened() {
	if e.tape.Head[14]&3 != 0 {
		return // it takes long
	}
	e.tell("epilogue: the station is deaf")
	for range 20 {
		e.st.Missed(e.now)
		e.deaf = e.now.Add(deafTime)
		e.disturb(e.deaf)
		e.later(4 * time.Second)
		for _, s := range e.held {
			if e.found == nil && e.br.Mode(s.id) != s.want {
				e.violated("a deaf station keeps its VSIs", "the switch has %v of %d", e.br.Mode(s.id), s.id.Octets[15])
			}
		}
	}
	e.later(deafTime + e.bound())
	e.established("a station that was deaf hears again")
}

// daemonRestarts restarts the daemon, which does not need the switch's LLDPDU.
func (e *epilogue) daemonRestarts() {
	const down = 10 * time.Millisecond
	e.stop(down)
	e.later(down + openTime + 3*time.Second + e.soon()) // a request while it is deaf has no answer
	e.established("a restarted daemon goes on at once")
}

// switchRestarts restarts the switch. Its LLDPDU shows that, because there was a gap, or
// because it does not know the station's any more.
func (e *epilogue) switchRestarts() {
	e.tell("epilogue: the switch restarts")
	shown := e.br.Edition == vdp.Edition2012 && e.cfg.EVB.ReflectiveRelay
	if e.tape.Head[12]&2 != 0 || !shown {
		e.alive = time.Time{}
		e.fromSwitch([][]byte{e.br.Goodbye()})
		e.br.NoEVB = true
		e.later(time.Second)
		e.br.NoEVB = false
	}
	e.br.Restart()
	e.disturb(e.now)
	e.last = true
	e.later(2*time.Second + e.soon())
	e.established("a switch that has restarted is asked at once")
}

// usualTimers has the switch announce the usual timers, and wait by them.
func (e *epilogue) usualTimers() {
	e.tell("epilogue: the switch wants the usual timers")
	e.change(func() { e.br.EVB.Retries, e.br.EVB.RTE, e.br.EVB.RWD, e.br.EVB.RKA = 3, 8, 20, 20 })
	e.later(40 * time.Second)
	e.established("keepalives follow the switch")
}

// end has the owner want nothing any more.
func (e *epilogue) end() {
	for i := range e.own.slots {
		e.own.slots[i].end(e.play)
	}
	e.later(e.soon())
	if n := len(e.st.VSIs()); n > 0 {
		e.violated("what nobody wants is gone at once", "the station holds %d VSIs", n)
	}
	for i := range e.own.slots {
		if s := &e.own.slots[i]; e.br.Mode(s.id) != 0 {
			e.violated("what nobody wants is gone at once", "the switch holds %d", s.id.Octets[15])
		}
	}
}
