package vdptest

import (
	"time"

	"libvirt-direct/vdp"
)

// agreed is what both sides use, if both keep to the limits.
func (p *play) agreed() vdp.EVBConfig {
	own, sw := p.ownEVB(), p.br.EVB
	use := func(own, other, limit uint8) uint8 { return max(own, min(other, limit)) }
	return vdp.EVBConfig{
		Retries: use(own.Retries, sw.Retries, capRetries), RTE: use(own.RTE, sw.RTE, capRTE),
		RWD: use(own.RWD, sw.RWD, capRWD), RKA: use(own.RKA, sw.RKA, capRKA),
	}
}

func (p *play) ownEVB() vdp.EVBConfig {
	e := p.cfg.EVB
	if e.Retries == 0 && e.RTE == 0 && e.RWD == 0 && e.RKA == 0 {
		e.Retries, e.RTE, e.RWD, e.RKA = 3, 8, 20, 20
	}
	return e
}

func exponent(e uint8) time.Duration { return 10 * time.Microsecond << e }

// ack is the wait for one acknowledgement at the switch, which is the shorter one.
func (p *play) ack() time.Duration {
	if p.br.Edition == vdp.EditionDraft {
		return 500 * time.Millisecond
	}
	return exponent(min(p.br.EVB.RTE, maxRTE))
}

// longest is more than any wait of a station that keeps to the limits.
const longest = 150 * time.Second

// manager lets the switch's manager take its time, but no more than it is allowed.
func (p *play) manager(d time.Duration) {
	limit := 2 * time.Second
	if p.br.Edition == vdp.Edition2012 {
		limit = exponent(p.agreed().RWD) * 9 / 10
	}
	p.br.Manager = min(d, limit)
}

// keepalive and answerTime are the station's timers, by what both sides agree on.
func (p *play) keepalive() time.Duration {
	if p.br.Edition == vdp.EditionDraft {
		return 10 * time.Second
	}
	return exponent(p.agreed().RKA)
}

func (p *play) answerTime() time.Duration {
	if p.br.Edition == vdp.EditionDraft {
		return 3 * time.Second
	}
	e := p.agreed()
	return (time.Duration(1+2*int(e.Retries))*exponent(e.RTE) + exponent(e.RWD)) * 3 / 2
}

// ecpTime is how long one ECPDU can be under way.
func (p *play) ecpTime() time.Duration {
	if p.br.Edition == vdp.EditionDraft {
		return 1500 * time.Millisecond
	}
	e := p.agreed()
	return time.Duration(1+int(e.Retries)) * exponent(e.RTE)
}

// supervision is how long the switch keeps a VSI without a keepalive.
func (p *play) supervision() time.Duration {
	if p.br.Edition == vdp.EditionDraft {
		return 15 * time.Second
	}
	e := p.agreed()
	return (time.Duration(1+2*int(e.Retries))*exponent(e.RTE)+exponent(e.RKA))*3/2 + 2*time.Second
}

// bound is how long the switch may take to follow the owner, from the end of the last
// trouble on: the switch's next LLDPDU and the station's, what is under way, a
// keepalive, the longest pause between two requests, and the manager's time.
func (p *play) bound() time.Duration {
	return 12*time.Second + 2*p.answerTime() + p.keepalive()*17/16 + 31*time.Second + 3*p.ecpTime() + 2*p.br.Manager
}

// release is how long the switch may hold a VSI that nobody wants any more.
func (p *play) release() time.Duration {
	return p.own.supervision + p.br.Manager + p.answerTime() + 3*p.ecpTime() + 2*time.Second
}

// change changes what the timers follow from. What is under way may last as long as it
// was to.
func (p *play) change(f func()) {
	before := max(p.bound(), p.release())
	f()
	p.wire.Delay = min(p.wire.Delay, p.ack()/4)
	p.wire.Jitter = min(p.wire.Jitter, p.wire.Delay*4)
	p.supervise()
	p.manager(p.br.Manager)
	p.terms = p.now.Add(before)
	p.disturb(p.now.Add(max(10*time.Second, p.answerTime())))
}

// supervise tells the switch which keepalives it may expect.
func (p *play) supervise() {
	d := p.supervision()
	if s := p.br.Station(); s != nil && s.EVB != nil && p.br.Edition == vdp.Edition2012 {
		// The station has not followed yet. Or it was a guest.
		e := vdp.EVB{Retries: s.EVB.Retries, RTE: min(s.EVB.RTE, capRTE), RKA: min(s.EVB.RKA, capRKA)}
		d = max(d, (time.Duration(1+2*int(e.Retries))*exponent(e.RTE)+exponent(e.RKA))*3/2+2*time.Second)
	}
	if d != p.br.Supervision {
		p.br.Supervise(p.now, d)
		p.own.supervision = max(p.own.supervision, d)
	}
}
