package checks

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The first line is of a libvirtd with the process id 20, as a kernel showed it.
const procNetNetlink = `sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
ffff8f7fc1a5b800 0   2487222292 00000000 0        0        0     2        0        18361
ffff8f7fc1a5b000 0   88084      00000551 0        0        0     2        0        18362
ffff8f7fc1a5b400 0   4282388    00000000 0        0        0     2        0        18363
ffff8f7fc1a5c800 15  4198868    00000002 0        0        0     2        0        18364
ffff8f7fc1a5d800 0   0          00000000 0        0        0     2        0        3
garbage
`

func TestRoutePorts(t *testing.T) {
	for pid, want := range map[int][]uint32{
		20:    {2487222292},
		88084: {88084, 1<<22 + 88084},
		4564:  nil, // uevents, protocol 15
		52:    nil,
	} {
		ports, err := routePorts(strings.NewReader(procNetNetlink), pid)
		require.NoError(t, err)
		require.Equal(t, want, ports, "process %d", pid)
	}
}

func TestEventPort(t *testing.T) {
	bad, _ := badPort([]uint32{4198868, 1<<31 - 1, 1 << 31})
	require.Equal(t, uint32(1<<31), bad)
	_, found := badPort([]uint32{4198868, 1<<31 - 1})
	require.False(t, found)
}

func FuzzRoutePorts(f *testing.F) {
	f.Add(procNetNetlink, 20)
	f.Add("", 0)
	f.Add("a 0 4294967295", 1<<22-1)
	f.Fuzz(func(t *testing.T, text string, pid int) {
		ports, err := routePorts(strings.NewReader(text), pid)
		for _, p := range ports {
			if int(p)%(1<<22) != pid {
				t.Errorf("port %d for process %d (%v)", p, pid, err)
			}
		}
	})
}
