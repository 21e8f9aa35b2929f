package libvirtd

import (
	"context"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func brief(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

func TestDialSaysWhyThereIsNoDaemon(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", dir)
	_, err := Dial(t.Context(), "qemu:///session")
	require.ErrorIs(t, err, ErrUnreachable)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.EqualError(t, err, "libvirt is not reachable at qemu:///session: no daemon has a socket in "+dir+"/libvirt; is libvirtd or virtqemud running?")

	// A socket that a daemon has left.
	stale := filepath.Join(dir, "libvirt", "virtqemud-sock")
	require.NoError(t, os.Mkdir(filepath.Dir(stale), 0o700))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	require.NoError(t, err)
	l.SetUnlinkOnClose(false)
	require.NoError(t, l.Close())
	_, err = Dial(t.Context(), "qemu:///session")
	require.ErrorIs(t, err, ErrUnreachable)
	require.ErrorIs(t, err, unix.ECONNREFUSED)
	require.ErrorContains(t, err, stale)
}

func TestDialPrefersTheMonolithicDaemon(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", dir)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "libvirt"), 0o700))
	for _, name := range []string{"virtqemud-sock", "libvirt-sock"} {
		want := filepath.Join(dir, "libvirt", name)
		require.NoError(t, os.WriteFile(want, nil, 0o600))
		got, err := localSocket("/session")
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket) // accepts, and never answers
	require.NoError(t, err)
	defer l.Close()
	_, err = Dial(brief(t), "qemu:///system?socket="+socket)
	require.ErrorIs(t, err, ErrUnreachable)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestDialRefusesWhatIsNoURI(t *testing.T) {
	for _, uri := range []string{"", "vm1", "/run/libvirt/libvirt-sock", ":", "qemu://%zz"} {
		_, err := Dial(t.Context(), uri)
		require.ErrorContains(t, err, "want something such as qemu:///system", uri)
		require.NotErrorIs(t, err, ErrUnreachable)
	}
}
