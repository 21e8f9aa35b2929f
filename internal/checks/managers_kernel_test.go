//go:build integration

package checks

import (
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/internal/link"
	"libvirt-direct/internal/link/linktest"
)

// The hook's devices, the helper's sub-interfaces and its other devices are looked at alike.
func TestPresenceOnGuestsDevices(t *testing.T) {
	for _, alias := range []string{
		"libvirt-direct", "libvirt-direct 0c1b3a52-8b5c-4eeb-8f00-d84eaa0aaa11", "libvirt-direct (in use by the helper)",
		"qemu-direct-helper: uid 1000, lan", "uplink", "",
	} {
		h := linktest.NewNetns(t)
		h.Card("nica")
		h.Add("macvtap", "mt0", "nica", "mode", "bridge")
		l, err := h.Conn().ByName(t.Context(), "mt0")
		require.NoError(t, err)
		require.NoError(t, h.Conn().SetAlias(t.Context(), l.Index, alias))
		require.NoError(t, h.Conn().Silence(t.Context(), l.Index))
		require.Empty(t, onGuestsDevices(t.Context(), h.Conn()), alias)
		h.Do("ip", "addr", "add", "192.0.2.9/24", "dev", "mt0")
		var want []Finding
		if forGuests(link.Link{Alias: alias}) {
			want = []Finding{{Fault, "managers", "mt0 is for guests, and this host is on it: it has address 192.0.2.9/24"}}
		}
		require.Equal(t, alias != "" && alias != "uplink", want != nil)
		requireFindings(t, want, onGuestsDevices(t.Context(), h.Conn()))
	}
}
