//go:build integration

package integration

import (
	"strings"
	"testing"
	"time"

	"libvirt-direct/integration/host/hosttest"

	"github.com/stretchr/testify/require"
)

// conf is the host's whose NIC is nica; another host calls it enpb.
const conf = `[uplink.storage]
device = "nica"
also = ["enpb"]
`

// Two guests at once, one assisted and one hook-owned, in each mode that shares its
// lower device. The source is named by uplink, by another host's name and plainly.
func TestModes(t *testing.T) {
	ctx := hosttest.Deadline(t, 2*time.Minute)
	h := newFixture(ctx, t, "a", conf)
	l := newLAN(ctx, t, plug{h, "nica"})
	h.MustStartLibvirtd()
	for _, test := range []struct {
		mode, assisted, owned string
		reaches               string // what the guests see of each other
	}{
		{"vepa", "storage", "enpb", "ok"},    // by way of the switch
		{"bridge", "enpb", "storage", "ok"},  // without it
		{"private", "nica", "nica", "lost"},  // although the switch reflects
		{"passthrough", "storage", "", "ok"}, // one has the NIC to itself
		{"passthrough", "", "enpb", "ok"},
	} {
		t.Run(test.mode+" "+test.assisted+" "+test.owned, func(t *testing.T) {
			h, l := h.in(t), l.in(t)
			before := h.MustSnapshot()
			var guests []*linux
			if test.assisted != "" {
				g := newLinux(t, "assisted", 1, direct(1, test.assisted, test.mode), "")
				h.MustDefine(g.Domain)
				guests = append(guests, g)
			}
			if test.owned != "" {
				g := newLinux(t, "owned", 2, direct(2, test.owned, test.mode), "own='hook'", addr(1))
				h.rewrite(g.Domain)
				guests = append(guests, g)
			}
			for _, g := range guests {
				h.start(g.Name)
			}
			require.Len(t, h.macvtaps(), len(guests))
			for _, m := range h.macvtaps() {
				require.Equal(t, strings.Replace(test.mode, "passthrough", "passthru", 1), m["mode"])
				require.Equal(t, "nica", m["parent"])
			}
			for _, g := range guests {
				g.talks(l)
			}
			if len(guests) == 2 {
				guests[1].reports(l, "ping "+addr(1)+" "+test.reaches)
			}
			for _, g := range guests {
				h.stop(g.Name)
			}
			h.RequireUnchanged(before)
		})
	}
}
