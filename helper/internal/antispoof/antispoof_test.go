package antispoof

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/ether"
	"libvirt-direct/helper/internal/policy"
)

// The largest set of VLANs has to fit the jumps' eight bits, and no jump may leave the program; what the program does
// is tested on the wire.
func TestJumpsStayInside(t *testing.T) {
	for n := range 33 {
		set := policy.VLANSet{}
		for i := range n {
			set.Ranges = append(set.Ranges, policy.VLANRange{First: uint16(100 * i), Last: uint16(100*i + 50)})
		}
		p := Program(ether.MAC{2}, set)
		require.Less(t, len(p), 4096)
		for i, op := range p {
			if op.Code&7 == unix.BPF_JMP {
				require.Less(t, i+1+int(op.Jt), len(p))
				require.Less(t, i+1+int(op.Jf), len(p))
			}
		}
		require.EqualValues(t, unix.BPF_RET, p[len(p)-1].Code&7)
	}
}
