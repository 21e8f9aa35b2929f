package vdptest

import (
	"encoding/binary"
	"fmt"
	"time"

	"libvirt-direct/vdp"
)

// A Violation is an invariant that was broken.
type Violation struct {
	Invariant string
	At        time.Duration // since the beginning
	Text      string
}

func (v *Violation) Error() string { return fmt.Sprintf("%v: %s: %s", v.At, v.Invariant, v.Text) }

// Play plays a tape: a station with its owner, a switch, the wire between them, and a
// hostile guest and others who send whatever they like. It returns the first invariant
// that was broken, nil if none was. What happens is told to trace, if that is not nil.
//
// The tape is played again without what cannot come from the wire, and has to go on
// the same way: the same frames and events at the same times.
func Play(t Tape, trace func(string)) *Violation {
	with := newPlay(t, trace)
	if v := with.play(); v != nil {
		return v
	}
	if with.reaches {
		return nil // the switch listens to the guest: it is a different one without
	}
	without := newPlay(t, nil)
	without.harmless = true
	if v := without.play(); v != nil {
		v.Text += " (without guest and strangers)"
		return v
	}
	for i := range max(len(with.done), len(without.done)) {
		var a, b deed
		if i < len(with.done) {
			a = with.done[i]
		}
		if i < len(without.done) {
			b = without.done[i]
		}
		if !with.taken.IsZero() && (a.what == "" || !a.at.Before(with.taken)) {
			break
		}
		if a != b {
			return &Violation{"what cannot come from the wire changes nothing", a.at.Sub(epoch),
				fmt.Sprintf("%v, and without guest and strangers %v at %v", a, b, b.at.Sub(epoch))}
		}
	}
	return nil
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Who speaks.
var (
	stationMAC = vdp.MAC{0x02, 0xaa, 0, 0, 0, 1}
	switchMAC  = vdp.MAC{0x02, 0xbb, 0, 0, 0, 1}
	secondMAC  = vdp.MAC{0x02, 0xbb, 0, 0, 0, 2} // another switch on the wire
	guestMAC   = vdp.MAC{0x02, 0xee, 0, 0, 0, 1}
	groups     = [...]vdp.MAC{vdp.NearestCustomerBridge, vdp.NearestNonTPMRBridge, vdp.NearestBridge}
)

// What the station promises.
const (
	capRetries uint8 = 7 // of a switch's exponents it takes no more
	capRTE     uint8 = 17
	capRWD     uint8 = 22
	capRKA     uint8 = 23
	maxTTL           = 300 * time.Second
	// The neighbour of before a restart is believed for so long.
	lastNeighborTime = 120 * time.Second
	openTime         = time.Second      // after Opened nothing counts
	deafTime         = 5 * time.Second  // nor after Missed
	echoMemory       = 10 * time.Second // an echo is known for 5 s at least, and this at most
)

// hairpinTime is the longest way through the switch and back.
const hairpinTime = 100 * time.Millisecond

// A deed is something that the station did: a frame that it sent or an event.
type deed struct {
	at   time.Time
	what string // the frame, or a short text
}

func (d deed) String() string {
	if len(d.what) >= 60 {
		return described(d.what).String()
	}
	return d.what
}

// A play is one tape being played.
type play struct {
	tape     Tape
	trace    func(string)
	harmless bool // neither guest nor strangers send anything
	now      time.Time
	found    *Violation

	// The station's side.
	cfg  vdp.Config
	st   *vdp.Station // nil while the daemon is down
	boot time.Time    // when the daemon starts again
	link bool
	kept portState
	own  owner
	done []deed
	said map[vdp.EventType]bool // warnings since the last change of neighbour
	awake

	// The switch's side and what is between them.
	br      *Bridge
	quiet   time.Time // until when the switch is silent
	wire    *Wire
	rough   time.Time // until when the wire loses, doubles and reorders
	hairpin bool      // the switch sends back what it gets, also to its link-local groups
	reaches bool      // and takes what a guest sends for the station's
	evil    hostile

	// What may be expected of the station.
	disturbed time.Time // until when something kept the switch from following the owner
	terms     time.Time // until when waits of earlier exponents may last
	deaf      time.Time // until when what arrives does not count, because of Opened or Missed
	alive     time.Time // until when the switch is the neighbour
	others    time.Time // until when another agent may be believed
	taken     time.Time // when a guest first sent the same bytes as the switch later did
	last      bool      // nothing is to be lost any more
	checked   time.Time // when the owner last was
}

// awake counts the station's ticks.
type awake struct {
	ticked time.Time
	atOnce int // at that time
	second time.Time
	ticks  int // in the second that ends then
}

// pick chooses by an octet of the head: for half of its values what is usual.
func pick[T any](b byte, usual T, others ...T) T {
	if b < 128 || len(others) == 0 {
		return usual
	}
	return others[int(b-128)*len(others)/128]
}

func newPlay(t Tape, trace func(string)) *play {
	h := t.Head
	ed := pick(h[0], vdp.Edition2012, vdp.EditionDraft)
	p := &play{tape: t, trace: trace, now: epoch, link: true, hairpin: h[6] >= 64, reaches: h[6] >= 232}
	p.br = NewBridge(Config{MAC: switchMAC, Edition: ed, EVB: vdp.EVB{
		Retries: pick[uint8](h[1], 3, 0, 1, 7), RTE: pick[uint8](h[1]*17, 8, 0, 5, 10, 14, 17, 18, 31),
		RWD: pick[uint8](h[2], 20, 0, 10, 19, 21, 22, 23, 31), RKA: pick[uint8](h[3], 20, 0, 18, 19, 21, 22, 23, 24, 31),
		BridgeGroupID: h[7]&1 != 0,
	}})
	p.br.Answer = func(m vdp.Message) Reply {
		r := p.own.answer(m)
		if p.br.Edition == vdp.EditionDraft {
			r.Status = r.Status.Reason()
		}
		return r
	}
	p.cfg = vdp.Config{
		MAC: stationMAC, Sequence: uint16(h[11]) << 8,
		Edition: pick(h[4], vdp.EditionAuto, vdp.EditionAuto, ed),
		MaxVSIs: pick(h[9], 0, 0, 0, 3),
		EVB:     vdp.EVBConfig{ReflectiveRelay: h[7]&2 == 0, GroupIDs: h[7]&8 != 0},
	}
	if h[5] >= 160 {
		p.cfg.EVB.Retries, p.cfg.EVB.RTE = pick[uint8](h[5]*3, 3, 1, 7), pick[uint8](h[5]*5, 8, 4, 12, 18)
		p.cfg.EVB.RWD, p.cfg.EVB.RKA = pick[uint8](h[5]*7, 20, 12, 23), pick[uint8](h[5]*11, 20, 18, 24)
	}
	p.manager(pick(h[10], 0, time.Millisecond, time.Second, 4*time.Second, 9500*time.Millisecond))
	p.wire = NewWire(binary.LittleEndian.Uint64(h[8:]))
	p.wire.Delay = pick(h[8], 100*time.Microsecond, 10*time.Microsecond, time.Millisecond, 20*time.Millisecond)
	p.wire.Delay = min(p.wire.Delay, p.ack()/4)
	p.wire.Jitter = p.wire.Delay / 2
	switch p.own.init(); h[13] / 32 {
	case 5:
		p.cfg.Pins = []vdp.Pin{{Kind: vdp.PinSource, MAC: switchMAC}}
	case 6:
		p.cfg.Pins = []vdp.Pin{{Kind: vdp.PinMAC, MAC: switchMAC}}
	case 7:
		n := vdp.Neighbor{Chassis: p.br.chassis()}
		p.cfg.Pins = []vdp.Pin{{Kind: vdp.PinChassis, Chassis: n.ChassisID()}}
	}
	p.said = make(map[vdp.EventType]bool)
	p.supervise()
	p.disturbed = p.now
	return p
}

func (p *play) play() *Violation {
	p.start()
	p.do(p.st.LinkUp(p.now))
	for _, s := range p.tape.Steps {
		p.run(p.now.Add(s.pause()))
		if p.found != nil {
			return p.found
		}
		p.step(s)
	}
	// From here on all is well, and the switch has to follow.
	p.calm()
	p.run(p.now.Add(p.bound() + p.release() + time.Second))
	if p.found == nil {
		p.epilogue()
	}
	return p.found
}

// calm ends all trouble.
func (p *play) calm() {
	p.tell("from here on all is well")
	p.wireRough(0, 0, 0)
	p.speak()
	if !p.link {
		p.flap(true)
	}
	p.later(4 * time.Second) // what is under way arrives, and the daemon is up
	p.run(p.others)          // until the other agents are gone
	p.disturb(p.now)
}

// run lets things happen until the given time.
func (p *play) run(end time.Time) {
	for p.found == nil {
		next := end
		sooner := func(t time.Time) {
			if !t.IsZero() && t.Before(next) {
				next = t
			}
		}
		sooner(p.wire.Next())
		sooner(latest(p.br.Next(), p.now))
		sooner(p.boot)
		sooner(p.quiet)
		sooner(p.rough)
		if p.st != nil {
			sooner(p.st.Next())
		}
		if next.After(p.now) {
			p.now = next
		}
		if !p.happen() && !p.now.Before(end) {
			return
		}
	}
}

// happen lets happen what is due, and reports whether anything was.
func (p *play) happen() (any bool) {
	due := func(t time.Time) bool { return !t.IsZero() && !p.now.Before(t) }
	if due(p.boot) {
		p.restart()
		any = true
	}
	if due(p.quiet) {
		p.speak()
		any = true
	}
	if due(p.rough) {
		p.wireRough(0, 0, 0)
		any = true
	}
	if p.st != nil && due(p.st.Next()) {
		p.tick()
		any = true
	}
	if !p.br.Next().After(p.now) {
		p.fromSwitch(p.br.Tick(p.now))
		any = true
	}
	if c, ok := p.wire.Arrived(p.now); ok {
		p.arrive(c)
		any = true
	}
	if any {
		p.check()
	}
	return any
}

func (p *play) later(d time.Duration) { p.run(p.now.Add(d)) }
