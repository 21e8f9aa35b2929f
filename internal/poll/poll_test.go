package poll

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// calls records, in the bubble's time, when f is called; it is done at the nth call,
// with an error or without.
func calls(n int, with error) (f func() (bool, error), at func() []time.Duration) {
	begin := time.Now()
	var seen []time.Duration
	return func() (bool, error) {
		seen = append(seen, time.Since(begin))
		if len(seen) == n {
			return with == nil, with
		}
		return false, nil
	}, func() []time.Duration { return seen }
}

const ms = time.Millisecond

func TestUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, at := calls(3, nil)
		require.NoError(t, Until(t.Context(), 20*ms, f))
		require.Equal(t, []time.Duration{0, 20 * ms, 40 * ms}, at(), "at once, then every 20 ms")
	})
}

func TestPauseBeginsAfterTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, at := calls(2, nil)
		require.NoError(t, Until(t.Context(), 20*ms, func() (bool, error) {
			defer time.Sleep(30 * ms) // of the bubble's time
			return f()
		}))
		require.Equal(t, []time.Duration{0, 50 * ms}, at())
	})
}

func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, at := calls(6, nil)
		require.NoError(t, Backoff(t.Context(), ms, 5*ms, f))
		require.Equal(t, []time.Duration{0, ms, 3 * ms, 7 * ms, 12 * ms, 17 * ms}, at())
	})
}

func TestErrorEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		f, at := calls(2, broken)
		require.Equal(t, broken, Until(t.Context(), ms, f), "as f has returned it")
		require.Len(t, at(), 2)
	})
}

func TestContextEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*ms)
		defer cancel()
		f, at := calls(0, nil)
		err := Until(ctx, 20*ms, f)
		require.ErrorIs(t, err, ErrGaveUp)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.EqualError(t, err, "gave up waiting: context deadline exceeded")
		require.Equal(t, []time.Duration{0, 20 * ms, 40 * ms}, at())
	})
}

func TestCause(t *testing.T) {
	died := errors.New("libvirtd died")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(died)
	looked := false
	err := Until(ctx, time.Hour, func() (bool, error) { looked = true; return false, nil })
	require.ErrorIs(t, err, died)
	require.ErrorIs(t, err, ErrGaveUp)
	require.True(t, looked, "it may have happened by now")

	require.NoError(t, Until(ctx, time.Hour, func() (bool, error) { return true, nil }))
}

// An error of f's own is no giving up, even if it is ctx's.
func TestErrorOfTheContextFromF(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := Until(ctx, time.Hour, func() (bool, error) { return false, ctx.Err() })
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, ErrGaveUp)
}
