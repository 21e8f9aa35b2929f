package vdptest

import (
	"math/rand/v2"
	"time"

	"libvirt-direct/vdp"
)

// disturb says that until then the switch may not follow.
func (p *play) disturb(until time.Time) {
	if until.After(p.disturbed) {
		p.disturbed = until
	}
}

// flap takes the carrier, or gives it back.
func (p *play) flap(up bool) {
	p.tell("link up: %v", up)
	p.link = up
	p.disturb(p.now)
	if !up {
		p.wire.Cut() // what is under way is lost
		p.alive = time.Time{}
	}
	switch {
	case p.st == nil:
	case up:
		p.do(p.st.LinkUp(p.now))
	default:
		p.do(p.st.LinkDown(p.now))
		p.checkDown()
	}
}

// wireRough makes the wire lose, double and reorder, for a while.
func (p *play) wireRough(d time.Duration, lost, twice int) {
	p.rough = time.Time{}
	p.wire.Lost, p.wire.Twice, p.wire.Jitter = lost, twice, p.wire.Delay/2
	p.disturb(p.now)
	if d > 0 {
		p.tell("the wire loses %d and doubles %d of 256 frames, for %v", lost, twice, d)
		p.rough = p.now.Add(d)
		p.wire.Jitter = p.wire.Delay * 4
		p.disturb(p.rough)
	}
}

// silence makes the switch keep quiet, for a while.
func (p *play) silence(d time.Duration, evb, ack, answer bool) {
	p.tell("the switch keeps quiet for %v: LLDP %v, acknowledgements %v, answers %v", d, evb, ack, answer)
	p.br.NoEVB, p.br.NoAck, p.br.NoAnswer = evb, ack, answer
	p.quiet = p.now.Add(d)
	p.disturb(p.quiet)
}

// speak ends it.
func (p *play) speak() {
	p.br.NoEVB, p.br.NoAck, p.br.NoAnswer = false, false, false
	p.quiet = time.Time{}
	p.disturb(p.now)
}

// step does what the tape says.
func (p *play) step(s Step) {
	r := s.random()
	switch k := s[1]; {
	case k < 8: // nothing
	case k < 80:
		p.own.command(p, r)
	case k < 152:
		p.guest(r)
	case k < 172:
		p.stranger(r)
	case k < 188:
		p.agent(r)
	case k < 196:
		p.wireRough(time.Duration(r.IntN(8000))*time.Millisecond, r.IntN(160), r.IntN(128))
	case k < 202:
		if p.link {
			p.flap(false)
			p.run(p.now.Add(time.Duration(r.IntN(3000)) * time.Millisecond))
			if p.found == nil {
				p.flap(true)
			}
		}
	case k < 210:
		if p.st != nil {
			p.stop(time.Duration(r.IntN(3000)) * time.Millisecond)
		}
	case k < 214:
		if p.st != nil {
			p.tell("outgoing frames were missed")
			p.st.Missed(p.now)
			p.deaf = p.now.Add(deafTime)
			p.disturb(p.deaf)
		}
	default:
		p.switchStep(r)
	}
	p.check()
	p.checkSizes()
}

// switchStep is something that switches do.
func (p *play) switchStep(r *rand.Rand) {
	switch r.IntN(9) {
	case 0:
		p.br.Restart()
		if r.IntN(3) == 0 && p.cfg.Edition == vdp.EditionAuto {
			p.change(func() { p.br.Edition = vdp.EditionDraft + vdp.Edition2012 - p.br.Edition })
		}
		p.tell("the switch restarts, edition %v", p.br.Edition)
		p.disturb(p.now)
		if r.IntN(2) == 0 {
			p.silence(time.Duration(r.IntN(200))*time.Second, true, true, true)
		}
	case 1:
		p.disturb(p.now)
		p.silence(time.Duration(r.IntN(60))*time.Second, true, false, false)
		p.fromSwitch([][]byte{p.br.Goodbye()})
	case 2:
		p.disturb(p.now)
		p.silence(time.Duration(r.IntN(60))*time.Second, true, r.IntN(2) == 0, r.IntN(2) == 0)
		p.fromSwitch([][]byte{p.br.Plain()})
	case 3:
		p.silence(time.Duration(r.IntN(30))*time.Second, r.IntN(2) == 0, r.IntN(2) == 0, r.IntN(2) == 0)
	case 4:
		s := &p.own.slots[r.IntN(len(p.own.slots))]
		if p.br.Mode(s.id) != 0 {
			p.tell("the switch de-associates %d", s.id.Octets[15])
			s.since = p.now
			p.fromSwitch(p.br.DeAssociate(p.now, s.id))
		}
	case 5, 6:
		p.own.policy(p, r)
	case 7:
		p.change(func() {
			e := &p.br.EVB
			e.Retries, e.RTE = uint8(r.IntN(8)), uint8(8+r.IntN(12))
			e.RWD, e.RKA = uint8(18+r.IntN(6)), uint8(18+r.IntN(8))
			if r.IntN(4) == 0 {
				e.RTE, e.RWD, e.RKA = 31, 31, 31
			}
		})
		p.tell("the switch announces %v", p.br.EVB)
	case 8:
		p.change(func() { p.manager(time.Duration(r.IntN(9500)) * time.Millisecond) })
		p.tell("the switch's manager takes %v", p.br.Manager)
		p.disturb(p.now)
	}
}
