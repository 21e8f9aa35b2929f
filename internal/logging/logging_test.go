package logging

import (
	"io"
	"log/slog"
	"testing"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/stretchr/testify/require"
)

func TestPriorities(t *testing.T) {
	for level, want := range map[slog.Level]journal.Priority{
		slog.LevelInfo: journal.PriInfo, slog.LevelInfo + 1: journal.PriInfo,
		slog.LevelWarn: journal.PriWarning, slog.LevelError: journal.PriErr, slog.LevelError + 4: journal.PriErr,
	} {
		require.Equal(t, want, priority(level), level)
	}
}

func TestDebugIsNotLogged(t *testing.T) {
	l := New("prog", io.Discard)
	require.False(t, l.Enabled(t.Context(), slog.LevelDebug))
	require.True(t, l.Enabled(t.Context(), slog.LevelInfo))
}

// A logger made from another must not write into the other's attributes.
func TestAttributesAreNotShared(t *testing.T) {
	base := New("prog", io.Discard).With("domain", "a").Handler().(*handler)
	one := base.WithAttrs([]slog.Attr{slog.String("op", "start")}).(*handler)
	two := base.WithAttrs([]slog.Attr{slog.String("op", "stopped")}).(*handler)
	require.Len(t, base.attrs, 1)
	require.Equal(t, "start", one.attrs[1].Value.String())
	require.Equal(t, "stopped", two.attrs[1].Value.String())
}
