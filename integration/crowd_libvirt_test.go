//go:build integration

package integration

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host/hosttest"
)

// Assisted and hook-owned guests in turn, all by the uplink's name, which the first
// brings and the last takes away.
func TestCrowd(t *testing.T) {
	ctx := deadline(t, 4*time.Minute)
	s := newSite(ctx, t, "a", conf)
	newLAN(ctx, t, plug{s, "nica"})
	s.up()
	var names []string
	for n := range 20 {
		d := tiny(fmt.Sprintf("g%d", n), direct(n, "storage", "bridge"))
		if n%2 == 0 {
			d.Metadata = metadata(n, "own='hook'")
			s.rewrite(d)
		} else {
			s.define(d)
		}
		names = append(names, d.Name)
	}
	start := func(name string) error {
		_, err := s.Virsh(ctx, "start", "--domain", name)
		return err
	}
	stop := func(name string) error {
		_, err := s.Virsh(ctx, "destroy", "--domain", name)
		return err
	}
	s.crowd(names, hosttest.Rounds(3, 10), start, stop, func() {
		require.Len(t, s.macvtaps(), 20)
		require.Len(t, s.journals(), 20)
		require.Equal(t, "storage", s.snapshot()["nica"]["altnames"])
	})
}
