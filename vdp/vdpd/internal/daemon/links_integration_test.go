//go:build integration

package daemon

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
)

// The socket overflows at any moment, in the middle of a list as well. Afterwards the daemon
// knows what there is.
func TestOverflow(t *testing.T) {
	n := newNamespace(t, 4096)
	require.NoError(t, n.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}))
	for i := range 200 {
		require.NoError(t, n.LinkAdd(&netlink.Ifb{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprint("many", i)}}))
	}
	n.settled(0)
	for round := range 40 {
		r := rand.New(rand.NewPCG(uint64(round), 6))
		for range 1 + r.IntN(4) {
			done := n.busy()
			for range r.IntN(30) {
				n.change(r)
			}
			done()
			// Now it reads on, maybe in the middle of a list.
			for range r.IntN(5) {
				n.change(r)
			}
		}
		n.settled(round + 1)
	}
	require.Greater(t, n.lost, 10, "the socket has overflowed")
	t.Log("overflows:", n.lost)
}

// Without a loss, the order of the kernel's messages is all there is: names that are swapped,
// a device that is made again, or moved to another namespace.
func TestInterfacesOfAKernel(t *testing.T) {
	n := newNamespace(t, linkBuffer)
	require.NoError(t, n.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}))
	for round := range 30 {
		r := rand.New(rand.NewPCG(uint64(round), 7))
		for range 20 {
			n.change(r)
		}
		n.settled(round)
	}
	require.Zero(t, n.lost)
}
