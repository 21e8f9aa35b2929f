//go:build integration

package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A guest has the VLANs that its profile names, in both directions.

// filtered are the ways to have a filtered device: a profile called net, and the far end of its cable.
var filtered = map[string]struct{ profile, far string }{
	"macvtap isolated": {"[net]\nkind = macvtap\nlower = v0\nallow = everyone\nmac = 52:54:00:*\n", "v1"},
	"macvtap plain":    {"[net]\nkind = macvtap\ndevice = macvtap\nlower = v0\nallow = everyone\nmac = 52:54:00:*\n", "v1"},
	"macvtap visible":  {"[net]\nkind = macvtap\nvisible = yes\nlower = v0\nallow = everyone\nmac = 52:54:00:*\n", "v1"},
	"bridge isolated":  {"[net]\nkind = bridge\nbridge = br0\nallow = everyone\nanti-spoof = yes\nmac = 52:54:00:*\n", "b1"},
	"bridge tap":       {"[net]\nkind = bridge\ndevice = tap\nbridge = br0\nallow = everyone\nanti-spoof = yes\nmac = 52:54:00:*\n", "b1"},
}

// eachFiltered hands f alice's device of each kind, and the far end.
func eachFiltered(t *testing.T, more string, f func(t *testing.T, a *nic, far string)) {
	t.Helper()
	for name, kind := range filtered {
		t.Run(name, func(t *testing.T) {
			fabric(t)
			wire(t, "v0", "v1")
			profiles(t, kind.profile+more)
			a := granted(t, alice, "net/"+alicesMAC)
			a.mac = alicesMAC
			f(t, a, kind.far)
		})
	}
}

const (
	vlan10 = "8100000a"
	vlan66 = "81000042"
	ad10   = "88a8000a"
	ad66   = "88a80042"
)

func TestGuestHearsOtherVLANs(t *testing.T) {
	eachFiltered(t, "guest-vlans = none\n", func(t *testing.T, a *nic, far string) {
		require.Equal(t, []string{"untagged"}, a.reads(t, far,
			eth(t, "unicast", a.mac, router, vlan66, experimental),
			eth(t, "multicast", "01005e000001", router, vlan66, experimental),
			eth(t, "service tag", a.mac, router, ad66, experimental),
			eth(t, "stacked", a.mac, router, ad66, vlan10, experimental),
			eth(t, "untagged", a.mac, router, experimental),
		))
	})
}

func TestGuestHearsOtherVLANsBroadcasts(t *testing.T) {
	eachFiltered(t, "guest-vlans = none\n", func(t *testing.T, a *nic, far string) {
		require.Equal(t, []string{"untagged"}, a.reads(t, far,
			eth(t, "vlan 66", everybody, router, vlan66, experimental),
			eth(t, "service tag", everybody, router, ad66, experimental),
			eth(t, "untagged", everybody, router, experimental),
		))
	})
}

func TestGuestHearsAVLANThatIsNotOnItsList(t *testing.T) {
	eachFiltered(t, "guest-vlans = 10\n", func(t *testing.T, a *nic, far string) {
		require.Equal(t, []string{"vlan 10", "untagged"}, a.reads(t, far,
			eth(t, "vlan 66", a.mac, router, vlan66, experimental),
			eth(t, "service tag 66", a.mac, router, ad66, experimental),
			eth(t, "vlan 10", a.mac, router, vlan10, experimental),
			eth(t, "untagged", a.mac, router, experimental),
		))
		require.Equal(t, []string{"vlan 10"}, a.reads(t, far,
			eth(t, "vlan 66", everybody, router, vlan66, experimental),
			eth(t, "vlan 10", everybody, router, vlan10, experimental),
		))
	})
}

func TestGuestHearsAVLANBehindItsOwn(t *testing.T) {
	eachFiltered(t, "guest-vlans = 10\n", func(t *testing.T, a *nic, far string) {
		require.Empty(t, a.reads(t, far,
			eth(t, "66 in 10", a.mac, router, vlan10, vlan66, experimental),
			eth(t, "66 in service tag 10", a.mac, router, ad10, vlan66, experimental),
			eth(t, "66 in 10 for all", everybody, router, vlan10, vlan66, experimental),
		))
	})
}

func TestGuestSpeaksIntoAnotherVLAN(t *testing.T) {
	eachFiltered(t, "guest-vlans = 10\n", func(t *testing.T, a *nic, far string) {
		wire := ear(t, far)
		a.says(t,
			eth(t, "vlan 66", everybody, a.mac, vlan66, experimental),
			eth(t, "66 in 10", everybody, a.mac, vlan10, vlan66, experimental),
			eth(t, "66 in service tag 10", everybody, a.mac, ad10, vlan66, experimental),
			eth(t, "66 in 9100", everybody, a.mac, "9100000a", vlan66, experimental),
			eth(t, "66 in 9200", everybody, a.mac, "9200000a", vlan66, experimental),
			eth(t, "vlan 10", everybody, a.mac, vlan10, experimental),
			a.end(t, a.mac))
		require.Equal(t, []string{"vlan 10"}, hears(t, wire))
	})
}

// VLAN ID 0 is no VLAN, but a priority.
func TestGuestHearsPriorityTags(t *testing.T) {
	eachFiltered(t, "guest-vlans = none\n", func(t *testing.T, a *nic, far string) {
		require.Equal(t, []string{"priority 7"}, a.reads(t, far,
			eth(t, "vlan 66", a.mac, router, vlan66, experimental),
			eth(t, "priority 7", a.mac, router, "8100e000", experimental),
		))
	})
}
