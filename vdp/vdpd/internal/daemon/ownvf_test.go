package daemon

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/vdpd/internal/uplink"
)

// What a VF sends from its own address is not the switch's.
func TestVFIsNotTheSwitch(t *testing.T) {
	b := newBench(t, vdp.Edition2012)
	b.p.send = func([]byte) error { return nil }
	b.d.apply(b.now, b.p, b.p.link(b.now, true))
	vf, other := vdp.MAC{2, 0xdd, 5: 1}, vdp.MAC{2, 0xdd, 5: 2}
	b.run(2 * time.Second) // not deaf any more
	bridge := vdp.LLDPDU{EVB: &vdp.EVB{Role: vdp.RoleBridge}, Chassis: []byte{7, 'x'}, Port: []byte{7, 'y'}, TTL: 120}
	adopted := func(src vdp.MAC) bool {
		b.d.frames(b.now, b.p, uplink.Frames{Arrived: [][]byte{b.frame(bridge, src)}}, []vdp.MAC{vf})
		n, ok := b.p.st.Neighbor()
		return ok && n.Source == src
	}
	b.d.apply(b.now, b.p, b.p.link(b.now, false))
	b.d.apply(b.now, b.p, b.p.link(b.now, true))
	require.False(t, adopted(vf))
	require.True(t, adopted(other))
}

// The addresses are read again, and not for each frame.
func TestVFAddressesAreReadNowAndThen(t *testing.T) {
	vf, other := vdp.MAC{2, 0xdd, 5: 1}, vdp.MAC{2, 0xdd, 5: 2}
	reads, macs, fails := 0, []vdp.MAC{vf}, error(nil)
	var log strings.Builder
	o := ownVFs{read: func() ([]vdp.MAC, error) { reads++; return macs, fails }, log: slog.New(slog.NewTextHandler(&log, nil))}
	now := time.Now()
	for range 100 {
		require.Equal(t, []vdp.MAC{vf}, o.addresses(now))
	}
	require.Equal(t, 1, reads)
	macs = []vdp.MAC{other}
	now = now.Add(vfAge)
	require.Equal(t, []vdp.MAC{other}, o.addresses(now))
	require.Equal(t, 2, reads)
	require.Empty(t, log.String())
	fails, macs = errors.New("no"), nil
	for i := range 3 {
		require.Equal(t, []vdp.MAC{other}, o.addresses(now.Add(time.Duration(1+i)*time.Minute)), "as before")
	}
	require.Equal(t, 1, strings.Count(log.String(), "not read"))
}
