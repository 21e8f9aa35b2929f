//go:build integration

package logging

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
)

// logMain holds a message: the program then logs it, as a program inside a host.
const logMain = "LOGGING_TEST_MAIN"

func TestMain(m *testing.M) {
	if msg := os.Getenv(logMain); msg != "" {
		New("prog", os.Stderr).With("domain", "vm 1").Warn(msg, "op", "start", "sub-op", "begin")
		os.Exit(0)
	}
	hosttest.Main(m)
}

// listen plays a log's socket inside.
func listen(t *testing.T, p *host.Peer, path string) *net.UnixConn {
	t.Helper()
	at := p.Path(path)
	require.NoError(t, os.MkdirAll(filepath.Dir(at), 0o755))
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: at, Net: "unixgram"})
	require.NoError(t, err)
	return c
}

// receive returns what was sent to a log.
func receive(t *testing.T, c *net.UnixConn) string {
	t.Helper()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(5*time.Second)))
	b := make([]byte, 1<<16)
	n, err := c.Read(b)
	require.NoError(t, err)
	return string(b[:n])
}

// The journal goes before syslog, and that before standard error; each line is in
// one of them only.
func TestWhereLinesGo(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p := hosttest.NewPeer(ctx, t, host.Options{Name: "p"})
	// /dev is shared, and the machine's syslog may listen at /dev/log.
	_, err := p.Run(ctx, "sh", "-c", "test ! -e /dev/log || mount --bind /dev/null /dev/log")
	require.NoError(t, err)
	const journal, syslog = "/run/systemd/journal/socket", "/run/log"
	self, err := os.Executable()
	require.NoError(t, err)
	log := func(msg string) (stderr string) {
		t.Helper()
		var out strings.Builder
		cmd := p.Command(ctx, self)
		cmd.Env = append(cmd.Env, logMain+"="+msg)
		cmd.Stderr = &out
		require.NoError(t, cmd.Run())
		return out.String()
	}

	require.Equal(t, "prog: one; two\n", log("one\ntwo"), "one line")

	s := listen(t, p, syslog)
	require.Empty(t, log("to syslog"))
	// RFC 3164, facility daemon (3), severity warning (4).
	line := receive(t, s)
	require.True(t, strings.HasPrefix(line, fmt.Sprintf("<%d>", 3<<3|4)), line)
	require.Regexp(t, `prog\[\d+\]: to syslog\n$`, line)

	j := listen(t, p, journal)
	require.Empty(t, log("to the\njournal"))
	fields := strings.Split(receive(t, j), "\n")
	require.Subset(t, fields, []string{
		"MESSAGE=to the; journal", "PRIORITY=4", "SYSLOG_IDENTIFIER=prog",
		"LIBVIRT_DIRECT_DOMAIN=vm 1", "LIBVIRT_DIRECT_OP=start", "LIBVIRT_DIRECT_SUB_OP=begin",
	})
	require.NoError(t, s.SetReadDeadline(time.Now()))
	_, err = s.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded, "not in syslog as well")

	// The journal's socket is there, and nobody listens.
	file, err := j.File()
	require.NoError(t, err)
	require.NoError(t, file.Close())
	require.NoError(t, j.Close())
	require.Empty(t, log("again"))
	require.Contains(t, receive(t, s), "again")
	require.NoError(t, s.Close())
	require.Equal(t, "prog: at last\n", log("at last"))
}
