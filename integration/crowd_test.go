//go:build integration || vm

package integration

import (
	"errors"
	"sync"
	"time"

	"github.com/stretchr/testify/require"
)

// crowd starts all at once and stops all at once, over and over, and checks each time
// that nothing is left. between is called while all of them run.
func (s *site) crowd(names []string, times int, start, stop func(name string) error, between func()) {
	s.t.Helper()
	before := s.snapshot()
	all := func(do func(name string) error) time.Duration {
		begin := time.Now()
		errs := make([]error, len(names))
		var wg sync.WaitGroup
		for i, name := range names {
			wg.Go(func() { errs[i] = do(name) })
		}
		wg.Wait()
		require.NoError(s.t, errors.Join(errs...))
		return time.Since(begin).Round(10 * time.Millisecond)
	}
	for i := range times {
		started := all(start)
		between()
		stopped := all(stop)
		s.t.Logf("round %d: %d started in %v, stopped in %v", i+1, len(names), started, stopped)
		s.unchanged(before)
	}
}
