package vdptest

import (
	"fmt"
	"slices"
	"time"

	"libvirt-direct/vdp"
)

func (p *play) tell(format string, args ...any) {
	if p.trace != nil {
		p.trace(fmt.Sprintf("%12.6f ", p.now.Sub(epoch).Seconds()) + fmt.Sprintf(format, args...))
	}
}

func (p *play) violated(invariant, format string, args ...any) {
	if p.found == nil {
		p.found = &Violation{invariant, p.now.Sub(epoch), fmt.Sprintf(format, args...)}
		p.tell("VIOLATION %v", p.found)
	}
}

const checkEvery = 200 * time.Millisecond

// check checks what holds at any time.
func (p *play) check() {
	if p.st == nil || p.found != nil {
		return
	}
	n, ok := p.st.Neighbor()
	if p.now.Before(p.alive) && (!ok || !p.isSwitch(&n)) {
		p.violated("the neighbour stays until its TTL", "neighbour %v %s, but the switch is alive for %v", ok, neighbor(&n), p.alive.Sub(p.now))
	}
	if ok && !p.isSwitch(&n) || !p.quiet.IsZero() || !p.link {
		p.disturb(p.now)
	}
	if ok && !p.isSwitch(&n) || p.st.Edition() != p.br.Edition {
		p.terms = latest(p.terms, p.now.Add(longest))
	}
	if ok && slices.ContainsFunc(p.cfg.Pins, func(pin vdp.Pin) bool {
		return pin.Kind == vdp.PinMAC && n.Source != pin.MAC || pin.Kind == vdp.PinChassis && n.ChassisID() != pin.Chassis
	}) {
		p.violated("nobody but who is pinned is the neighbour", "%s", neighbor(&n))
	}
	if !ok && p.link && len(p.st.Conflicts()) > 0 {
		p.violated("a waiting agent is adopted at once", "no neighbour, but %s", neighbor(&p.st.Conflicts()[0]))
	}
	own := p.ownEVB()
	limit := func(own, limit uint8) uint8 { return max(own, limit) }
	tm := p.st.Timers()
	ack, rwd := exponent(limit(own.RTE, capRTE)), exponent(limit(own.RWD, capRWD))
	if tm.ECPRetries > int(capRetries) || tm.ECPAck > max(ack, 500*time.Millisecond) ||
		tm.Keepalive > exponent(limit(own.RKA, capRKA)) || tm.Answer > (15*ack+rwd)*3/2 {
		p.violated("timers stay in reason", "%v", tm)
	}
	// What the owner wants has seconds: most happens within a few
	// milliseconds of something else.
	if p.now.Sub(p.checked) >= checkEvery {
		p.checked = p.now
		p.own.check(p)
	}
}

// latest is the latest of some times.
func latest(times ...time.Time) (t time.Time) {
	for _, u := range times {
		if u.After(t) {
			t = u
		}
	}
	return t
}

// checkExponents: what the station sends is within the limits too.
func (p *play) checkExponents(frame []byte) {
	var f vdp.Frame
	var l vdp.LLDPDU
	if f.UnmarshalBinary(frame) != nil || f.EtherType != vdp.EtherTypeLLDP || l.UnmarshalBinary(f.Payload) != nil || l.EVB == nil {
		return
	}
	own, e := p.ownEVB(), l.EVB
	if e.RTE > max(own.RTE, capRTE) || e.RWD > max(own.RWD, capRWD) || e.RKA > max(own.RKA, capRKA) {
		p.violated("timers stay in reason", "announced %v", *e)
	}
}

// checkDown: nothing is known of a switch that there is no wire to.
func (p *play) checkDown() {
	if n, ok := p.st.Neighbor(); ok || len(p.st.Conflicts()) > 0 {
		p.violated("a lost carrier ends all", "neighbour %v, %d conflicts", n.Source, len(p.st.Conflicts()))
	}
	for _, v := range p.st.VSIs() {
		if v.State == vdp.StateEstablished || v.State == vdp.StateWithdrawing {
			p.violated("a lost carrier ends all", "%d is %v", v.VSI.ID.Octets[15], v.State)
		}
	}
}

// checkSizes: nothing grows.
func (p *play) checkSizes() {
	if p.st == nil {
		return
	}
	if n := len(p.st.Conflicts()); n > 8 {
		p.violated("nothing grows", "%d conflicts", n)
	}
	if n := len(p.st.VSIs()); n > len(p.own.slots) {
		p.violated("nothing grows", "%d VSIs", n)
	}
}
