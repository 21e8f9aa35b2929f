package logging

import (
	"errors"
	"io"
	"log/slog"
	"log/syslog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// at is a handler whose logs are elsewhere.
func at(journal, syslog string, stderr io.Writer) *handler {
	h := New("prog", stderr).Handler().(*handler)
	h.journal, h.syslog = journal, []string{syslog}
	return h
}

// listener plays a log's socket.
type listener struct {
	*net.UnixConn
	t    *testing.T
	path string
}

func newListener(t *testing.T) *listener {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return &listener{c, t, path}
}

// fill sends to a log until it takes no more.
func (l *listener) fill() {
	l.t.Helper()
	for {
		err := send(l.path, unix.SOCK_DGRAM, []byte("x"))
		if errors.Is(err, unix.EAGAIN) {
			return
		}
		require.NoError(l.t, err)
	}
}

// next returns the next message of ours.
func (l *listener) next() string {
	l.t.Helper()
	require.NoError(l.t, l.SetReadDeadline(time.Now().Add(10*time.Second)))
	b := make([]byte, 1<<16)
	for {
		n, err := l.Read(b)
		require.NoError(l.t, err)
		if m := string(b[:n]); m != "x" {
			return m
		}
	}
}

// A log that nobody reads delays nothing, and what it did not take it is told of.
func TestFullLogs(t *testing.T) {
	for _, which := range []string{"journal", "syslog"} {
		t.Run(which, func(t *testing.T) {
			full, none := newListener(t), filepath.Join(t.TempDir(), "none")
			var stderr strings.Builder
			h := at(full.path, none, &stderr)
			if which == "syslog" {
				h = at(none, full.path, &stderr)
			}
			log := slog.New(h)
			full.fill()
			done := make(chan struct{})
			go func() {
				defer close(done)
				log.Info("one")
				log.With("domain", "vm").Info("two")
			}()
			select {
			case <-done:
			case <-time.After(10 * time.Second):
				require.FailNow(t, "still waiting for the log")
			}
			require.Equal(t, "prog: one\nprog: two\n", stderr.String())

			_, err := full.Read(make([]byte, 1))
			require.NoError(t, err)
			log.Info("three")
			require.Contains(t, full.next(), "three (lines missing before this one, because the log was full: 2)\n")
			log.Info("four")
			require.Contains(t, full.next(), "four\n")
			require.Equal(t, "prog: one\nprog: two\n", stderr.String())
		})
	}
}

// A full journal's lines go to syslog, where there is one.
func TestFullJournalBesideSyslog(t *testing.T) {
	full, other := newListener(t), newListener(t)
	full.fill()
	var stderr strings.Builder
	slog.New(at(full.path, other.path, &stderr)).Warn("one\ntwo")
	require.Regexp(t, `^<28>[A-Z][a-z]{2} [ 1-3][0-9] [0-9:]{8} prog\[[0-9]+\]: one; two\n$`, other.next())
	require.Empty(t, stderr.String())
}

func TestJournalFields(t *testing.T) {
	j := newListener(t)
	slog.New(at(j.path, j.path+"none", io.Discard)).With("domain", "vm").Error("line", "sub-op", "two\nlines")
	require.Equal(t, "MESSAGE=line\nPRIORITY=3\nSYSLOG_IDENTIFIER=prog\nLIBVIRT_DIRECT_DOMAIN=vm\n"+
		"LIBVIRT_DIRECT_SUB_OP\n\x09\x00\x00\x00\x00\x00\x00\x00two\nlines\n", j.next())
}

func TestPriorities(t *testing.T) {
	for level, want := range map[slog.Level]syslog.Priority{
		slog.LevelInfo: syslog.LOG_INFO, slog.LevelInfo + 1: syslog.LOG_INFO,
		slog.LevelWarn: syslog.LOG_WARNING, slog.LevelError: syslog.LOG_ERR, slog.LevelError + 4: syslog.LOG_ERR,
	} {
		require.Equal(t, want, severity(level), level)
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
