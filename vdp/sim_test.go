package vdp_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/vdptest"
)

var (
	stationMAC = vdp.MAC{0x02, 0xaa, 0, 0, 0, 1}
	bridgeMAC  = vdp.MAC{0x02, 0xbb, 0, 0, 0, 1}
	epoch      = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
)

// A sim is a station and a bridge on a simulated wire with a simulated clock.
type sim struct {
	t      *testing.T
	now    time.Time
	st     *vdp.Station
	br     *vdptest.Bridge
	wire   []delivery
	events []event
	sent   []capture // every frame of the station
	errs   []error   // of Handle

	// travel returns the delays of a frame's copies: none loses it. Nil is
	// one copy after 100 µs.
	travel func(toBridge bool, frame []byte) []time.Duration
}

type delivery struct {
	at       time.Time
	toBridge bool
	frame    []byte
}

type event struct {
	at time.Duration
	vdp.Event
}

type capture struct {
	at    time.Duration
	frame []byte
}

func newSim(t *testing.T, ed vdp.Edition, mod ...func(*vdp.Config)) *sim {
	t.Helper()
	s := &sim{t: t, now: epoch}
	s.br = vdptest.NewBridge(vdptest.Config{MAC: bridgeMAC, Edition: ed})
	s.boot(mod...)
	return s
}

// boot makes a new station, as a restarted process would.
func (s *sim) boot(mod ...func(*vdp.Config)) {
	s.t.Helper()
	c := vdp.Config{MAC: stationMAC, EVB: vdp.EVBConfig{ReflectiveRelay: true}, Sequence: 0x7ffe}
	for _, f := range mod {
		f(&c)
	}
	st, err := vdp.NewStation(c)
	require.NoError(s.t, err)
	s.st = st
}

// up brings the link up and lets the switch be seen.
func (s *sim) up() *sim {
	s.t.Helper()
	s.do(s.st.LinkUp(s.now))
	s.run(2 * time.Second)
	require.Equal(s.t, []vdp.EventType{vdp.EventNeighbor}, s.types())
	s.events = nil
	return s
}

func (s *sim) do(out vdp.Output) {
	for _, f := range out.Frames {
		// More overruns lldpad's buffers, less does not end in zeros (package lldpad, trap 11).
		if len(f) > 1514 || len(f) < 60 {
			s.t.Errorf("frame of %d octets", len(f))
		}
		s.sent = append(s.sent, capture{s.now.Sub(epoch), f})
		s.put(true, f)
	}
	for _, e := range out.Events {
		s.events = append(s.events, event{s.now.Sub(epoch), e})
	}
}

func (s *sim) bridge(frames [][]byte) {
	for _, f := range frames {
		s.put(false, f)
	}
}

func (s *sim) put(toBridge bool, f []byte) {
	delays := []time.Duration{100 * time.Microsecond}
	if s.travel != nil {
		delays = s.travel(toBridge, f)
	}
	for _, d := range delays {
		s.wire = append(s.wire, delivery{s.now.Add(d), toBridge, f})
	}
	slices.SortStableFunc(s.wire, func(a, b delivery) int { return a.at.Compare(b.at) })
}

// step goes to the next thing that happens, not beyond end.
func (s *sim) step(end time.Time) bool {
	next := end
	if t := s.br.Next(); t.Before(next) {
		next = t
	}
	if t := s.st.Next(); !t.IsZero() && t.Before(next) {
		next = t
	}
	if len(s.wire) > 0 && !s.wire[0].at.After(next) {
		d := s.wire[0]
		s.wire = s.wire[1:]
		if d.at.After(s.now) {
			s.now = d.at
		}
		if d.toBridge {
			s.bridge(s.br.Handle(s.now, d.frame))
		} else {
			out, err := s.st.Handle(s.now, d.frame)
			s.do(out)
			if err != nil {
				s.errs = append(s.errs, err)
			}
		}
		return true
	}
	if next.Before(s.now) {
		next = s.now
	}
	s.now = next
	if !next.Before(end) {
		return false
	}
	s.do(s.st.Tick(s.now))
	s.bridge(s.br.Tick(s.now))
	return true
}

func (s *sim) run(d time.Duration) {
	s.t.Helper()
	end := s.now.Add(d)
	for n := 0; s.step(end); n++ {
		if n > 5_000_000 {
			s.t.Fatal("the simulation does not come to rest")
		}
	}
}

func (s *sim) associate(v vdp.VSI) {
	s.t.Helper()
	out, err := s.st.Associate(s.now, v)
	require.NoError(s.t, err)
	s.do(out)
}

func (s *sim) deassociate(v vdp.VSI) {
	s.t.Helper()
	out, err := s.st.DeAssociate(s.now, v.ID)
	require.NoError(s.t, err)
	s.do(out)
}

func (s *sim) types() []vdp.EventType {
	var l []vdp.EventType
	for _, e := range s.events {
		l = append(l, e.Type)
	}
	return l
}

func (s *sim) state(v vdp.VSI) vdp.State {
	st, _ := s.st.VSI(v.ID)
	return st.State
}

// requests returns the modes that the bridge saw since the last call.
func (s *sim) requests() []vdp.Mode {
	var l []vdp.Mode
	for _, r := range s.br.Log {
		l = append(l, r.Message.Mode)
	}
	s.br.Log = nil
	return l
}

// ecp returns when the station sent ECP requests since the last call, and
// their sequence numbers.
func (s *sim) ecp() (at []time.Duration, seq []uint16) {
	for _, c := range s.sent {
		var f vdp.Frame
		require.NoError(s.t, f.UnmarshalBinary(c.frame))
		ed := vdp.Edition2012
		switch f.EtherType {
		case vdp.EtherTypeLLDP:
			continue
		case vdp.EtherTypeECPDraft:
			ed = vdp.EditionDraft
		}
		p, err := vdp.UnmarshalECPDU(ed, f.Payload)
		require.NoError(s.t, err)
		if !p.Ack {
			at, seq = append(at, c.at), append(seq, p.Sequence)
		}
	}
	s.sent = nil
	return at, seq
}

func testVSI(n int) vdp.VSI {
	return vdp.VSI{
		ID:      vdp.UUID([16]byte{0xfa, 14: byte(n >> 8), 15: byte(n)}),
		Manager: vdp.ManagerID{12}, TypeID: 0x123456, TypeVersion: 1,
		FilterFormat: vdp.FilterMACVID,
		Filters:      []vdp.Filter{{MAC: vdp.MAC{0x52, 0x54, 0, 1, byte(n >> 8), byte(n)}, VID: 100}},
	}
}

// editions runs a test in both.
func editions(t *testing.T, f func(t *testing.T, ed vdp.Edition)) {
	for _, ed := range []vdp.Edition{vdp.EditionDraft, vdp.Edition2012} {
		t.Run(ed.String(), func(t *testing.T) { f(t, ed) })
	}
}

func (e event) String() string { return fmt.Sprintf("%v %v %v %v", e.at, e.Type, e.Mode, e.Err) }
