package vdp_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/vdptest"
)

// The sockets cut long frames at the same length. A bridge that takes the tag off moves
// what is cut.
func TestEchoOfALongFrame(t *testing.T) {
	const socket = 2048 // uplink's maxFrame
	s := newSim(t, vdp.Edition2012).up()
	f := lldpFrame(t, vdp.NearestCustomerBridge, stranger, agentLLDP(bridgeMAC, func(p *vdp.LLDPDU) { p.TTL = 0 }))
	for len(f) < 3000 {
		f = append(f, byte(len(f)*7))
	}
	s.st.Sent(s.now, tagged(f, 0x8100, 5)[:socket])
	s.requireIgnored(vdp.ErrEcho, f[:socket])
}

// A switch that takes no group ids for a while is no reason to forget VSIs with them.
func TestGroupIDsWithdrawn(t *testing.T) {
	v := testVSI(1)
	v.FilterFormat, v.Filters[0].Group = vdp.FilterGroupMACVID, 5000
	for name, lost := range map[string]bool{"in use": false, "while lost": true} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, vdp.Edition2012, func(c *vdp.Config) { c.EVB.GroupIDs = true })
			s.br.EVB.BridgeGroupID = true
			s.up()
			s.associate(v)
			s.run(time.Second)
			require.Equal(t, vdp.StateEstablished, s.state(v))
			s.events = nil
			if lost {
				s.bridge(s.br.Send(s.now, vdp.Message{Mode: vdp.DeAssociate, VSI: v}))
			}
			s.br.EVB.BridgeGroupID = false
			s.run(time.Minute)
			require.NotContains(t, s.types(), vdp.EventFailed)
			s.br.EVB.BridgeGroupID = true
			s.run(90 * time.Second)
			require.Equal(t, vdp.StateEstablished, s.state(v))
			require.Equal(t, vdp.Associate, s.br.Mode(v.ID))
		})
	}
}

// Nor is one that speaks the draft for a while, in which some VSIs cannot be expressed.
func TestEditionFlapOfAVSIThatTheDraftCannotExpress(t *testing.T) {
	s := newSim(t, vdp.Edition2012).up()
	v := testVSI(1)
	v.Manager[15] = 1
	s.associate(v)
	s.run(time.Second)
	require.Equal(t, vdp.StateEstablished, s.state(v))
	s.events = nil
	s.br.Edition = vdp.EditionDraft
	s.br.Restart()
	s.run(40 * time.Second)
	require.Equal(t, vdp.EditionDraft, s.st.Edition())
	require.NotContains(t, s.types(), vdp.EventFailed)
	s.br.Edition = vdp.Edition2012
	s.br.Restart()
	s.run(40 * time.Second)
	require.Equal(t, vdp.StateEstablished, s.state(v))
}

// What the draft's EVB TLV sends has the limit, too.
func TestExponentLimitOfTheDraft(t *testing.T) {
	s := newSim(t, vdp.EditionDraft)
	s.do(s.st.LinkUp(s.now))
	require.NoError(t, s.hand(lldpFrame(t, vdp.NearestCustomerBridge, bridgeMAC, agentLLDP(bridgeMAC, func(p *vdp.LLDPDU) {
		p.EVB = nil
		p.Draft = &vdp.EVBDraft{SupportedForwarding: 0xc0, SupportedCapabilities: 7, RTE: 31}
	}))))
	s.br.NoEVB = true
	s.run(2 * time.Second)
	require.EqualValues(t, 17, s.br.Station().Draft.RTE)
}

// A station that does not know its switch sends the TLVs of both editions. Two on one
// segment are not each other's switch.
func TestStationWithBothEditionsIsNoSwitch(t *testing.T) {
	s := newSim(t, vdp.Edition2012)
	s.br.NoEVB = true
	s.do(s.st.LinkUp(s.now))
	other, err := vdp.NewStation(vdp.Config{MAC: stranger})
	require.NoError(t, err)
	for _, f := range other.LinkUp(s.now).Frames {
		_ = s.hand(f)
	}
	_, known := s.st.Neighbor()
	require.False(t, known)
}

// A wait that was prolonged for a slow manager ends earlier when the switch says so.
func TestProlongedWaitFollowsTheTimers(t *testing.T) {
	s := newSim(t, vdp.Edition2012)
	s.br.EVB.RWD = 22
	s.up()
	s.br.NoAnswer = true
	s.associate(testVSI(1))
	s.run(time.Second)
	s.br.EVB.RWD = 20
	require.NoError(t, s.hand(s.br.Tick(s.now.Add(10 * time.Second))[0]))
	require.Less(t, s.st.Timers().Answer, 16*time.Second)
	s.events = nil
	s.run(16 * time.Second)
	require.Equal(t, []vdp.EventType{vdp.EventFailed}, s.types())
}

// The switch of before a restart is not known any more where the link is down at the start.
func TestLastNeighborBehindALinkThatIsDown(t *testing.T) {
	s := newSim(t, vdp.Edition2012).up()
	last, _ := s.st.Neighbor()
	s.boot(func(c *vdp.Config) { c.LastEdition, c.LastNeighbor = vdp.Edition2012, &last })
	s.do(s.st.LinkDown(s.now))
	s.br = vdptest.NewBridge(vdptest.Config{MAC: stranger, Edition: vdp.Edition2012})
	s.events = nil
	s.do(s.st.LinkUp(s.now))
	s.run(2 * time.Second)
	n, _ := s.st.Neighbor()
	require.Equal(t, stranger, n.Source)
}

// A switch that agrees on EVB anew and takes leave before we have answered.
func TestDeAssociateWhileNothingIsAgreed(t *testing.T) {
	s := newSim(t, vdp.Edition2012).up()
	s.associate(testVSI(1))
	s.run(time.Second)
	s.br.NoAnswer, s.br.NoAck = true, true
	s.deassociate(testVSI(1))
	s.run(100 * time.Millisecond)
	s.br.NoEVB = true
	require.NoError(t, s.hand(lldpFrame(t, vdp.NearestCustomerBridge, bridgeMAC, func() vdp.LLDPDU {
		n, _ := s.st.Neighbor()
		return agentLLDP(bridgeMAC, func(p *vdp.LLDPDU) { p.Chassis, p.Port = n.Chassis, n.Port })
	}())))
	require.Error(t, s.st.Ready())
	require.NoError(t, s.hand(s.br.Goodbye()))
	s.run(time.Minute)
	require.Empty(t, s.st.VSIs())
}

// One that cannot be expressed any more is gone when its owner wants that.
func TestDeAssociateWithoutGroupIDs(t *testing.T) {
	s := newSim(t, vdp.Edition2012, func(c *vdp.Config) { c.EVB.GroupIDs = true })
	s.br.EVB.BridgeGroupID = true
	s.up()
	v := testVSI(1)
	v.FilterFormat, v.Filters[0].Group = vdp.FilterGroupMACVID, 5000
	s.associate(v)
	s.run(time.Second)
	s.br.EVB.BridgeGroupID = false
	require.NoError(t, s.hand(s.br.Tick(s.now.Add(10 * time.Second))[0]))
	s.events = nil
	s.deassociate(v)
	s.run(time.Minute)
	require.Equal(t, []vdp.EventType{vdp.EventRemoved}, s.types())
	require.Empty(t, s.st.VSIs())
}

// A restart meanwhile does not forget it either.
func TestRestartWhileTheDraftCannotExpressAVSI(t *testing.T) {
	v := testVSI(1)
	v.Manager[15] = 1
	s := newSim(t, vdp.EditionDraft, func(c *vdp.Config) { c.LastEdition = vdp.EditionDraft })
	out, err := s.st.Restore(s.now, v, vdp.Associate)
	require.NoError(t, err)
	s.do(out)
	s.up()
	require.Equal(t, vdp.StateLost, s.state(v))
	s.br.Edition = vdp.Edition2012
	s.br.Restart()
	s.run(40 * time.Second)
	require.Equal(t, vdp.StateEstablished, s.state(v))
}
