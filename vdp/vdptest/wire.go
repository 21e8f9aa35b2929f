package vdptest

import (
	"math/rand/v2"
	"slices"
	"time"
)

// A Wire carries frames, as slowly, seldom, often and out of order as it is told.
// Equal calls on equal wires have equal outcomes.
type Wire struct {
	Delay  time.Duration // of every frame
	Jitter time.Duration // up to this is added, so that frames overtake each other

	// Of 256 frames so many are lost, and so many of the others come twice.
	Lost, Twice int

	rng *rand.Rand
	way []Carried // in the order of arrival
}

// A Carried is a frame under way.
type Carried struct {
	At    time.Time
	Frame []byte
	To    End
	From  Sender
}

// An End of the wire.
type End uint8

// Ends.
const (
	ToStation End = iota
	ToSwitch
)

// A Sender is who a frame really is from, whatever it says.
type Sender uint8

// Senders.
const (
	FromStation  Sender = iota // come back by hairpin, if it arrives at the station
	FromSwitch                 // the one that the port is connected to
	FromAgent                  // another agent of the switch, or a second switch on the wire
	FromGuest                  // behind the port; reflected, if it arrives at the station
	FromStranger               // somewhere behind the switch, which forwards unicast only
)

func (s Sender) String() string {
	return [...]string{"station", "switch", "other agent", "guest", "stranger"}[s]
}

// NewWire returns a wire on which chance depends on the seed.
func NewWire(seed uint64) *Wire {
	return &Wire{Delay: 100 * time.Microsecond, rng: rand.New(rand.NewPCG(seed, 0x3173))}
}

// Send puts a frame on the wire and says how many copies arrive.
func (w *Wire) Send(now time.Time, c Carried) int {
	copies := 1
	switch lost, twice := w.rng.IntN(256) < w.Lost, w.rng.IntN(256) < w.Twice; {
	case lost:
		return 0
	case twice:
		copies = 2
	}
	for range copies {
		d := w.Delay
		if w.Jitter > 0 {
			d += time.Duration(w.rng.Int64N(int64(w.Jitter)))
		}
		c.At = now.Add(d)
		w.Put(c)
	}
	return copies
}

// Put lets a frame arrive at c.At, and leaves nothing to chance.
func (w *Wire) Put(c Carried) {
	i, _ := slices.BinarySearchFunc(w.way, c, func(a, b Carried) int {
		if a.At.After(b.At) {
			return 1
		}
		return -1 // behind what arrives at the same time
	})
	w.way = slices.Insert(w.way, i, c)
}

// Next returns when the next frame arrives, the zero time if none is under way.
func (w *Wire) Next() time.Time {
	if len(w.way) == 0 {
		return time.Time{}
	}
	return w.way[0].At
}

// Arrived returns the next frame that has arrived.
func (w *Wire) Arrived(now time.Time) (Carried, bool) {
	if len(w.way) == 0 || w.way[0].At.After(now) {
		return Carried{}, false
	}
	c := w.way[0]
	w.way = w.way[1:]
	return c, true
}

// Cut loses what is under way, as when the carrier is lost.
func (w *Wire) Cut() { w.way = nil }
