package daemon

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/vdp"
)

// What a VF sends from its own address is not the switch's. Its addresses are read again, and
// not for each frame.
func TestVFIsNotTheSwitch(t *testing.T) {
	b := newBench(t, vdp.Edition2012)
	b.p.send = func([]byte) error { return nil }
	b.d.apply(b.now, b.p, b.p.link(b.now, true))
	vf, other := vdp.MAC{2, 0xdd, 5: 1}, vdp.MAC{2, 0xdd, 5: 2}
	reads, macs, fails := 0, []vdp.MAC{vf}, error(nil)
	b.p.vfs.read = func() ([]vdp.MAC, error) { reads++; return macs, fails }
	bridge := vdp.LLDPDU{EVB: &vdp.EVB{Role: vdp.RoleBridge}, Chassis: []byte{7, 'x'}, Port: []byte{7, 'y'}, TTL: 120}
	adopted := func(src vdp.MAC) bool {
		b.send(bridge, src)
		_, ok := b.p.st.Neighbor()
		return ok
	}
	for range 100 {
		require.False(t, adopted(vf))
	}
	require.Equal(t, 1, reads)
	require.ErrorContains(t, b.p.ready(b.now.Add(time.Second)), "no LLDPDU since")

	macs = []vdp.MAC{other}
	b.now = b.now.Add(vfAge)
	require.False(t, adopted(other), "its new address")
	require.Equal(t, 2, reads)
	fails, macs = errors.New("no"), nil
	b.now = b.now.Add(time.Minute)
	require.False(t, adopted(other), "as before")
	require.True(t, adopted(vf), "a stranger's by now")
}
