package vdptest

import (
	"fmt"
	"time"

	"libvirt-direct/vdp"
)

// portState is what the daemon keeps across a restart.
type portState struct {
	edition  vdp.Edition
	neighbor *vdp.Neighbor
}

// start starts the daemon.
func (p *play) start() {
	p.boot = time.Time{}
	clear(p.said)
	c := p.cfg
	c.LastEdition = p.kept.edition
	c.LastNeighbor = p.kept.neighbor
	st, err := vdp.NewStation(c)
	if err != nil {
		panic(err) // the head asked for nonsense
	}
	p.st = st
	p.st.Opened(p.now)
	p.deaf = p.now.Add(openTime)
}

// stop kills the daemon, which comes back later.
func (p *play) stop(back time.Duration) {
	p.tell("the daemon is killed, and starts again after %v", back)
	if n, ok := p.st.Neighbor(); ok {
		p.kept.neighbor = &n
	}
	if ed := p.st.Edition(); ed != vdp.EditionAuto {
		p.kept.edition = ed
	}
	p.st, p.boot = nil, p.now.Add(back)
	p.alive, p.deaf = time.Time{}, time.Time{}
	p.cfg.Sequence += 1000
	p.disturb(p.boot)
}

// restart is the daemon's start, with what it has kept.
func (p *play) restart() {
	p.tell("the daemon starts")
	p.start()
	p.disturb(p.deaf)
	if n := p.kept.neighbor; n != nil && !p.isSwitch(n) {
		p.others = latest(p.others, p.now.Add(lastNeighborTime+time.Second))
	}
	out := p.own.restore(p)
	if p.link {
		p.do(p.st.LinkUp(p.now))
	}
	p.do(out)
	p.own.again(p)
}

// ticksAtOnce: one thing that is due may make another due at once, and the owner may
// do a few as well.
const ticksAtOnce = 10

// ticksPerSecond is more than a station with a few VSIs ever has reason to wake up.
const ticksPerSecond = 1000

func (p *play) tick() {
	if p.now.After(p.second) {
		p.ticks, p.second = 0, p.now.Add(time.Second)
	}
	if p.ticks++; p.ticks > ticksPerSecond {
		p.violated("no busy loop", "%d ticks in a second", p.ticks)
	}
	if p.now.After(p.ticked) {
		p.ticked, p.atOnce = p.now, 0
	}
	if p.atOnce++; p.atOnce > ticksAtOnce {
		p.violated("no busy loop", "%d ticks at the same time", p.atOnce)
	}
	p.do(p.st.Tick(p.now))
	if t := p.st.Next(); !t.IsZero() && t.Before(p.now) {
		p.violated("no busy loop", "after Tick the next one was due %v ago", p.now.Sub(t))
	}
}

// do does what the station asks for.
func (p *play) do(out vdp.Output) {
	for _, f := range out.Frames {
		if len(f) < 60 || len(f) > 1514 {
			p.violated("frames are whole", "%d octets", len(f))
		}
		p.done = append(p.done, deed{p.now, string(f)})
		p.evil.overhears(ToSwitch, f)
		if !p.link {
			p.violated("nothing is sent without a carrier", "%s", described(f))
			continue
		}
		p.checkExponents(f)
		p.tell("station sends %s", described(f))
		p.carry(Carried{Frame: f, To: ToSwitch, From: FromStation})
	}
	for _, e := range out.Events {
		p.done = append(p.done, deed{p.now, fmt.Sprintf("%v of %x, %v: %v", e.Type, e.VSI.ID.Octets[15:], e.Mode, e.Err)})
		p.tell("event %v %v.%d %v %v", e.Type, e.VSI.ID.Octets[15], e.VSI.TypeVersion, e.Mode, e.Err)
		switch {
		case e.AboutVSI():
			p.own.event(p, &e)
		case e.Type == vdp.EventConflict || e.Type == vdp.EventForeign:
			if p.said[e.Type] {
				p.violated("a warning is given once for each neighbour", "%v %v", e.Type, e.Source)
			}
			p.said[e.Type] = true
		default:
			clear(p.said)
		}
	}
}

// carry puts a frame on the wire, which may lose it.
func (p *play) carry(c Carried) {
	if n := p.wire.Send(p.now, c); n != 1 {
		p.tell("  %d copies of it arrive", n)
		p.disturb(p.now)
	}
	if p.rough.After(p.now) {
		p.disturb(p.now)
	}
	if c.From == FromStation && p.hairpin {
		p.wire.Put(Carried{At: p.now.Add(p.wire.Delay * 2), Frame: c.Frame, To: ToStation, From: FromStation})
	}
}

// fromSwitch sends what the switch has to say.
func (p *play) fromSwitch(frames [][]byte) {
	for _, f := range frames {
		if !p.link {
			continue
		}
		p.tell("switch sends %s", described(f))
		p.evil.overhears(ToStation, f)
		p.carry(Carried{Frame: f, To: ToStation, From: FromSwitch})
	}
}
