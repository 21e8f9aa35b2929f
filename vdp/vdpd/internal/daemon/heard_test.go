package daemon

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
	"libvirt-direct/vdp/vdpd/internal/uplink"
)

// frame is an LLDPDU to the nearest bridge.
func (b *bench) frame(p vdp.LLDPDU, src vdp.MAC) []byte {
	b.Helper()
	payload, err := p.MarshalBinary()
	require.NoError(b, err)
	f := vdp.Frame{Dst: vdp.NearestBridge, Src: src, EtherType: vdp.EtherTypeLLDP, Payload: payload}
	frame, err := f.MarshalBinary()
	require.NoError(b, err)
	return frame
}

// send passes an LLDPDU from the wire to the daemon.
func (b *bench) send(p vdp.LLDPDU, src vdp.MAC) {
	b.Helper()
	b.d.frames(b.now, b.p, uplink.Frames{Arrived: [][]byte{b.frame(p, src)}}, nil)
}

// lldp passes an LLDPDU of somebody's who is not the bench's switch.
func (b *bench) lldp(p vdp.LLDPDU) {
	b.Helper()
	p.Chassis, p.Port, p.TTL = []byte{7, 'x'}, []byte{7, 'y'}, 120
	b.send(p, vdp.MAC{2, 0xcc, 0, 0, 0, 1})
}

// Without a usable EVB TLV the line says what has been heard, and since when.
func TestNoEVBSaysWhereToLook(t *testing.T) {
	const all = "no EVB TLV from the switch: no LLDPDU since the link came up 20 s ago: enable LLDP and EVB on the switch's port; see that nothing in between eats frames to 01:80:c2:00:00:00"
	const last = "no EVB TLV from the switch: the last LLDPDU, 0 s ago from 02:cc:00:00:00:01 to 01:80:c2:00:00:0e, has "
	for name, c := range map[string]struct {
		pin   bool
		heard *vdp.LLDPDU
		want  string
	}{
		"silence":                       {false, nil, all},
		"no TLV":                        {false, &vdp.LLDPDU{}, last + "none: enable EVB/VDP on the switch's port, for LLDP to 01:80:c2:00:00:00, which a bridge in between would eat"},
		"a station":                     {false, &vdp.LLDPDU{EVB: &vdp.EVB{Role: vdp.RoleStation}}, last + "one that is not a bridge's"},
		"not the pinned":                {true, &vdp.LLDPDU{EVB: &vdp.EVB{Role: vdp.RoleBridge}}, last + "one that neighbor in vdpd.toml does not admit"},
		"the draft, without VDP":        {false, &vdp.LLDPDU{Draft: &vdp.EVBDraft{SupportedCapabilities: vdp.CapECP}}, last + "one that does not offer both ECP and VDP"},
		"the draft, forwarding nothing": {false, &vdp.LLDPDU{Draft: &vdp.EVBDraft{SupportedCapabilities: vdp.CapECP | vdp.CapVDP}}, last + "one that does not offer both ECP and VDP"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, vdp.Edition2012)
			b.p.send = func([]byte) error { return nil }
			if c.pin {
				st, err := vdp.NewStation(vdp.Config{MAC: b.p.mac, Pins: []vdp.Pin{{Kind: vdp.PinChassis, Chassis: "leaf1"}}})
				require.NoError(t, err)
				b.p.st = st
			}
			b.d.apply(b.now, b.p, b.p.link(b.now, true))
			b.now = b.now.Add(20 * time.Second)
			if c.heard != nil {
				b.lldp(*c.heard)
			}
			err := b.p.ready(b.now)
			require.ErrorIs(t, err, vdp.ErrNoEVB)
			require.EqualError(t, err, c.want)
			require.EqualError(t, b.p.status(b.now).Error, c.want)

			b.d.apply(b.now, b.p, b.p.link(b.now, false))
			b.d.apply(b.now, b.p, b.p.link(b.now, true))
			require.ErrorContains(t, b.p.ready(b.now.Add(time.Second)), "no LLDPDU since the link came up 1 s ago", "what was before is forgotten")
		})
	}
}

// A client that cannot wait as long as the station does learns what that waits for.
func TestControlOverdue(t *testing.T) {
	b := newBench(t, vdp.Edition2012)
	b.br.NoEVB = true
	b.p.send = func([]byte) error { return nil }
	c, _ := serveControl(t, b)
	b.d.do(t.Context(), func(time.Time) { b.d.apply(b.now, b.p, b.p.link(b.now, true)) })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := c.Associate(ctx, "eth0", testVSI(1))
	require.ErrorIs(t, err, vdp.ErrNoEVB)
	require.ErrorIs(t, err, control.ErrTimeout)
	require.Regexp(t, `^associate VSI fa000000-0000-0000-0000-000000000001 on eth0: no result in time; vdpd goes on trying: no EVB TLV from the switch: no LLDPDU since the link came up \d+ s ago: `, err.Error())
}
