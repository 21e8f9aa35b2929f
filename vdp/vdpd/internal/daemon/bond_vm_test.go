//go:build vm

package daemon

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
)

// A bond's mode and its active slave are known, and a bridge's port that leaves is no device's
// end.
func TestBondOfAKernel(t *testing.T) {
	n := newNamespace(t, linkBuffer)
	bond := netlink.NewLinkBond(netlink.LinkAttrs{Name: "bond0"})
	bond.Mode, bond.Miimon = netlink.BOND_MODE_ACTIVE_BACKUP, 10
	require.NoError(t, n.LinkAdd(bond))
	require.NoError(t, n.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}))
	slave := func(name string) netlink.Link {
		l := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "p"}
		require.NoError(t, n.LinkAdd(l))
		require.NoError(t, n.LinkSetMaster(l, bond))
		require.NoError(t, n.LinkSetUp(l))
		peer, err := n.LinkByName(l.PeerName)
		require.NoError(t, err)
		require.NoError(t, n.LinkSetUp(peer))
		return l
	}
	a, b := slave("a0"), slave("b0")
	require.NoError(t, n.LinkSetUp(bond))
	p := n.d.ports[2]
	active := func(want int) time.Time {
		t.Helper()
		timeout := time.After(20 * time.Second)
		for {
			n.mu.Lock()
			is, since := p.device.active, p.upSince
			n.mu.Unlock()
			if is == want && !since.IsZero() {
				return since
			}
			select {
			case <-n.changed:
			case <-timeout:
				t.Fatal("active slave", is)
			}
		}
	}
	since := active(a.Attrs().Index)
	require.NoError(t, n.LinkSetDown(a))
	require.True(t, active(b.Attrs().Index).After(since), "as after a loss of carrier")
	br, err := n.LinkByName("br0")
	require.NoError(t, err)
	require.NoError(t, n.LinkSetMaster(bond, br))
	require.NoError(t, n.LinkSetNoMaster(bond))
	n.settled(0)
	require.Equal(t, bond.Attrs().Index, p.ifindex)
}
