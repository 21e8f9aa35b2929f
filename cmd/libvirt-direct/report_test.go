package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
)

// full is a disk on which there is no room.
type full struct{}

var errFull = errors.New("no space left")

func (full) Write([]byte) (int, error) { return 0, errFull }

func TestReport(t *testing.T) {
	o := &options{timeout: time.Minute}
	find := func(ctx context.Context) ([]int, error) {
		_, bounded := ctx.Deadline()
		require.True(t, bounded)
		return []int{1}, nil
	}
	text := func(w io.Writer, found []int) { fmt.Fprintln(w, "found", found) }
	for asJSON, want := range map[bool]string{true: "[\n  1\n]\n", false: "found [1]\n"} {
		c, out := &cobra.Command{}, &bytes.Buffer{}
		c.SetContext(t.Context())
		c.SetOut(out)
		require.NoError(t, report(o, c, asJSON, find, text))
		require.Equal(t, want, out.String())
		out.Reset()
		fails := func(context.Context) ([]int, error) { return []int{1}, errFound }
		require.ErrorIs(t, report(o, c, asJSON, fails, text), errFound)
		require.Empty(t, out.String())
		c.SetOut(full{})
		require.ErrorIs(t, report(o, c, asJSON, find, text), errFull)
	}
}
