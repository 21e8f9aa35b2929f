package hooks

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/helper/tapname"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
)

func TestCollectorRemovesAbandonedTapsAlone(t *testing.T) {
	w := newWorld(t, "", "nica")
	dir, err := journal.Open(w.journal)
	require.NoError(t, err)
	device := func(index int, carrier bool) tapname.Device {
		w.kernel.Add(link.Link{Index: index, Name: tapname.Name(index), Kind: "tun"})
		return tapname.Device{Index: index, Name: tapname.Name(index), Kind: "tun", Persist: true, Carrier: carrier}
	}
	left, held := device(tapname.MinIndex+1, false), device(tapname.MinIndex+2, true)
	gone := held
	gone.Index, gone.Name, gone.Carrier = tapname.MinIndex+3, tapname.Name(tapname.MinIndex+3), false
	c := &Collector{
		Kernel: w.kernel, Dir: dir, DryRun: true,
		Alive: func(context.Context, string, string) (bool, error) { return false, errors.New("libvirt is asked") },
		Taps: func(context.Context) ([]tapname.Device, error) {
			return []tapname.Device{left, held}, nil
		},
	}
	before := w.kernel.Dump()
	lines, err := c.Run(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"would remove TAP device tap40000001, which a user of the helper made persistent and left"}, lines)
	require.Equal(t, before, w.kernel.Dump())

	c.DryRun = false
	c.Taps = func(context.Context) ([]tapname.Device, error) { return []tapname.Device{gone, left, held}, nil }
	lines, err = c.Run(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"removed TAP device tap40000001, which a user of the helper made persistent and left"}, lines)
	_, err = w.kernel.ByIndex(t.Context(), left.Index)
	require.ErrorIs(t, err, link.ErrNotFound)
	_, err = w.kernel.ByIndex(t.Context(), held.Index)
	require.NoError(t, err)

	c.Taps = func(context.Context) ([]tapname.Device, error) { return nil, link.ErrMalformed }
	_, err = c.Run(t.Context())
	require.ErrorIs(t, err, link.ErrMalformed)
}
