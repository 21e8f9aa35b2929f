//go:build integration

package integration

import (
	"strings"
	"testing"
	"time"

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
	ctx := deadline(t, 2*time.Minute)
	s := newSite(ctx, t, "a", conf)
	l := newLAN(ctx, t, plug{s, "nica"})
	s.up()
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
			s, l := s.in(t), l.in(t)
			before := s.snapshot()
			var guests []*linux
			if test.assisted != "" {
				g := newLinux(t, "assisted", 1, direct(1, test.assisted, test.mode), "")
				s.define(g.Domain)
				guests = append(guests, g)
			}
			if test.owned != "" {
				g := newLinux(t, "owned", 2, direct(2, test.owned, test.mode), "own='hook'", addr(1))
				s.rewrite(g.Domain)
				guests = append(guests, g)
			}
			for _, g := range guests {
				s.start(g.Name)
			}
			require.Len(t, s.macvtaps(), len(guests))
			for _, m := range s.macvtaps() {
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
				s.stop(g.Name)
			}
			s.unchanged(before)
		})
	}
}
