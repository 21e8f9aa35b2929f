package link

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A list that changed while the kernel sent it is asked for again, as one whose answer a
// signal interrupted.
func TestInterruptedDumpsAreRepeated(t *testing.T) {
	answers := []struct {
		answer dumpAnswer
		err    error
	}{
		{dumpAnswer{payloads: [][]byte{{1}}, interrupted: true}, nil},
		{dumpAnswer{}, unix.EINTR},
		{dumpAnswer{payloads: [][]byte{{1}, {1}}, interrupted: true}, nil},
		{dumpAnswer{payloads: [][]byte{{1}, {2}}}, nil},
	}
	out, err := untilWhole(t.Context(), func() (dumpAnswer, error) {
		a := answers[0]
		answers = answers[1:]
		return a.answer, a.err
	})
	require.NoError(t, err)
	require.Equal(t, [][]byte{{1}, {2}}, out)
	require.Empty(t, answers)

	_, err = untilWhole(t.Context(), func() (dumpAnswer, error) { return dumpAnswer{}, unix.EOPNOTSUPP })
	require.ErrorIs(t, err, unix.EOPNOTSUPP)
}

// It is asked for as long as the context allows.
func TestDumpsThatAreInterruptedForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		from := time.Now()
		_, err := untilWhole(ctx, func() (dumpAnswer, error) {
			time.Sleep(10 * time.Millisecond) // of the bubble's time
			return dumpAnswer{interrupted: true}, nil
		})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "it changed again and again")
		require.Less(t, time.Since(from), 2*time.Second)
	})
}

// Every dump goes through dump, which looks whether it is whole.
func TestNobodyElseDumps(t *testing.T) {
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, f := range files {
		text, err := os.ReadFile(f)
		require.NoError(t, err)
		if f != "dump.go" && !strings.HasSuffix(f, "_test.go") {
			require.NotContains(t, string(text), "NLM_F_DUMP", f)
		}
	}
}
