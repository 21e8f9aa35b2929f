package vdp_test

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/vdptest"
)

func TestBridgeRestart(t *testing.T) {
	editions(t, func(t *testing.T, ed vdp.Edition) {
		s := newSim(t, ed).up()
		for i := range 100 {
			s.associate(testVSI(i))
		}
		s.run(5 * time.Second)
		require.Equal(t, 100, s.br.Len())
		s.br.Restart()
		s.run(15 * time.Second)
		require.Equal(t, 100, s.br.Len(), "keepalives associate again")

		// This one refuses what it does not know.
		s.events = nil
		s.br.Restart()
		s.br.Answer = func(m vdp.Message) vdptest.Reply {
			if s.br.Mode(m.VSI.ID) == 0 && len(s.br.Log) < 150 {
				return vdptest.Reply{Status: vdp.ReasonNoResources}
			}
			return vdptest.Reply{}
		}
		s.br.Log = nil
		s.run(time.Minute)
		require.Equal(t, 100, s.br.Len())
		count := map[vdp.EventType]int{}
		for _, e := range s.events {
			count[e.Type]++
		}
		delete(count, vdp.EventNeighbor) // of the 2012 edition it shows that it is new
		require.Equal(t, map[vdp.EventType]int{vdp.EventLost: 100, vdp.EventEstablished: 100}, count)
	})
}

func TestStationRestart(t *testing.T) {
	editions(t, func(t *testing.T, ed vdp.Edition) {
		s := newSim(t, ed).up()
		for i := range 100 {
			s.associate(testVSI(i))
		}
		s.run(5 * time.Second)
		saved := s.st.VSIs()
		require.Len(t, saved, 100)

		s.boot(func(c *vdp.Config) { c.Sequence = 0x1234 })
		for _, v := range saved {
			out, err := s.st.Restore(s.now, v.VSI, v.Mode)
			require.NoError(t, err)
			s.do(out)
		}
		require.Equal(t, vdp.StateLost, s.state(testVSI(0)))
		s.run(time.Minute) // the link is slow to come up: no time limit
		s.events, s.br.Log = nil, nil
		s.do(s.st.LinkUp(s.now))
		s.run(12 * time.Second)
		require.Equal(t, 101, len(s.events))
		for _, e := range s.events[1:] {
			require.Equal(t, vdp.EventEstablished, e.Type)
		}
		for i := range 100 {
			require.Equal(t, vdp.StateEstablished, s.state(testVSI(i)))
		}
	})
}

// With the edition of the time before nobody waits for an LLDPDU.
func TestStationRestartLastEdition(t *testing.T) {
	editions(t, func(t *testing.T, ed vdp.Edition) {
		s := newSim(t, ed).up()
		v := testVSI(1)
		s.associate(v)
		s.run(time.Second)
		last, known := s.st.Neighbor()
		require.True(t, known)
		s.boot(func(c *vdp.Config) { c.LastEdition, c.LastNeighbor, c.Sequence = ed, &last, 0x1234 })
		s.br.NoEVB = true
		out, err := s.st.Restore(s.now, v, vdp.Associate)
		require.NoError(t, err)
		s.do(out)
		s.do(s.st.LinkUp(s.now))
		s.run(time.Second)
		require.Equal(t, vdp.StateEstablished, s.state(v))

		// The switch has the last word.
		other := vdp.EditionDraft + vdp.Edition2012 - ed
		s.br.Edition, s.br.NoEVB = other, false
		s.br.Restart()
		s.run(3 * time.Second)
		require.Equal(t, other, s.st.Edition())
		require.Equal(t, vdp.StateEstablished, s.state(v))
		s.do(s.st.LinkDown(s.now))
		require.Equal(t, vdp.EditionAuto, s.st.Edition(), "another switch may be there next")
	})
}

// A restarted station whose first number is the last one of its predecessor
// is acknowledged, but not heard, by a bridge that keeps to the letter.
func TestStationRestartSequenceCollision(t *testing.T) {
	s := newSim(t, vdp.Edition2012).up()
	s.associate(testVSI(1))
	s.run(time.Second)
	s.boot()
	s.do(s.st.LinkUp(s.now))
	v := testVSI(1)
	out, err := s.st.Restore(s.now, v, vdp.Associate)
	require.NoError(t, err)
	s.do(out)
	s.run(10 * time.Second) // the switch's LLDPDU
	require.Equal(t, vdp.StateLost, s.state(v))
	s.run(4 * time.Second) // a third of the time for setup
	require.Equal(t, vdp.StateEstablished, s.state(v))
}

func TestSequenceWraps(t *testing.T) {
	editions(t, func(t *testing.T, ed vdp.Edition) {
		s := newSim(t, ed, func(c *vdp.Config) { c.Sequence = 0xfffe }).up()
		s.associate(testVSI(1))
		s.run(time.Minute)
		_, seq := s.ecp()
		require.Greater(t, len(seq), 4)
		require.Equal(t, []uint16{0xffff, 1, 2}, seq[:3])
		require.Equal(t, []vdp.EventType{vdp.EventEstablished}, s.types())
	})
}

func TestLinkFlap(t *testing.T) {
	editions(t, func(t *testing.T, ed vdp.Edition) {
		s := newSim(t, ed).up()
		v := testVSI(1)
		s.associate(v)
		s.associate(testVSI(2))
		s.run(time.Second)
		s.deassociate(testVSI(2))
		s.events = nil
		s.do(s.st.LinkDown(s.now))
		s.do(s.st.LinkDown(s.now))
		require.Equal(t, []vdp.EventType{vdp.EventNeighborLost, vdp.EventLost, vdp.EventRemoved}, s.types())
		for _, e := range s.events[1:] {
			require.ErrorIs(t, e.Err, vdp.ErrNoLink)
		}
		_, err := s.st.Handle(s.now, unhex(t, lldpadBridge2012))
		require.ErrorIs(t, err, vdp.ErrNoLink)
		s.sent = nil
		s.run(time.Hour)
		require.Empty(t, s.sent, "nothing is sent without a link")
		require.Equal(t, vdp.StateLost, s.state(v))
		require.Zero(t, s.st.Next(), "nothing to do but wait")

		s.events = nil
		s.do(s.st.LinkUp(s.now))
		s.run(12 * time.Second)
		require.Equal(t, []vdp.EventType{vdp.EventNeighbor, vdp.EventEstablished}, s.types())

		// De-associating without a link is done at once, and says so.
		s.do(s.st.LinkDown(s.now))
		s.events = nil
		s.deassociate(v)
		require.Equal(t, []vdp.EventType{vdp.EventRemoved}, s.types())
		require.ErrorIs(t, s.events[0].Err, vdp.ErrNoLink)
		require.Empty(t, s.st.VSIs())
	})
}

// The switch is silent for an hour and comes back.
func TestSilence(t *testing.T) {
	editions(t, func(t *testing.T, ed vdp.Edition) {
		s := newSim(t, ed).up()
		v := testVSI(1)
		s.associate(v)
		s.run(time.Second)
		s.br.NoAck, s.br.NoEVB = true, true
		s.run(time.Hour)
		require.Equal(t, []vdp.EventType{vdp.EventEstablished, vdp.EventLost, vdp.EventNeighborLost}, s.types())
		require.ErrorIs(t, s.events[1].Err, vdp.ErrNoAnswer)
		_, ok := s.st.Neighbor()
		require.False(t, ok)
		s.br.Restart()
		s.br.NoAck, s.br.NoEVB = false, false
		s.run(11 * time.Second)
		require.Equal(t, vdp.StateEstablished, s.state(v))
		require.Equal(t, vdp.Associate, s.br.Mode(v.ID))
	})
}

// Loss, duplication and reordering for hours, then peace: whatever happened,
// both sides end up agreeing, and with what was asked.
func TestChaos(t *testing.T) {
	editions(t, func(t *testing.T, ed vdp.Edition) {
		for seed := range uint64(8) {
			r := rand.New(rand.NewPCG(seed, 1))
			s := newSim(t, ed)
			s.br.Supervision = time.Minute
			quiet := false
			s.travel = func(bool, []byte) []time.Duration {
				if quiet {
					return []time.Duration{time.Millisecond}
				}
				var d []time.Duration
				for r.IntN(4) > 0 && len(d) < 3 {
					d = append(d, time.Duration(r.ExpFloat64()*float64(2*time.Millisecond)))
				}
				return d
			}
			s.do(s.st.LinkUp(s.now))
			wanted := map[vdp.ID]bool{}
			for range 500 {
				v := testVSI(r.IntN(20))
				if r.IntN(3) == 0 {
					v.Filters[0].VID = uint16(100 + r.IntN(2))
				}
				switch r.IntN(12) {
				case 0:
					s.br.Restart()
				case 1:
					s.do(s.st.LinkDown(s.now))
					s.do(s.st.LinkUp(s.now))
				case 2, 3, 4:
					if out, err := s.st.DeAssociate(s.now, v.ID); err == nil {
						s.do(out)
					}
					delete(wanted, v.ID)
				case 5:
					if out, err := s.st.PreAssociate(s.now, v); err == nil {
						s.do(out)
						wanted[v.ID] = true
					}
				default:
					s.associate(v)
					wanted[v.ID] = true
				}
				s.run(time.Duration(r.ExpFloat64() * float64(10*time.Second)))
			}
			quiet = true
			s.run(10 * time.Minute)
			n := 0
			for _, v := range s.st.VSIs() {
				require.True(t, wanted[v.VSI.ID], "seed %d: nobody wants %v", seed, v.VSI.ID)
				require.Equal(t, vdp.StateEstablished, v.State, "seed %d", seed)
				require.Equal(t, v.Mode, s.br.Mode(v.VSI.ID), "seed %d", seed)
				n++
			}
			require.Equal(t, n, s.br.Len(), "seed %d: the switch holds what nobody wants", seed)
			for _, err := range s.errs {
				require.True(t, errors.Is(err, vdp.ErrStray) || errors.Is(err, vdp.ErrNoEVB), "seed %d: %v", seed, err)
			}
		}
	})
}

func TestEditionChoice(t *testing.T) {
	both := func(st *vdp.Station, now time.Time) {
		d, w := vdptest.NewBridge(vdptest.Config{MAC: bridgeMAC, Edition: vdp.EditionDraft}), vdp.LLDPDU{}
		var f vdp.Frame
		if f.UnmarshalBinary(d.Tick(now)[0]) != nil || w.UnmarshalBinary(f.Payload) != nil {
			t.Fatal("no draft TLV")
		}
		w.EVB = &vdp.EVB{Role: vdp.RoleBridge, Retries: 3, RTE: 8, RWD: 20, RKA: 20}
		b, err := w.MarshalBinary()
		require.NoError(t, err)
		f.Payload = b
		b, err = f.MarshalBinary()
		require.NoError(t, err)
		_, err = st.Handle(now, b)
		require.NoError(t, err)
	}
	for name, c := range map[string]struct {
		fixed, want vdp.Edition
	}{
		"2012 wins":   {vdp.EditionAuto, vdp.Edition2012},
		"fixed draft": {vdp.EditionDraft, vdp.EditionDraft},
		"fixed 2012":  {vdp.Edition2012, vdp.Edition2012},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, vdp.EditionDraft, func(cfg *vdp.Config) { cfg.Edition = c.fixed })
			s.do(s.st.LinkUp(s.now))
			both(s.st, s.now)
			require.Equal(t, c.want, s.st.Edition())
			n, ok := s.st.Neighbor()
			require.True(t, ok)
			require.Equal(t, bridgeMAC, n.Source)
		})
	}

	t.Run("other edition than the fixed one", func(t *testing.T) {
		s := newSim(t, vdp.EditionDraft, func(c *vdp.Config) { c.Edition = vdp.Edition2012 })
		s.do(s.st.LinkUp(s.now))
		require.NoError(t, s.st.Ready(), "a fixed edition does not wait for the EVB TLV")
		s.associate(testVSI(1))
		s.run(time.Minute)
		require.Equal(t, []vdp.EventType{vdp.EventFailed}, s.types())
		_, ok := s.st.Neighbor()
		require.False(t, ok)
	})

	t.Run("switch changes", func(t *testing.T) {
		s := newSim(t, vdp.EditionDraft).up()
		v := testVSI(1)
		s.associate(v)
		s.run(time.Second)
		s.br.Edition = vdp.Edition2012
		s.br.Restart()
		s.run(11 * time.Second)
		require.Equal(t, []vdp.EventType{vdp.EventEstablished, vdp.EventNeighbor, vdp.EventLost, vdp.EventEstablished}, s.types())
		require.ErrorIs(t, s.events[2].Err, vdp.ErrEditionChanged)
		require.Equal(t, vdp.Associate, s.br.Mode(v.ID))
		require.Equal(t, vdp.Edition2012, s.st.Edition())
	})

	t.Run("another station is no switch", func(t *testing.T) {
		s := newSim(t, vdp.Edition2012)
		s.br.NoEVB = true
		s.do(s.st.LinkUp(s.now))
		other, err := vdp.NewStation(vdp.Config{MAC: bridgeMAC, Edition: vdp.Edition2012})
		require.NoError(t, err)
		_, err = s.st.Handle(s.now, other.LinkUp(s.now).Frames[0])
		require.NoError(t, err)
		require.ErrorIs(t, s.st.Ready(), vdp.ErrNoEVB)
	})

	t.Run("VSI that the draft cannot express", func(t *testing.T) {
		s := newSim(t, vdp.EditionDraft)
		v := testVSI(1)
		v.Manager[15] = 1
		s.associate(v) // the edition is not known yet
		s.do(s.st.LinkUp(s.now))
		s.run(3 * time.Second)
		require.Equal(t, []vdp.EventType{vdp.EventNeighbor, vdp.EventFailed}, s.types())
		require.ErrorIs(t, s.events[1].Err, vdp.ErrRange)
		require.Empty(t, s.st.VSIs())
		_, err := s.st.Associate(s.now, v)
		require.ErrorIs(t, err, vdp.ErrRange)
	})
}

// What the station's own EVB TLV says before and after the switch's.
func TestLLDP(t *testing.T) {
	parse := func(b []byte) (p vdp.LLDPDU) {
		var f vdp.Frame
		require.NoError(t, f.UnmarshalBinary(b))
		require.Equal(t, vdp.NearestCustomerBridge, f.Dst)
		require.NoError(t, p.UnmarshalBinary(f.Payload))
		return p
	}
	s := newSim(t, vdp.Edition2012)
	first := parse(s.st.LinkUp(s.now).Frames[0])
	require.NotNil(t, first.Draft, "both while the edition is unknown")
	require.Equal(t, &vdp.EVB{RRRequest: true, RRStatus: vdp.RRUnknown, Retries: 3, RTE: 8, Role: vdp.RoleStation, RWD: 20, RKA: 20}, first.EVB)
	_, err := s.st.Handle(s.now, unhex(t, lldpadBridge2012))
	require.NoError(t, err)
	s.now = s.st.Next()
	require.Equal(t, epoch.Add(time.Second), s.now)
	second := parse(s.st.Tick(s.now).Frames[0])
	require.Nil(t, second.Draft)
	require.Equal(t, &vdp.EVB{
		RRCapable: true, RRControl: true, RRRequest: true, RRStatus: vdp.RREnabled,
		Retries: 3, RTE: 8, Role: vdp.RoleStation, ROLResource: true, RWD: 20, ROLKeepalive: true, RKA: 20,
	}, second.EVB, "as lldpad's station answers lldpad's bridge")
	require.Equal(t, epoch.Add(31*time.Second), s.st.Next(), "then quiet, though each LLDPDU is news to lldpad")

	s = newSim(t, vdp.EditionDraft)
	s.do(s.st.LinkUp(s.now))
	s.run(3 * time.Second)
	last := parse(s.sent[len(s.sent)-1].frame)
	require.Nil(t, last.EVB)
	require.Equal(t, vdp.ForwardReflective, last.Draft.Forwarding)
	require.Equal(t, vdp.CapRTE|vdp.CapECP|vdp.CapVDP, last.Draft.Capabilities)
}

func TestFramesIgnored(t *testing.T) {
	s := newSim(t, vdp.Edition2012).up()
	own := unhex(t, lldpadAssoc2012) // source is our address
	elsewhere := unhex(t, lldpadAnswer2012)
	elsewhere[0] = 0x02
	ip := append(unhex(t, "0180c2000000 02bb00000001 0800"), make([]byte, 46)...)
	for name, c := range map[string]struct {
		frame []byte
		want  error
	}{
		"own":             {own, vdp.ErrNotForUs},
		"elsewhere":       {elsewhere, vdp.ErrNotForUs},
		"IP":              {ip, vdp.ErrNotForUs},
		"short":           {own[:13], vdp.ErrTruncated},
		"empty":           {nil, vdp.ErrTruncated},
		"draft":           {unhex(t, "0180c200000e 02bb00000001 88b7 001b3f00 0000 00 0001 0000"), vdp.ErrUnsupported},
		"PE-CSP":          {unhex(t, "0180c2000000 02bb00000001 8940 1002 0001 0000"), vdp.ErrUnsupported},
		"stray ack":       {unhex(t, lldpadAck2012), vdp.ErrStray},
		"stray answer":    {unhex(t, lldpadAnswer2012), vdp.ErrStray},
		"bad LLDPDU":      {unhex(t, "0180c2000000 02bb00000001 88cc 0602 0078"), vdp.ErrOrder},
		"bad VDP":         {unhex(t, "0180c2000000 02bb00000001 8940 1001 0007 06ff"), vdp.ErrTruncated},
		"VDP w/o manager": {unhex(t, "0180c2000000 02bb00000001 8940 1001 0008 0621 40 000005 02 05 fa9b7fffb0a04893abcdbeef4ff18f8f 02 0001 525400112233 0064"), vdp.ErrOrder},
	} {
		_, err := s.st.Handle(s.now, c.frame)
		require.ErrorIs(t, err, c.want, name)
	}
	require.Empty(t, s.events)
}

func FuzzStation(f *testing.F) {
	for _, s := range []string{lldpadAssoc2012, lldpadAck2012, lldpadAnswer2012, lldpadBridge2012, lldpadStationDraft, lldpadAssocDraft, lldpadEmptyDraft} {
		f.Add(unhex(f, s), uint32(1000))
	}
	f.Fuzz(func(t *testing.T, b []byte, ms uint32) {
		st, err := vdp.NewStation(vdp.Config{MAC: vdp.MAC{2, 0xcc}, MaxVSIs: 10})
		require.NoError(t, err)
		now := epoch
		st.LinkUp(now)
		for i := range 3 {
			_, err := st.Associate(now, testVSI(i))
			require.NoError(t, err)
		}
		if _, err := st.Handle(now, unhex(t, lldpadBridge2012)); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			st.Handle(now, b)
			now = now.Add(time.Duration(ms) * time.Millisecond)
			for _, f := range st.Tick(now).Frames {
				if len(f) < 60 || len(f) > 1514 {
					t.Fatalf("frame of %d octets", len(f))
				}
			}
			if n := len(st.VSIs()); n > 3 {
				t.Fatalf("%d VSIs", n)
			}
		}
	})
}

func BenchmarkAssociate1000(b *testing.B) {
	for b.Loop() {
		st, err := vdp.NewStation(vdp.Config{MAC: stationMAC, Edition: vdp.Edition2012})
		if err != nil {
			b.Fatal(err)
		}
		br := vdptest.NewBridge(vdptest.Config{MAC: bridgeMAC, Edition: vdp.Edition2012})
		now := epoch
		frames := st.LinkUp(now).Frames
		for i := range 1000 {
			out, err := st.Associate(now, testVSI(i))
			if err != nil {
				b.Fatal(err)
			}
			frames = append(frames, out.Frames...)
		}
		for br.Len() < 1000 {
			for len(frames) > 0 {
				f := frames[0]
				frames = frames[1:]
				for _, g := range br.Handle(now, f) {
					out, _ := st.Handle(now, g)
					frames = append(frames, out.Frames...)
				}
			}
			now = st.Next()
			frames = st.Tick(now).Frames
		}
	}
}
