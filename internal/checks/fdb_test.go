package checks

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/internal/config"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/ovs"
)

// cardKernel has one card with virtual functions.
type cardKernel struct{ fakeKernel }

func (k *cardKernel) VFUses(_ context.Context, pf string) ([]link.VFUse, error) {
	if pf != "ens1f0" {
		return nil, link.ErrNotFound
	}
	return make([]link.VFUse, 2), nil
}

func TestCardTables(t *testing.T) {
	k := &cardKernel{fakeKernel{links: []link.Link{
		{Index: 2, Name: "ens1f0", Master: 5}, {Index: 3, Name: "ens1f1", Master: 6}, {Index: 4, Name: "bond0.7", Kind: "vlan", Parent: 5, Master: 7},
		{Index: 5, Name: "bond0", Kind: "bond"}, {Index: 6, Name: "br0", Kind: "bridge"}, {Index: 7, Name: "br1", Kind: "bridge"},
	}}}
	none, err := config.Parse("", nil)
	require.NoError(t, err)
	const text = "ens1f0 has virtual functions: guests on those reach a guest on br1 only if the card knows its MAC"
	require.Equal(t, []Finding{{Note, "bridge br1", text + `; say fdb = "pf" in the profile or the uplink of guests on the bridge`}},
		cardsBelow(t.Context(), k, none, nil))
	some, err := config.Parse("", []byte("[profile.p]\nfdb = 'pf'\n"))
	require.NoError(t, err)
	require.Equal(t, []Finding{{Note, "bridge br1", text}}, cardsBelow(t.Context(), k, some, nil))
	k.links[2].Master = 0
	require.Len(t, cardsBelow(t.Context(), k, none, []ovs.Bridge{{Name: "ovs0", Devices: []ovs.Device{{Name: "bond0"}}}}), 1)
	require.Empty(t, cardsBelow(t.Context(), k, none, nil))
}
