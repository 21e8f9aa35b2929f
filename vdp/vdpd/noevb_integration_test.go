//go:build integration

package main_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host/hosttest"
	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
)

// What is said while no EVB TLV comes names who can be at fault: a wire on which nothing is
// heard, and a switch with LLDP and without EVB.
func TestNoEVB(t *testing.T) {
	h := newHost(t)
	h.vdpd()
	c := control.NewClient(h.controlPath())
	line := func() string {
		err := c.Ready(t.Context(), stationIf)
		require.ErrorIs(t, err, vdp.ErrNoEVB)
		return err.Error()
	}
	const all = `: enable LLDP and EVB on the switch's port; see that nothing in between eats frames to 01:80:c2:00:00:00$`
	hosttest.Eventually(h, 20*time.Second, "control socket and link", func() bool {
		return strings.Contains(c.Ready(t.Context(), stationIf).Error(), "link came up")
	})
	require.Regexp(t, `^use 802.1Qbg on `+stationIf+`: no EVB TLV from the switch: no LLDPDU since the link came up \d+ s ago`+all, line())

	h.lldpad(h.b)
	h.lldptool(h.b, "-L", "-i", bridgeIf, "-g", "ncb", "adminStatus=rxtx")
	hosttest.Eventually(h, 35*time.Second, "LLDP", func() bool { return strings.Contains(line(), "has none") })
	require.Regexp(t, `no EVB TLV from the switch: the last LLDPDU, \d+ s ago from [0-9a-f:]{17} to 01:80:c2:00:00:0[03e], has none: enable EVB/VDP on the switch's port, for LLDP to 01:80:c2:00:00:00, which a bridge in between would eat$`, line())
}
