package vdp_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/vdptest"
)

func TestLifecycle(t *testing.T) {
	editions(t, func(t *testing.T, ed vdp.Edition) {
		s := newSim(t, ed).up()
		require.Equal(t, ed, s.st.Edition())
		v := testVSI(1)

		out, err := s.st.PreAssociate(s.now, v)
		require.NoError(t, err)
		s.do(out)
		require.Equal(t, vdp.StateRequesting, s.state(v))
		s.run(time.Second)
		require.Equal(t, vdp.PreAssociate, s.br.Mode(v.ID))
		require.Equal(t, vdp.StateEstablished, s.state(v))

		out, err = s.st.PreAssociateRR(s.now, v)
		require.NoError(t, err)
		s.do(out)
		s.run(time.Second)
		require.Equal(t, vdp.PreAssociateRR, s.br.Mode(v.ID))

		s.associate(v)
		s.run(time.Second)
		require.Equal(t, vdp.Associate, s.br.Mode(v.ID))

		_, err = s.st.PreAssociate(s.now, v)
		require.ErrorIs(t, err, vdp.ErrDowngrade)
		require.Equal(t, vdp.StateEstablished, s.state(v))

		s.deassociate(v)
		require.Equal(t, vdp.StateWithdrawing, s.state(v))
		s.run(time.Second)
		require.Zero(t, s.br.Len())
		require.Empty(t, s.st.VSIs())
		_, err = s.st.DeAssociate(s.now, v.ID)
		require.ErrorIs(t, err, vdp.ErrUnknownVSI)

		e := vdp.EventEstablished
		require.Equal(t, []vdp.EventType{e, e, e, vdp.EventRemoved}, s.types())
		for i, m := range []vdp.Mode{vdp.PreAssociate, vdp.PreAssociateRR, vdp.Associate, vdp.DeAssociate} {
			require.Equal(t, m, s.events[i].Mode)
			require.NoError(t, s.events[i].Err)
		}
		require.Equal(t, []vdp.Mode{vdp.PreAssociate, vdp.PreAssociateRR, vdp.Associate, vdp.DeAssociate}, s.requests())
		require.Empty(t, s.errs)
	})
}

// A day of keepalives, at the interval that was negotiated.
func TestKeepalive(t *testing.T) {
	for name, c := range map[string]struct {
		ed   vdp.Edition
		evb  vdp.EVB
		want time.Duration
	}{
		"draft":              {ed: vdp.EditionDraft, want: 10 * time.Second},
		"2012":               {ed: vdp.Edition2012, want: 10 * time.Microsecond << 20},
		"2012, slow switch":  {ed: vdp.Edition2012, evb: vdp.EVB{RTE: 10, RWD: 20, RKA: 22}, want: 10 * time.Microsecond << 22},
		"2012, quick switch": {ed: vdp.Edition2012, evb: vdp.EVB{RTE: 1, RWD: 1, RKA: 1}, want: 10 * time.Microsecond << 20},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, c.ed)
			s.br = vdptest.NewBridge(vdptest.Config{MAC: bridgeMAC, Edition: c.ed, EVB: c.evb, Supervision: c.want * 3 / 2})
			s.up()
			s.associate(testVSI(1))
			s.run(24 * time.Hour)
			require.Equal(t, []vdp.EventType{vdp.EventEstablished}, s.types())
			log := s.br.Log
			require.InDelta(t, float64(24*time.Hour/c.want), len(log), 2)
			for i := 1; i < len(log); i++ {
				require.Equal(t, vdp.Associate, log[i].Message.Mode)
				require.InDelta(t, c.want, log[i].At.Sub(log[i-1].At), float64(time.Millisecond))
			}
		})
	}
}

func TestRetransmission(t *testing.T) {
	for name, c := range map[string]struct {
		ed       vdp.Edition
		evb      vdp.EVB
		n        int
		interval time.Duration
		answer   time.Duration
	}{
		"draft":             {vdp.EditionDraft, vdp.EVB{}, 3, 500 * time.Millisecond, 3 * time.Second},
		"2012":              {vdp.Edition2012, vdp.EVB{}, 4, 2560 * time.Microsecond, 15755520 * time.Microsecond},
		"2012, slow switch": {vdp.Edition2012, vdp.EVB{Retries: 5, RTE: 12, RWD: 10}, 6, 40960 * time.Microsecond, 16404480 * time.Microsecond},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, c.ed, func(cfg *vdp.Config) { cfg.SetupTimeout = c.answer })
			s.br = vdptest.NewBridge(vdptest.Config{MAC: bridgeMAC, Edition: c.ed, EVB: c.evb})
			s.up()
			s.br.NoAck = true
			start := s.now.Sub(epoch)
			s.associate(testVSI(1))
			s.run(900 * time.Millisecond)
			if c.ed == vdp.EditionDraft {
				s.run(599 * time.Millisecond)
			}
			at, seq := s.ecp()
			require.Len(t, at, c.n)
			for i := range at {
				require.Equal(t, start+time.Duration(i)*c.interval, at[i])
				if c.ed == vdp.EditionDraft {
					require.Equal(t, seq[0]+uint16(i), seq[i], "lldpad ignores a frame that it has seen")
				} else {
					require.Equal(t, seq[0], seq[i])
				}
			}
			// Offered again every second or so while the answer time lasts.
			s.run(c.answer - s.now.Sub(epoch) + start - time.Millisecond)
			require.Empty(t, s.events)
			at, _ = s.ecp()
			require.NotEmpty(t, at)
			s.run(2 * time.Millisecond)
			require.Equal(t, []vdp.EventType{vdp.EventFailed}, s.types())
			require.Equal(t, start+c.answer, s.events[0].at)
			require.ErrorIs(t, s.events[0].Err, vdp.ErrNoAnswer)

			// A late grant would leave a VSI behind: it is withdrawn.
			s.br.NoAck = false
			s.requests()
			s.run(time.Minute)
			require.Contains(t, s.requests(), vdp.DeAssociate)
			require.Empty(t, s.st.VSIs())
			require.Zero(t, s.br.Len())
			require.Len(t, s.events, 1, "%v", s.events)
		})
	}
}

// An answer that was dropped for want of an acknowledgement is asked for again.
func TestLostAnswer(t *testing.T) {
	editions(t, func(t *testing.T, ed vdp.Edition) {
		s := newSim(t, ed).up()
		s.br.NoAnswer = true
		s.associate(testVSI(1))
		s.run(time.Second)
		s.br.NoAnswer = false
		s.run(3 * time.Second)
		require.Equal(t, []vdp.EventType{vdp.EventEstablished}, s.types())
	})
}

// A second of deafness, as lldpad's sleep(1), is no reason to fail.
func TestDeafSecond(t *testing.T) {
	editions(t, func(t *testing.T, ed vdp.Edition) {
		s := newSim(t, ed).up()
		s.br.NoAck = true
		s.associate(testVSI(1))
		s.run(time.Second)
		s.br.NoAck = false
		s.run(time.Second)
		require.Equal(t, []vdp.EventType{vdp.EventEstablished}, s.types())
	})
}

func TestSetupTimeout(t *testing.T) {
	editions(t, func(t *testing.T, ed vdp.Edition) {
		for name, c := range map[string]struct {
			mod  func(s *sim)
			want error
		}{
			"link down":    {func(s *sim) {}, vdp.ErrNoLink},
			"no EVB TLV":   {func(s *sim) { s.br.NoEVB = true; s.do(s.st.LinkUp(s.now)) }, vdp.ErrNoEVB},
			"no answer":    {func(s *sim) { s.up(); s.br.NoAnswer = true }, vdp.ErrNoAnswer},
			"nothing back": {func(s *sim) { s.up(); s.br.NoAck = true }, vdp.ErrNoAnswer},
			"EVB TLV gone": {func(s *sim) {
				s.up()
				s.bridge([][]byte{s.br.Goodbye()})
				s.run(1e6)
				s.br.NoEVB, s.br.NoAck = true, true
			}, vdp.ErrNoEVB},
		} {
			t.Run(name, func(t *testing.T) {
				s := newSim(t, ed)
				c.mod(s)
				s.events = nil
				start := s.now.Sub(epoch)
				s.associate(testVSI(1))
				s.run(time.Minute)
				require.NotEmpty(t, s.events)
				require.Equal(t, vdp.EventFailed, s.events[0].Type)
				require.ErrorIs(t, s.events[0].Err, c.want)
				limit := vdp.DefaultSetupTimeout
				if name == "no answer" { // but an acknowledgement: it may be at work
					limit = max(limit, s.st.Timers().Answer)
				}
				require.LessOrEqual(t, s.events[0].at-start, limit+time.Millisecond)
				require.Len(t, s.events, 1)
				require.Empty(t, s.st.VSIs())
			})
		}
	})
}

// A request made before link and switch are there goes out when they are.
func TestEarlyRequest(t *testing.T) {
	editions(t, func(t *testing.T, ed vdp.Edition) {
		s := newSim(t, ed)
		s.associate(testVSI(1))
		require.ErrorIs(t, s.st.Ready(), vdp.ErrNoLink)
		s.run(3 * time.Second)
		s.do(s.st.LinkUp(s.now))
		require.ErrorIs(t, s.st.Ready(), vdp.ErrNoEVB)
		s.run(3 * time.Second)
		require.NoError(t, s.st.Ready())
		require.Equal(t, []vdp.EventType{vdp.EventNeighbor, vdp.EventEstablished}, s.types())
	})
}

func TestRefusals(t *testing.T) {
	editions(t, func(t *testing.T, ed vdp.Edition) {
		for reason := vdp.Status(1); reason <= 6; reason++ {
			for _, flags := range []vdp.Status{0, vdp.StatusKeep, vdp.StatusHard, vdp.StatusKeep | vdp.StatusHard} {
				if ed == vdp.EditionDraft && flags != 0 {
					continue
				}
				s := newSim(t, ed).up()
				s.br.Answer = func(m vdp.Message) vdptest.Reply { return vdptest.Reply{Status: reason | flags} }
				v := testVSI(1)
				s.associate(v)
				s.run(time.Minute)
				require.Equal(t, []vdp.EventType{vdp.EventFailed}, s.types())
				var refused *vdp.RefusedError
				require.ErrorAs(t, s.events[0].Err, &refused)
				require.Equal(t, ed, refused.Edition)
				require.Equal(t, reason, refused.Status.Reason())
				require.Equal(t, flags, refused.Status&(vdp.StatusKeep|vdp.StatusHard))
				require.Empty(t, s.st.VSIs())
				require.Equal(t, []vdp.Mode{vdp.Associate}, s.requests())
			}
		}
	})
	e := &vdp.RefusedError{Edition: vdp.Edition2012, Status: vdp.StatusAck | vdp.StatusHard | vdp.ReasonInvalidFilter}
	require.EqualError(t, e, "refused by the switch: invalid VID, group or MAC address (permanent)")
	e = &vdp.RefusedError{Edition: vdp.EditionDraft, Status: vdp.ReasonDraftOutOfSync}
	require.EqualError(t, e, "refused by the switch: out of sync")
}

func TestRefusedUpgrade(t *testing.T) {
	for _, keep := range []bool{true, false} {
		s := newSim(t, vdp.Edition2012).up()
		v := testVSI(1)
		out, err := s.st.PreAssociate(s.now, v)
		require.NoError(t, err)
		s.do(out)
		s.run(time.Second)
		s.br.Answer = func(m vdp.Message) vdptest.Reply {
			if m.Mode != vdp.Associate {
				return vdptest.Reply{}
			}
			if keep {
				return vdptest.Reply{Status: vdp.ReasonNoResources | vdp.StatusKeep}
			}
			return vdptest.Reply{Status: vdp.ReasonNoResources}
		}
		s.associate(v)
		s.run(time.Hour)
		require.Equal(t, []vdp.EventType{vdp.EventEstablished, vdp.EventFailed}, s.types())
		require.Equal(t, vdp.Associate, s.events[1].Mode)
		if !keep {
			require.Empty(t, s.st.VSIs())
			continue
		}
		st, ok := s.st.VSI(v.ID)
		require.True(t, ok)
		require.Equal(t, vdp.PreAssociate, st.Mode)
		require.Equal(t, vdp.StateEstablished, st.State)
		require.Equal(t, vdp.PreAssociate, s.br.Mode(v.ID), "keepalives go on in the old mode")
	}
}

func TestBridgeChoosesVID(t *testing.T) {
	editions(t, func(t *testing.T, ed vdp.Edition) {
		s := newSim(t, ed).up()
		vid := uint16(300)
		s.br.Answer = func(m vdp.Message) vdptest.Reply {
			if got := m.VSI.Filters[0].VID; got != 0 && got != vid {
				return vdptest.Reply{Status: vdp.ReasonNoResources}
			}
			return vdptest.Reply{VID: vid}
		}
		v := testVSI(1)
		v.Filters[0].VID = 0
		s.associate(v)
		s.run(time.Minute)
		require.Equal(t, uint16(300), s.events[0].VSI.Filters[0].VID)
		require.Zero(t, v.Filters[0].VID, "the caller's VSI is its own")
		for i, r := range s.br.Log {
			want := uint16(300)
			if i == 0 {
				want = 0
			}
			require.Equal(t, want, r.Message.VSI.Filters[0].VID)
		}

		// The switch comes back and wants another.
		vid = 301
		s.br.Restart()
		s.run(time.Minute)
		s.events = slices.DeleteFunc(s.events, func(e event) bool { return e.Type == vdp.EventNeighbor })
		require.Equal(t, []vdp.EventType{vdp.EventEstablished, vdp.EventLost, vdp.EventEstablished}, s.types())
		require.Equal(t, uint16(301), s.events[2].VSI.Filters[0].VID)
		s.br.Log = nil
		s.deassociate(v)
		s.run(time.Second)
		require.Equal(t, uint16(301), s.br.Log[0].Message.VSI.Filters[0].VID)
	})
}

func TestForeignFilterInAnswer(t *testing.T) {
	s := newSim(t, vdp.Edition2012).up()
	v := testVSI(1)
	s.br.NoAnswer = true
	s.associate(v)
	s.run(time.Second)
	w := testVSI(1)
	w.Filters[0].VID = 200
	s.bridge(s.br.Send(s.now, vdp.Message{Mode: vdp.Associate, Status: vdp.StatusAck, VSI: w}))
	s.br.NoAnswer = false
	s.run(time.Second)
	require.Equal(t, []vdp.EventType{vdp.EventFailed}, s.types())
	require.ErrorIs(t, s.events[0].Err, vdp.ErrFilterMismatch)
	require.Equal(t, []vdp.Mode{vdp.Associate, vdp.DeAssociate}, s.requests())
}

// ECPDUs are spaced, because lldpad's bridge acknowledges before it reads.
func TestPace(t *testing.T) {
	editions(t, func(t *testing.T, ed vdp.Edition) {
		s := newSim(t, ed).up()
		for i := range 200 {
			s.associate(testVSI(i))
		}
		s.run(time.Second)
		require.Equal(t, 200, s.br.Len())
		at, _ := s.ecp()
		require.Greater(t, len(at), 4)
		for i := 1; i < len(at); i++ {
			require.GreaterOrEqual(t, at[i]-at[i-1], map[vdp.Edition]time.Duration{
				vdp.EditionDraft: time.Millisecond, vdp.Edition2012: 5 * time.Millisecond,
			}[ed])
		}
	})
}

func TestPacking(t *testing.T) {
	const n = 1000
	for name, c := range map[string]struct {
		ed       vdp.Edition
		mtu      int
		managers int
		per      int // VSIs in a full ECPDU
	}{
		"draft":                {vdp.EditionDraft, 0, 1, 37},
		"2012":                 {vdp.Edition2012, 0, 1, 42},
		"2012, jumbo":          {vdp.Edition2012, 9000, 1, 42},
		"2012, small MTU":      {vdp.Edition2012, 576, 1, 15},
		"2012, three managers": {vdp.Edition2012, 0, 3, 42},
		"draft, three manager": {vdp.EditionDraft, 0, 3, 37},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, c.ed, func(cfg *vdp.Config) { cfg.MTU = c.mtu; cfg.SetupTimeout = time.Minute }).up()
			s.br.NoAck = true // until all are queued
			for i := range n {
				v := testVSI(i)
				v.Manager = vdp.ManagerID{byte(i % c.managers)}
				s.associate(v)
			}
			s.br.NoAck = false
			s.run(5 * time.Second)
			require.Equal(t, n, s.br.Len())
			require.Len(t, s.events, n)
			groups := 1
			if c.ed == vdp.Edition2012 {
				groups = c.managers
			}
			want := groups*((n/groups+c.per-1)/c.per) + 1 // the first VSI went alone
			require.InDelta(t, want, s.br.ECPDUs, 1)
			for _, f := range s.sent {
				if c.mtu != 0 {
					require.LessOrEqual(t, len(f.frame), c.mtu+14)
				}
			}

			// So do keepalives, however far apart the answers were.
			s.br.ECPDUs = 0
			s.run(11 * time.Second)
			require.InDelta(t, want, s.br.ECPDUs, 2)
			require.Equal(t, n, s.br.Len())
		})
	}
}

// Keepalives of VSIs that came one after the other join.
func TestKeepalivesJoin(t *testing.T) {
	editions(t, func(t *testing.T, ed vdp.Edition) {
		s := newSim(t, ed).up()
		for i := range 20 {
			s.associate(testVSI(i))
			s.run(20 * time.Millisecond)
		}
		require.Equal(t, 20, s.br.ECPDUs)
		s.run(15 * time.Second)
		require.Equal(t, 21, s.br.ECPDUs)
	})
}

// Every frame twice is the same as every frame once.
func TestDuplicates(t *testing.T) {
	editions(t, func(t *testing.T, ed vdp.Edition) {
		s := newSim(t, ed).up()
		s.travel = func(toBridge bool, _ []byte) []time.Duration {
			if toBridge {
				return []time.Duration{1e5}
			}
			return []time.Duration{1e5, 2e5}
		}
		v := testVSI(1)
		s.associate(v)
		s.run(time.Minute)
		s.bridge(s.br.DeAssociate(s.now, v.ID))
		s.run(time.Minute)
		require.Equal(t, []vdp.EventType{vdp.EventEstablished, vdp.EventLost, vdp.EventEstablished}, s.types())
		for _, err := range s.errs {
			require.Equal(t, vdp.ErrStray, err, "an acknowledgement at most")
		}
		require.Equal(t, vdp.StateEstablished, s.state(v))
		deassoc := s.br.DeAssociate(s.now, v.ID)[0]
		for want := 1; want >= 0; want-- {
			out, err := s.st.Handle(s.now, deassoc)
			require.NoError(t, err)
			require.Len(t, out.Events, want)
			require.NotEmpty(t, out.Frames, "each is acknowledged")
		}
	})
}

func TestBridgeDeassociates(t *testing.T) {
	editions(t, func(t *testing.T, ed vdp.Edition) {
		s := newSim(t, ed).up()
		v := testVSI(1)
		s.associate(v)
		s.run(time.Second)
		s.bridge(s.br.DeAssociate(s.now, v.ID))
		s.run(time.Second)
		require.Equal(t, []vdp.EventType{vdp.EventEstablished, vdp.EventLost, vdp.EventEstablished}, s.types())
		require.ErrorIs(t, s.events[1].Err, vdp.ErrBridgeDeassociated)
		require.Equal(t, vdp.Associate, s.br.Mode(v.ID))
		require.Empty(t, s.errs)

		// A switch that does so for ever is asked less and less often, even
		// if the owner answers each loss with a request, as libvirt does.
		s.br.Log = nil
		s.br.Answer = func(m vdp.Message) vdptest.Reply {
			s.br.Send(s.now, vdp.Message{Mode: vdp.DeAssociate, VSI: m.VSI})
			return vdptest.Reply{}
		}
		for range 600 {
			s.run(time.Second)
			if s.state(v) == vdp.StateLost {
				s.associate(v)
			}
		}
		require.Less(t, len(s.br.Log), 40) // each cycle is a keepalive and a request
		require.Greater(t, len(s.br.Log), 15)
	})
}

func TestStrays(t *testing.T) {
	editions(t, func(t *testing.T, ed vdp.Edition) {
		s := newSim(t, ed).up()
		v, other := testVSI(1), testVSI(1)
		s.associate(v)
		s.run(time.Second)
		s.deassociate(v)
		s.run(time.Second)
		s.events = nil
		other.TypeVersion++
		status := vdp.Status(0)
		if ed == vdp.Edition2012 {
			status = vdp.StatusAck
		}
		s.associate(testVSI(2))
		s.run(time.Second)
		for _, m := range []vdp.Message{
			{Mode: vdp.DeAssociate, VSI: v},                    // unknown by now
			{Mode: vdp.Associate, Status: status, VSI: v},      // answer for it
			{Mode: vdp.DeAssociate, VSI: other},                // another type
			{Mode: vdp.Associate, Status: status, VSI: other},  //
			{Mode: vdp.PreAssociate, VSI: testVSI(2)},          // a bridge does not ask
			{Mode: vdp.Associate, VSI: testVSI(2)},             //
			{Mode: vdp.Associate, Status: 2, VSI: testVSI(2)},  // nobody asked
			{Mode: vdp.Associate, Status: 66, VSI: testVSI(2)}, //
		} {
			if ed == vdp.EditionDraft && m.Status > 6 {
				continue
			}
			s.errs = nil
			s.bridge(s.br.Send(s.now, m))
			s.run(3 * time.Second)
			require.Len(t, s.errs, 1, "%+v", m)
			require.ErrorIs(t, s.errs[0], vdp.ErrStray, "%+v", m)
		}
		require.Equal(t, []vdp.EventType{vdp.EventEstablished}, s.types())
		require.Equal(t, vdp.StateEstablished, s.state(testVSI(2)))
	})
}

// lldpad's bridge forgets to forget: its supervision ends 15.75 s after a
// successful de-associate with a de-associate of its own.
func TestStrayDeassociateAfterReassociation(t *testing.T) {
	editions(t, func(t *testing.T, ed vdp.Edition) {
		s := newSim(t, ed).up()
		v := testVSI(1)
		s.associate(v)
		s.run(time.Second)
		s.deassociate(v)
		s.associate(v) // waits for the end of the de-association
		s.run(time.Second)
		require.Equal(t, []vdp.EventType{vdp.EventEstablished, vdp.EventRemoved, vdp.EventEstablished}, s.types())
		require.Equal(t, []vdp.Mode{vdp.Associate, vdp.DeAssociate, vdp.Associate}, s.requests())
		s.bridge(s.br.Send(s.now, vdp.Message{Mode: vdp.DeAssociate, VSI: v}))
		s.run(time.Second)
		require.Equal(t, vdp.StateEstablished, s.state(v))
	})
}

func TestReplace(t *testing.T) {
	editions(t, func(t *testing.T, ed vdp.Edition) {
		s := newSim(t, ed).up()
		v, w := testVSI(1), testVSI(1)
		w.Filters[0].VID = 200
		s.associate(v)
		s.run(time.Second)
		s.associate(w)
		s.run(time.Second)
		require.Equal(t, []vdp.Mode{vdp.Associate, vdp.DeAssociate, vdp.Associate}, s.requests())
		st, _ := s.st.VSI(v.ID)
		require.Equal(t, uint16(200), st.VSI.Filters[0].VID)
		require.Equal(t, vdp.StateEstablished, st.State)

		// Asking again for what is there is a confirmation.
		s.associate(w)
		s.run(time.Second)
		require.Equal(t, []vdp.Mode{vdp.Associate}, s.requests())
		require.Equal(t, vdp.EventEstablished, s.events[len(s.events)-1].Type)
	})
}

func TestLimitsOfStation(t *testing.T) {
	s := newSim(t, vdp.Edition2012, func(c *vdp.Config) { c.MaxVSIs = 1 }).up()
	s.associate(testVSI(1))
	_, err := s.st.Associate(s.now, testVSI(2))
	require.ErrorIs(t, err, vdp.ErrTooMany)
	s.associate(testVSI(1))
	bad := testVSI(1)
	bad.Filters = nil
	_, err = s.st.Associate(s.now, bad)
	require.ErrorIs(t, err, vdp.ErrLength)
	_, err = s.st.Restore(s.now, testVSI(1), vdp.DeAssociate)
	require.ErrorIs(t, err, vdp.ErrRange)
	for _, c := range []vdp.Config{
		{}, {MAC: vdp.NearestBridge}, {MAC: stationMAC, MTU: 500}, {MAC: stationMAC, Edition: 3},
		{MAC: stationMAC, EVB: vdp.EVBConfig{RTE: 32}}, {MAC: stationMAC, MaxVSIs: -1},
	} {
		_, err := vdp.NewStation(c)
		require.ErrorIs(t, err, vdp.ErrRange)
	}
}
