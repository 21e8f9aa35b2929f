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
	ctx := hosttest.Deadline(t, 4*time.Minute)
	h := newFixture(ctx, t, "a", conf)
	newLAN(ctx, t, plug{h, "nica"})
	h.MustStartLibvirtd()
	var names []string
	for n := range 20 {
		d := tiny(fmt.Sprintf("g%d", n), direct(n, "storage", "bridge"))
		if n%2 == 0 {
			d.Metadata = metadata(n, "own='hook'")
			h.rewrite(d)
		} else {
			h.MustDefine(d)
		}
		names = append(names, d.Name)
	}
	start := func(name string) error {
		_, err := h.Virsh(ctx, "start", "--domain", name)
		return err
	}
	stop := func(name string) error {
		_, err := h.Virsh(ctx, "destroy", "--domain", name)
		return err
	}
	h.crowd(names, hosttest.Rounds(3, 10), start, stop, func() {
		require.Len(t, h.macvtaps(), 20)
		require.Len(t, h.Journals(), 20)
		require.Equal(t, "storage", h.MustSnapshot()["nica"]["altnames"])
	})
}
