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
func (h *fixture) crowd(names []string, times int, start, stop func(name string) error, between func()) {
	h.T.Helper()
	before := h.MustSnapshot()
	all := func(do func(name string) error) time.Duration {
		begin := time.Now()
		errs := make([]error, len(names))
		var wg sync.WaitGroup
		for i, name := range names {
			wg.Go(func() { errs[i] = do(name) })
		}
		wg.Wait()
		require.NoError(h.T, errors.Join(errs...))
		return time.Since(begin).Round(10 * time.Millisecond)
	}
	for i := range times {
		started := all(start)
		between()
		stopped := all(stop)
		h.T.Logf("round %d: %d started in %v, stopped in %v", i+1, len(names), started, stopped)
		h.RequireUnchanged(before)
	}
}
