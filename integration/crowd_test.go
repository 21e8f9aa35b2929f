//go:build integration

package integration

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host"
)

// crowd starts all domains at once and destroys them at once, over and over, and
// checks each time that nothing is left. between is called while all of them run.
func (s *site) crowd(domains []host.Domain, times int, between func()) {
	s.t.Helper()
	before := s.snapshot()
	// As many users as the daemon serves at once (libvirtd.conf, max_workers).
	all := func(do func(name string) error) time.Duration {
		begin := time.Now()
		errs := make(chan error, len(domains))
		slots := make(chan struct{}, 20)
		var wg sync.WaitGroup
		for _, d := range domains {
			wg.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				errs <- do(d.Name)
			})
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			require.NoError(s.t, err)
		}
		return time.Since(begin).Round(10 * time.Millisecond)
	}
	for i := range times {
		started := all(func(name string) error {
			_, err := s.Virsh(s.ctx, "start", "--domain", name)
			return err
		})
		between()
		gone := all(func(name string) error {
			_, err := s.Virsh(s.ctx, "destroy", "--domain", name)
			return err
		})
		s.t.Logf("round %d: %d started in %v, destroyed in %v", i+1, len(domains), started, gone)
		for _, d := range domains {
			require.NoError(s.t, s.WaitState(s.ctx, d.Name, libvirt.DomainShutoff))
		}
		s.unchanged(before)
	}
}

// Assisted and hook-owned guests in turn, all by the uplink's name, which the first
// brings and the last takes away.
func TestCrowd(t *testing.T) {
	ctx := deadline(t, 4*time.Minute)
	s := newSite(ctx, t, "a", conf)
	newLAN(ctx, t, plug{s, "nica"})
	s.up()
	var domains []host.Domain
	for n := range 20 {
		d := tiny(fmt.Sprintf("g%d", n), direct(n, "storage", "bridge"))
		if n%2 == 0 {
			d.Metadata = metadata(n, "own='hook'")
			s.rewrite(d)
		} else {
			s.define(d)
		}
		domains = append(domains, d)
	}
	s.crowd(domains, 10, func() {
		require.Len(t, s.macvtaps(), 20)
		require.Len(t, s.journals(), 20)
		require.Equal(t, "storage", s.snapshot()["nica"]["altnames"])
	})
}
