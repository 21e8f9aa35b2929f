package hooktest

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/step"
	"libvirt-direct/vdp"
)

// StationContract are the rows of an 802.1Qbg station.
func StationContract() Contract[StationHost] {
	row := func(method, name string, do func(t *testing.T, ctx context.Context, h StationHost, s step.Station)) Row[StationHost] {
		return Row[StationHost]{method, name, func(t *testing.T, h StationHost) { do(t, t.Context(), h, h.Station()) }}
	}
	vsi := func(n byte) vdp.VSI {
		return vdp.VSI{
			ID: vdp.UUID([16]byte{0xfa, 15: n}), Manager: vdp.ManagerID{12}, TypeID: 0x123456, TypeVersion: 1,
			FilterFormat: vdp.FilterMACVID, Filters: []vdp.Filter{{MAC: vdp.MAC{0x52, 0x54, 0, 1, 0, n}, VID: 100}},
		}
	}
	const unknown = "nobody"
	return Contract[StationHost]{
		row("Ready", "of a port that the station does not have", func(t *testing.T, ctx context.Context, h StationHost, s step.Station) {
			err := s.Ready(ctx, unknown)
			require.Error(t, err)
			require.NotErrorIs(t, err, h.NotYet(), "waiting does not help")
		}),
		row("Associate", "until DeAssociate", func(t *testing.T, ctx context.Context, h StationHost, s step.Station) {
			one, two := vsi(1), vsi(2)
			for range 2 {
				require.NoError(t, s.Associate(ctx, h.Port(), one))
				require.True(t, h.Held(one.ID))
			}
			require.NoError(t, s.Associate(ctx, h.Port(), two))
			require.NoError(t, s.DeAssociate(ctx, h.Port(), one))
			require.False(t, h.Held(one.ID))
			require.True(t, h.Held(two.ID))
		}),
		row("Associate", "refused by the switch", func(t *testing.T, ctx context.Context, h StationHost, s step.Station) {
			h.Refuse()
			var refused *vdp.RefusedError
			require.True(t, errors.As(s.Associate(ctx, h.Port(), vsi(1)), &refused))
			require.False(t, h.Held(vsi(1).ID))
		}),
		row("Associate", "on a port that the station does not have", func(t *testing.T, ctx context.Context, _ StationHost, s step.Station) {
			require.Error(t, s.Associate(ctx, unknown, vsi(1)))
		}),
		row("DeAssociate", "of what the station does not have", func(t *testing.T, ctx context.Context, h StationHost, s step.Station) {
			require.NoError(t, s.DeAssociate(ctx, h.Port(), vsi(1)))
			require.NoError(t, s.Associate(ctx, h.Port(), vsi(1)))
			for range 2 {
				require.NoError(t, s.DeAssociate(ctx, h.Port(), vsi(1)))
			}
		}),
		// The last: that the switch is there again takes LLDP many seconds.
		row("Ready", "where the switch is, and not where it is not", func(t *testing.T, ctx context.Context, h StationHost, s step.Station) {
			require.NoError(t, s.Ready(ctx, h.Port()))
			h.Silence()
			require.ErrorIs(t, s.Ready(ctx, h.Port()), h.NotYet(), "waiting can help")
		}),
	}
}
