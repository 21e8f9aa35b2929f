//go:build integration

package main_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host/hosttest"
	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
	"libvirt-direct/vdp/vdptest"
)

// A guest plays the switch, which is lldpad and goes on: what the guest sends comes
// back, VSIs stay, and lldpad's own LLDPDUs count.
func TestGuestBesideLldpad(t *testing.T) {
	h := newHost(t)
	f := &vdptest.Forger{Own: randomMAC, Switch: switchMAC}
	h.wire(func(w *wire, toSwitch bool, frame []byte) {
		if toSwitch && f.Made(frame) {
			toSwitch = false // and lldpad, which believes anybody, does not see it
		}
		w.carry(t, toSwitch, frame)
	})
	br := h.lldpadBridge2012()
	p := h.vdpd()
	switchReady(h, p)
	h.ready()
	vsis := []vdp.VSI{testVSI(1), testVSI(2), testVSI(3)}
	for _, v := range vsis {
		_, err := control.NewClient(h.controlPath()).Associate(t.Context(), stationIf, v)
		require.NoError(t, err)
	}
	events := h.events()
	before := hosttest.Unmoved(h, h.uplink())
	require.Contains(t, before, `"established":3`)
	g, stop := h.guest(h.guestNamespace(), "vepa")
	defer stop()

	// As long as lldpad needs for an LLDPDU of its own and for a keepalive of all.
	r := reflectors[2]
	begin, was, replies := time.Now(), h.uplink(), strings.Count(br.output(), "vdp22br_reply")
	var all played
	rounds := 0
	hosttest.Eventually(h, 60*time.Second, "LLDPDU and keepalives of lldpad", func() bool {
		n := g.play(f, r, vsis[0])
		all = played{all.sent + n.sent, all.back + n.back, all.lldp + n.lldp, all.echoes + n.echoes}
		rounds++
		// A socket has room for one round.
		hosttest.Eventually(h, 10*time.Second, "echoes", func() bool { return h.uplink().Echoes >= was.Echoes+uint64(all.echoes) })
		return time.Since(begin) > 12*time.Second && h.uplink().Received.LLDP > was.Received.LLDP+uint64(all.lldp) &&
			strings.Count(br.output(), "vdp22br_reply") > replies
	})
	u := h.uplink()
	require.Equal(t, was.Echoes+uint64(all.echoes), u.Echoes, "lldpad's frames are none")
	require.Equal(t, before, hosttest.Unmoved(h, u))
	require.Empty(t, events.types())
	t.Logf("%d rounds, %d forgeries, %d echoes in %v", rounds, all.sent, all.echoes, time.Since(begin).Round(time.Second))
}
