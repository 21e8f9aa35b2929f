package vdp_test

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/vdptest"
)

// stranger is neither the station nor the switch.
var stranger = vdp.MAC{0x02, 0xee, 0, 0, 0, 1}

// agentLLDP is an LLDPDU with an EVB TLV of the 2012 edition, of an agent whose ids are a MAC address.
func agentLLDP(id vdp.MAC, mod ...func(*vdp.LLDPDU)) vdp.LLDPDU {
	p := vdp.LLDPDU{
		Chassis: append([]byte{4}, id[:]...), Port: append([]byte{3}, id[:]...), TTL: 120,
		EVB: &vdp.EVB{Role: vdp.RoleBridge, Retries: 3, RTE: 8, RWD: 20, RKA: 20},
	}
	for _, f := range mod {
		f(&p)
	}
	return p
}

func etherFrame(t *testing.T, dst, src vdp.MAC, etherType uint16, payload interface{ MarshalBinary() ([]byte, error) }) []byte {
	t.Helper()
	b, err := payload.MarshalBinary()
	require.NoError(t, err)
	f := vdp.Frame{Dst: dst, Src: src, EtherType: etherType, Payload: b}
	b, err = f.MarshalBinary()
	require.NoError(t, err)
	return b
}

func lldpFrame(t *testing.T, dst, src vdp.MAC, p vdp.LLDPDU) []byte {
	t.Helper()
	return etherFrame(t, dst, src, vdp.EtherTypeLLDP, &p)
}

// hand gives the station a frame and returns what came of it.
func (s *sim) hand(f []byte) error {
	out, err := s.st.Handle(s.now, f)
	s.do(out)
	return err
}

// view is what a frame might change.
type view struct {
	neighbor  vdp.Neighbor
	known     bool
	conflicts []vdp.Neighbor
	edition   vdp.Edition
	timers    vdp.Timers
	vsis      []vdp.VSIStatus
	ready     error
	next      time.Time
}

func (s *sim) view() view {
	n, known := s.st.Neighbor()
	return view{n, known, s.st.Conflicts(), s.st.Edition(), s.st.Timers(), s.st.VSIs(), s.st.Ready(), s.st.Next()}
}

// requireIgnored hands in a frame that has to change nothing, and to be answered by nothing.
func (s *sim) requireIgnored(want error, f []byte) {
	s.t.Helper()
	before := s.view()
	out, err := s.st.Handle(s.now, f)
	require.ErrorIs(s.t, err, want)
	require.Equal(s.t, vdp.Output{}, out)
	require.Equal(s.t, before, s.view())
}

// tagged puts a VLAN tag into a frame.
func tagged(f []byte, typ, vid uint16) []byte {
	tag := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, typ), vid)
	return append(append(append([]byte{}, f[:12]...), tag...), f[12:]...)
}

func TestUnicastIsNotTheSwitch(t *testing.T) {
	editions(t, func(t *testing.T, ed vdp.Edition) {
		s := newSim(t, ed)
		s.do(s.st.LinkUp(s.now))
		long := agentLLDP(stranger, func(p *vdp.LLDPDU) {
			p.TTL, p.EVB = 65535, &vdp.EVB{Role: vdp.RoleBridge, Retries: 7, RTE: 31, RWD: 31, RKA: 31}
		})
		for _, src := range []vdp.MAC{stranger, bridgeMAC} {
			s.requireIgnored(vdp.ErrNotForUs, lldpFrame(t, stationMAC, src, long))
		}
		s.run(2 * time.Second)
		s.associate(testVSI(1))
		s.run(time.Second)
		goodbye := agentLLDP(bridgeMAC, func(p *vdp.LLDPDU) { p.TTL = 0 })
		for _, dst := range []vdp.MAC{stationMAC, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, {0x01, 0x80, 0xc2, 0, 0, 0x21}} {
			s.requireIgnored(vdp.ErrNotForUs, lldpFrame(t, dst, bridgeMAC, goodbye))
			s.requireIgnored(vdp.ErrNotForUs, s.deassociation(dst, bridgeMAC, testVSI(1)))
		}
	})
}

// deassociation is an unsolicited De-associate of the edition in use.
func (s *sim) deassociation(dst, src vdp.MAC, v vdp.VSI) []byte {
	s.t.Helper()
	ed := s.br.Edition
	payload, err := vdp.MarshalMessages(ed, []vdp.Message{{Mode: vdp.DeAssociate, VSI: v}})
	require.NoError(s.t, err)
	p := vdp.ECPDU{Edition: ed, Sequence: 0x4321, Payload: payload}
	typ := vdp.EtherTypeECPDraft
	if ed == vdp.Edition2012 {
		p.Subtype, typ = vdp.ECPSubtypeVDP, vdp.EtherTypeECP
	}
	return etherFrame(s.t, dst, src, typ, &p)
}

func ecpGroup(ed vdp.Edition) vdp.MAC {
	if ed == vdp.EditionDraft {
		return vdp.NearestBridge
	}
	return vdp.NearestCustomerBridge
}

// A guest's frame that a bridge with hairpin mode reflects, whatever the guest calls itself.
func TestEcho(t *testing.T) {
	editions(t, func(t *testing.T, ed vdp.Edition) {
		s := newSim(t, ed).up()
		s.associate(testVSI(1))
		s.run(time.Second)
		for _, src := range []vdp.MAC{stranger, bridgeMAC} {
			for _, f := range [][]byte{
				lldpFrame(t, vdp.NearestCustomerBridge, src, agentLLDP(bridgeMAC, func(p *vdp.LLDPDU) { p.TTL = 0 })),
				lldpFrame(t, vdp.NearestBridge, src, agentLLDP(stranger)),
				lldpFrame(t, vdp.NearestNonTPMRBridge, src, agentLLDP(stranger, func(p *vdp.LLDPDU) { p.TTL = 7 })),
				s.deassociation(ecpGroup(ed), src, testVSI(1)),
			} {
				for _, sent := range [][]byte{f, tagged(f, 0x8100, 0), tagged(tagged(f, 0x8100, 5), 0x88a8, 7), f[:len(f)-1]} {
					s.st.Sent(s.now, sent)
					for _, back := range [][]byte{f, append(append([]byte{}, f...), 0, 0, 0, 0)} {
						s.requireIgnored(vdp.ErrEcho, back)
						s.run(4900 * time.Millisecond)
						s.requireIgnored(vdp.ErrEcho, back)
						s.run(6 * time.Second) // forgotten
						s.st.Sent(s.now, sent)
					}
					s.run(11 * time.Second)
				}
			}
		}
		require.Equal(t, vdp.StateEstablished, s.state(testVSI(1)))
		require.NoError(t, s.hand(s.deassociation(ecpGroup(ed), bridgeMAC, testVSI(1))))
		require.Equal(t, vdp.EventLost, s.events[len(s.events)-1].Type, "the same from the wire counts")
	})
}

// Before the first LLDPDU of the switch, too.
func TestEchoComesFirst(t *testing.T) {
	s := newSim(t, vdp.Edition2012)
	s.do(s.st.LinkUp(s.now))
	forged := lldpFrame(t, vdp.NearestCustomerBridge, bridgeMAC, agentLLDP(bridgeMAC))
	s.st.Sent(s.now, forged)
	s.requireIgnored(vdp.ErrEcho, forged)
}

// Who floods the table hides nothing in it.
func TestEchoFlood(t *testing.T) {
	s := newSim(t, vdp.Edition2012).up()
	forged := lldpFrame(t, vdp.NearestCustomerBridge, stranger, agentLLDP(stranger))
	s.st.Sent(s.now, forged)
	for i := range 140_000 {
		s.st.Sent(s.now, lldpFrame(t, vdp.NearestCustomerBridge, stranger, agentLLDP(stranger, func(p *vdp.LLDPDU) {
			p.Port = binary.BigEndian.AppendUint32([]byte{7}, uint32(i))
		})))
	}
	s.requireIgnored(vdp.ErrDeaf, forged)
	other := lldpFrame(t, vdp.NearestCustomerBridge, stranger, agentLLDP(stranger, func(p *vdp.LLDPDU) { p.TTL = 9 }))
	s.requireIgnored(vdp.ErrDeaf, other)
	s.run(4900 * time.Millisecond)
	s.requireIgnored(vdp.ErrDeaf, other)
	s.run(200 * time.Millisecond)
	require.ErrorIs(t, s.hand(other), vdp.ErrConflict, "heard again")

	s.st.Missed(s.now)
	s.requireIgnored(vdp.ErrDeaf, forged)
}

func TestOneNeighbor(t *testing.T) {
	second := func(mod ...func(*vdp.LLDPDU)) vdp.LLDPDU {
		return agentLLDP(stranger, append([]func(*vdp.LLDPDU){func(p *vdp.LLDPDU) {
			p.EVB = nil
			p.Draft = &vdp.EVBDraft{SupportedForwarding: vdp.ForwardStandard, SupportedCapabilities: vdp.CapECP | vdp.CapVDP}
		}}, mod...)...)
	}
	for name, c := range map[string]struct {
		end  func(s *sim)
		wait time.Duration
	}{
		"shutdown": {func(s *sim) { s.bridge([][]byte{s.br.Goodbye()}) }, time.Second},
		"EVB is over": {func(s *sim) {
			s.hand(lldpFrame(s.t, vdp.NearestCustomerBridge, bridgeMAC, agentLLDP(bridgeMAC, func(p *vdp.LLDPDU) { p.EVB = nil })))
		}, 0},
		"aged out": {func(s *sim) {}, 125 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, vdp.Edition2012).up()
			for i := range 20 {
				s.associate(testVSI(i))
			}
			s.run(2 * time.Second)
			s.events = nil
			for range 10 {
				require.ErrorIs(t, s.hand(lldpFrame(t, vdp.NearestBridge, bridgeMAC, second())), vdp.ErrConflict)
				s.run(30 * time.Second)
			}
			require.Equal(t, []vdp.EventType{vdp.EventConflict}, s.types(), "no VSI is ended, and it is said once")
			require.Equal(t, bridgeMAC, s.events[0].Source)
			require.Equal(t, vdp.Edition2012, s.st.Edition())
			all := s.st.Conflicts()
			require.Len(t, all, 1)
			require.Equal(t, stranger.String(), all[0].ChassisID())
			require.Equal(t, 300*time.Second, s.now.Sub(all[0].Since))

			s.events, s.br.NoEVB, s.br.NoAck = nil, true, true
			c.end(s)
			for end := s.now.Add(c.wait); s.now.Before(end); s.run(time.Second) {
				s.hand(lldpFrame(t, vdp.NearestBridge, bridgeMAC, second()))
			}
			require.Equal(t, vdp.EditionDraft, s.st.Edition(), "the second follows at once")
			n, _ := s.st.Neighbor()
			require.Equal(t, vdp.NearestBridge, n.Group)
			require.Empty(t, s.st.Conflicts())
		})
	}
}

// EVB belongs to the nearest customer bridge; a switch may send its TLV elsewhere as well.
func TestNearestCustomerBridgeIsPreferred(t *testing.T) {
	s := newSim(t, vdp.Edition2012)
	s.br.NoEVB = true
	s.do(s.st.LinkUp(s.now))
	require.NoError(t, s.hand(lldpFrame(t, vdp.NearestBridge, bridgeMAC, agentLLDP(bridgeMAC))))
	require.NoError(t, s.hand(lldpFrame(t, vdp.NearestCustomerBridge, bridgeMAC, agentLLDP(bridgeMAC))))
	n, _ := s.st.Neighbor()
	require.Equal(t, vdp.NearestCustomerBridge, n.Group)
	require.ErrorIs(t, s.hand(lldpFrame(t, vdp.NearestBridge, bridgeMAC, agentLLDP(bridgeMAC))), vdp.ErrConflict)
	for _, e := range s.events {
		require.NotEqual(t, vdp.EventConflict, e.Type, "one switch is no conflict")
	}
	require.ErrorIs(t, s.hand(lldpFrame(t, vdp.NearestCustomerBridge, stranger, agentLLDP(stranger))), vdp.ErrConflict)
}

// The agent that follows is told of the station at once, and no sooner.
func TestLLDPIsNotDueInThePast(t *testing.T) {
	s := newSim(t, vdp.Edition2012)
	s.br.NoEVB = true
	s.do(s.st.LinkUp(s.now))
	s.run(time.Second)
	agent := func(n byte, ttl uint16) []byte {
		id := vdp.MAC{0x02, 0xcc, 0, 0, 0, n}
		return lldpFrame(t, vdp.NearestCustomerBridge, id, agentLLDP(id, func(p *vdp.LLDPDU) { p.TTL = ttl }))
	}
	require.NoError(t, s.hand(agent(1, 100)))
	require.ErrorIs(t, s.hand(agent(2, 300)), vdp.ErrConflict)
	for source := byte(1); source == 1; {
		s.now = s.st.Next()
		s.do(s.st.Tick(s.now))
		require.False(t, s.st.Next().Before(s.now), "due %v ago", s.now.Sub(s.st.Next()))
		n, _ := s.st.Neighbor()
		source = n.Source[5]
	}
}

func TestConflictsAreBounded(t *testing.T) {
	s := newSim(t, vdp.Edition2012).up()
	for i := range 1000 {
		p := agentLLDP(stranger, func(p *vdp.LLDPDU) { p.Chassis = binary.BigEndian.AppendUint32([]byte{7}, uint32(i)) })
		require.ErrorIs(t, s.hand(lldpFrame(t, vdp.NearestCustomerBridge, stranger, p)), vdp.ErrConflict)
	}
	require.Len(t, s.st.Conflicts(), 8)
	require.Equal(t, []vdp.EventType{vdp.EventConflict}, s.types())
}

func TestTTLIsBounded(t *testing.T) {
	s := newSim(t, vdp.Edition2012)
	s.br.NoEVB = true
	s.do(s.st.LinkUp(s.now))
	require.NoError(t, s.hand(lldpFrame(t, vdp.NearestCustomerBridge, bridgeMAC, agentLLDP(bridgeMAC, func(p *vdp.LLDPDU) { p.TTL = 65535 }))))
	s.run(299 * time.Second)
	_, known := s.st.Neighbor()
	require.True(t, known)
	s.run(2 * time.Second)
	_, known = s.st.Neighbor()
	require.False(t, known)
}

func TestForeignECP(t *testing.T) {
	editions(t, func(t *testing.T, ed vdp.Edition) {
		for _, pinned := range []bool{false, true} {
			s := newSim(t, ed, func(c *vdp.Config) {
				if pinned {
					c.Pins = []vdp.Pin{{Kind: vdp.PinSource, MAC: stranger}}
				}
			}).up()
			s.associate(testVSI(1))
			s.run(time.Second)
			s.events = nil
			f := s.deassociation(ecpGroup(ed), stranger, testVSI(1))
			if pinned {
				require.NoError(t, s.hand(f))
				require.Equal(t, []vdp.EventType{vdp.EventLost}, s.types())
				continue
			}
			require.ErrorIs(t, s.hand(f), vdp.ErrForeign)
			require.Equal(t, []vdp.EventType{vdp.EventForeign}, s.types())
			require.Equal(t, stranger, s.events[0].Source)
			s.requireIgnored(vdp.ErrForeign, f)
		}
	})
}

func TestPins(t *testing.T) {
	id := vdp.MAC{0x02, 0xcc, 0, 0, 0, 7}
	for text, want := range map[string]bool{
		"02:bb:00:00:00:01":         true, // says nothing about LLDP
		"mac=02:bb:00:00:00:01":     true,
		"mac=02:bb:00:00:00:02":     false,
		"chassis=02:cc:00:00:00:07": true,
		"chassis=rack 4":            false,
	} {
		pin, err := vdp.ParsePin(text)
		require.NoError(t, err)
		s := newSim(t, vdp.Edition2012, func(c *vdp.Config) { c.Pins = []vdp.Pin{pin} })
		s.br.NoEVB = true
		s.do(s.st.LinkUp(s.now))
		f := lldpFrame(t, vdp.NearestCustomerBridge, bridgeMAC, agentLLDP(id))
		if !want {
			s.requireIgnored(vdp.ErrForeign, f)
			continue
		}
		require.NoError(t, s.hand(f), text)
	}
	for _, text := range []string{"", "mac=", "chassis=", "02:bb", "01:80:c2:00:00:00", "port=1", "02:bb:00:00:00:01:00:00"} {
		_, err := vdp.ParsePin(text)
		require.ErrorIs(t, err, vdp.ErrRange, "%q", text)
	}
}

// What a switch asks for has limits, but not what the host's administrator does.
func TestExponentLimits(t *testing.T) {
	for _, own := range []uint8{0, 25} {
		s := newSim(t, vdp.Edition2012, func(c *vdp.Config) {
			if own != 0 {
				c.EVB = vdp.EVBConfig{Retries: 3, RTE: 8, RWD: own, RKA: 20}
			}
		})
		s.br.EVB = vdp.EVB{Retries: 7, RTE: 31, RWD: 31, RKA: 31}
		s.up()
		peer, used := s.st.Exponents()
		require.Equal(t, [4]uint8{7, 31, 31, 31}, [4]uint8{peer.Retries, peer.RTE, peer.RWD, peer.RKA})
		want := [4]uint8{7, 17, max(22, own), 23}
		require.Equal(t, want, [4]uint8{used.Retries, used.RTE, used.RWD, used.RKA})
		sent := s.br.Station().EVB
		require.Equal(t, want, [4]uint8{sent.Retries, sent.RTE, sent.RWD, sent.RKA})
		require.False(t, sent.ROLResource || sent.ROLKeepalive, "not the switch's value")
		require.Equal(t, 10*time.Microsecond<<23, s.st.Timers().Keepalive)
	}
}

// Waits that are under way follow the negotiated values.
func TestWaitsFollowTheTimers(t *testing.T) {
	t.Run("keepalive", func(t *testing.T) {
		s := newSim(t, vdp.Edition2012)
		s.br = vdptest.NewBridge(vdptest.Config{MAC: bridgeMAC, Edition: vdp.Edition2012, EVB: vdp.EVB{Retries: 3, RTE: 8, RWD: 20, RKA: 23}})
		s.up()
		s.associate(testVSI(1))
		s.run(time.Second)
		s.br.EVB.RKA, s.br.Log = 20, nil
		s.run(10 * time.Second) // its next LLDPDU
		require.Equal(t, 10*time.Microsecond<<20, s.st.Timers().Keepalive)
		s.run(10 * time.Microsecond << 20)
		require.NotEmpty(t, s.br.Log)
	})
	// What the switch counts from the last keepalive is what was agreed on then.
	t.Run("keepalive, less often", func(t *testing.T) {
		s := newSim(t, vdp.Edition2012)
		s.br.Supervision = 15750 * time.Millisecond
		s.up()
		s.associate(testVSI(1))
		s.run(5 * time.Second)
		s.events = nil
		s.br.EVB.RKA, s.br.Supervision = 23, 2*time.Minute
		s.run(time.Hour)
		require.Equal(t, 10*time.Microsecond<<23, s.st.Timers().Keepalive)
		require.Empty(t, s.events)
	})
	t.Run("ECP and answer", func(t *testing.T) {
		s := newSim(t, vdp.Edition2012)
		s.br.EVB.RTE, s.br.EVB.Retries, s.br.EVB.RWD = 17, 7, 22
		s.up()
		s.br.NoAck = true
		s.associate(testVSI(1))
		s.run(time.Millisecond)
		s.br.NoAck = false
		s.br.EVB.RTE, s.br.EVB.Retries, s.br.EVB.RWD = 8, 3, 20
		require.NoError(t, s.hand(s.br.Tick(s.now.Add(10 * time.Second))[0]))
		s.run(10 * time.Millisecond)
		require.Equal(t, vdp.StateEstablished, s.state(testVSI(1)))
	})
}

// A VSI manager may take nearly as long as RWD allows.
func TestSlowManager(t *testing.T) {
	for _, delay := range []time.Duration{4 * time.Second, 9500 * time.Millisecond, 10400 * time.Millisecond} {
		for _, restored := range []bool{false, true} {
			s := newSim(t, vdp.Edition2012).up()
			s.travel = func(toBridge bool, b []byte) []time.Duration {
				var f vdp.Frame
				require.NoError(t, f.UnmarshalBinary(b))
				if !toBridge && f.EtherType == vdp.EtherTypeECP {
					if p, err := vdp.UnmarshalECPDU(vdp.Edition2012, f.Payload); err == nil && !p.Ack {
						return []time.Duration{delay}
					}
				}
				return []time.Duration{100 * time.Microsecond}
			}
			start := s.now
			if restored {
				out, err := s.st.Restore(s.now, testVSI(1), vdp.Associate)
				require.NoError(t, err)
				s.do(out)
			} else {
				s.associate(testVSI(1))
			}
			s.run(time.Minute)
			require.Equal(t, []vdp.EventType{vdp.EventEstablished}, s.types())
			require.InDelta(t, delay.Seconds(), (start.Sub(epoch).Seconds()-s.events[0].at.Seconds())*-1, 0.1)
			require.Equal(t, 1, s.br.Len())
		}
	}
}

// A switch that was reloaded knows no VSI. The link stays up.
func TestReloadWithoutCarrierLoss(t *testing.T) {
	editions(t, func(t *testing.T, ed vdp.Edition) {
		for _, goodbye := range []bool{true, false} {
			s := newSim(t, ed)
			s.br.EVB = vdp.EVB{Retries: 3, RTE: 8, RWD: 22, RKA: 23}
			s.up()
			for i := range 50 {
				s.associate(testVSI(i))
			}
			s.run(5 * time.Second)
			require.Equal(t, 50, s.br.Len())
			s.events = nil
			if goodbye {
				s.bridge([][]byte{s.br.Goodbye()})
			}
			s.br.Restart()
			s.br.NoEVB, s.br.NoAck = true, true
			s.run(3 * time.Second)
			s.br.NoEVB, s.br.NoAck = false, false
			s.br.Restart()
			s.run(3 * time.Second)
			if goodbye || ed == vdp.Edition2012 { // vdptest's draft bridge does not echo what it has heard
				require.Equal(t, 50, s.br.Len())
			}
			for _, e := range s.events {
				require.NotContains(t, []vdp.EventType{vdp.EventFailed, vdp.EventRemoved}, e.Type)
			}
		}
	})
}

func TestDeassociateInAnswerToAssociate(t *testing.T) {
	s := newSim(t, vdp.Edition2012).up()
	s.br.NoAnswer = true
	s.associate(testVSI(1))
	s.run(100 * time.Millisecond)
	s.bridge(s.br.Send(s.now, vdp.Message{Mode: vdp.DeAssociate, Status: vdp.StatusAck, VSI: testVSI(1)}))
	s.run(10 * time.Millisecond)
	require.Equal(t, []vdp.EventType{vdp.EventFailed}, s.types())
	require.ErrorIs(t, s.events[0].Err, vdp.ErrBridgeDeassociated)
	require.Empty(t, s.st.VSIs())
}

// A guest that knows a VSI's id can have the switch drop it in the host's name. The answer shows it.
func TestDeassociatedInOurName(t *testing.T) {
	s := newSim(t, vdp.Edition2012).up()
	v := testVSI(1)
	s.associate(v)
	s.run(time.Second)
	s.events = nil
	s.bridge(s.br.Handle(s.now, s.deassociation(vdp.NearestCustomerBridge, stationMAC, v)))
	require.Zero(t, s.br.Mode(v.ID))
	s.run(10 * time.Millisecond)
	require.Equal(t, vdp.Associate, s.br.Mode(v.ID))
	require.Equal(t, []vdp.EventType{vdp.EventLost, vdp.EventEstablished}, s.types())
}

// A late answer to the de-association before is no refusal.
func TestLateAnswerToDeassociate(t *testing.T) {
	s := newSim(t, vdp.Edition2012).up()
	v := testVSI(1)
	s.associate(v)
	s.run(time.Second)
	s.br.NoAnswer = true
	s.deassociate(v)
	v.TypeVersion = 9
	old := testVSI(1)
	s.associate(v)
	s.run(16 * time.Second) // the answer is given up
	s.events = nil
	s.bridge(s.br.Send(s.now, vdp.Message{Mode: vdp.DeAssociate, Status: vdp.StatusAck, VSI: old}))
	s.bridge(s.br.Send(s.now, vdp.Message{Mode: vdp.DeAssociate, Status: vdp.StatusAck, VSI: v}))
	s.run(100 * time.Millisecond)
	s.br.NoAnswer = false
	s.run(4 * time.Second)
	require.Equal(t, []vdp.EventType{vdp.EventEstablished}, s.types())
}

func TestGroupIDs(t *testing.T) {
	v := testVSI(1)
	v.FilterFormat, v.Filters[0].Group = vdp.FilterGroupMACVID, 5000
	for _, c := range []struct{ own, theirs bool }{{false, false}, {true, false}, {false, true}, {true, true}} {
		s := newSim(t, vdp.Edition2012, func(cfg *vdp.Config) { cfg.EVB.GroupIDs = c.own })
		s.br.EVB.BridgeGroupID = c.theirs
		early := s.st.Ready()
		require.Error(t, early)
		if out, err := s.st.Associate(s.now, v); c.own {
			require.NoError(t, err, "not known yet")
			s.do(out)
		} else {
			require.ErrorIs(t, err, vdp.ErrNoGroups)
		}
		s.do(s.st.LinkUp(s.now))
		s.run(3 * time.Second)
		require.Equal(t, c.own, s.br.Station().EVB.StationGroupID)
		if c.own && c.theirs {
			require.Equal(t, vdp.StateEstablished, s.state(v))
			continue
		}
		require.Empty(t, s.br.Log)
		_, err := s.st.Associate(s.now, v)
		require.ErrorIs(t, err, vdp.ErrNoGroups)
	}
}

// An edition that is configured needs no EVB TLV, but somebody whose ECP counts.
func TestFixedEditionWithoutLLDP(t *testing.T) {
	editions(t, func(t *testing.T, ed vdp.Edition) {
		for _, pinned := range []bool{false, true} {
			s := newSim(t, ed, func(c *vdp.Config) {
				c.Edition = ed
				if pinned {
					c.Pins = []vdp.Pin{{Kind: vdp.PinSource, MAC: bridgeMAC}}
				}
			})
			s.br.NoEVB = true
			s.do(s.st.LinkUp(s.now))
			s.associate(testVSI(1))
			s.run(time.Second)
			if pinned {
				require.Equal(t, []vdp.EventType{vdp.EventEstablished}, s.types())
			} else {
				require.Equal(t, []vdp.EventType{vdp.EventForeign}, s.types())
			}
		}
	})
}
