//go:build integration

package main

import (
	"cmp"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestStatusOfARunningGuest(t *testing.T) {
	h := newFixture(t, uplinkConfig)
	h.up()
	require.Equal(t, "nothing is held\n", h.ok("status"))
	before := h.MustSnapshot()
	h.MustDefine(ownedGuest("o", ""))
	h.ok("rewrite", "--domain", "o")
	h.MustVirsh("start", "o")

	status := func() shownStep {
		t.Helper()
		var host shownStatus
		require.NoError(t, json.Unmarshal([]byte(h.ok("status", "--json")), &host))
		require.NotNil(t, host.PFs, "[] where there is no SR-IOV card")
		all := host.Domains
		require.Len(t, all, 1)
		require.Equal(t, "o", all[0].Name)
		require.Equal(t, strings.TrimSpace(h.MustVirsh("domuuid", "o")), all[0].UUID)
		require.Len(t, all[0].Held, 2)
		held, up := all[0].Held[0], all[0].Held[1]
		require.NotNil(t, up.LinkUp)
		held.Difference = cmp.Or(held.Difference, up.Difference)
		return held
	}
	held := status()
	require.Empty(t, held.Difference)
	require.Equal(t, "nica", held.Macvtap.Lower)
	require.Equal(t, "bridge", held.Device.Mode)
	require.Equal(t, mac2, held.Device.MAC)
	dev := held.Macvtap.Name
	out := h.ok("status")
	require.Contains(t, out, "  NIC "+mac2+": macvtap "+dev+" on nica (bridge, hook-owned)\n")
	require.NotContains(t, out, "BUT")

	for _, c := range []struct {
		by   []string // what somebody does by hand
		want string
	}{
		{[]string{"address", "52:54:00:00:00:99"}, "MAC is 52:54:00:00:00:99, not " + mac2},
		{[]string{"address", mac2}, ""},
		{[]string{"allmulticast", "on"}, "allmulticast is true, not false"},
		{[]string{"allmulticast", "off", "down"}, "up is false, not true"},
	} {
		h.MustRun("ip", append([]string{"link", "set", "dev", dev}, c.by...)...)
		require.Equal(t, c.want, status().Difference)
		if c.want != "" {
			require.Contains(t, h.ok("status"), "    BUT: "+c.want+"\n")
		}
	}
	h.MustRun("ip", "link", "del", "dev", dev)
	held = status()
	require.Equal(t, "gone", held.Difference)
	require.Nil(t, held.Device)

	h.MustVirsh("destroy", "o")
	require.Equal(t, "nothing is held\n", h.ok("status"))
	require.Empty(t, before.Diff(h.MustSnapshot()))
}
