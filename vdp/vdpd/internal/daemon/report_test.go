package daemon

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
	"libvirt-direct/vdp/vdpd/internal/uplink"
)

// Who else speaks, who may, and which of the switch's times are cut, is in the status.
func TestStatusOfTrust(t *testing.T) {
	b := newBench(t, vdp.Edition2012)
	b.br.EVB = vdp.EVB{Retries: 3, RTE: 8, RWD: 25, RKA: 20}
	b.p.cfg.Neighbor = []string{"02:bb:00:00:00:09"}
	var seen []control.Event
	var w watcher = func(p *port, e *vdp.Event) bool { seen = append(seen, controlEvent(p, e)); return true }
	b.d.watchers[&w] = w
	b.d.apply(b.now, b.p, b.p.link(b.now, true))
	b.run(15 * time.Second) // in the first 5 s nothing counts
	before := b.p.status(b.now).Echoes

	bridge := vdp.LLDPDU{EVB: &vdp.EVB{Role: vdp.RoleBridge}}
	b.lldp(bridge)
	first := b.now
	b.run(time.Second)
	b.lldp(bridge)
	// The switch's own other agent is no other switch.
	same := bridge
	same.Chassis, same.Port, same.TTL = append([]byte{4}, b.br.MAC[:]...), append([]byte{3}, b.br.MAC[:]...), 120
	b.send(same, b.br.MAC)
	// A guest's frame that comes back is nobody's.
	ours := b.frame(same, vdp.MAC{2, 0xee})
	b.d.frames(b.now, b.p, uplink.Frames{Sent: [][]byte{ours}}, nil)
	b.d.frames(b.now, b.p, uplink.Frames{Arrived: [][]byte{ours}}, nil)

	u := b.p.status(b.now)
	require.Equal(t, []string{"02:bb:00:00:00:09"}, u.Pins)
	require.Equal(t, uint64(1), u.Echoes-before)
	require.Equal(t, []control.Agent{{Source: "02:cc:00:00:00:01", Group: "01:80:c2:00:00:0e", Chassis: "x", Port: "y", Since: first}}, u.Others)
	require.Equal(t, []string{"vdp_rwd 25 → 22"}, u.Timers.Limited())
	require.Equal(t, "conflict", seen[len(seen)-1].Type)
	require.Equal(t, "02:cc:00:00:00:01", seen[len(seen)-1].Source)
	require.Empty(t, b.p.status(b.now.Add(121*time.Second)).Others, "it has aged out")
}
