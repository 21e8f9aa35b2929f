package ovs

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A socket can be reached by a symbolic link, and can be there with nobody behind it.
func TestSocketsThatAreThere(t *testing.T) {
	dir := t.TempDir()
	socket, link := filepath.Join(dir, "db.sock"), filepath.Join(dir, "link.sock")
	require.NoError(t, os.Symlink(socket, link))
	require.False(t, Place{Socket: link}.Installed())
	require.True(t, Place{Socket: link, From: RunDir}.Installed(), "who says so means it")

	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	require.NoError(t, err)
	require.True(t, Place{Socket: link}.Installed())
	go func() {
		if c, err := l.Accept(); err == nil {
			c.Close()
		}
	}()
	s, err := dial(t.Context(), link)
	require.NoError(t, err)
	s.close()

	l.SetUnlinkOnClose(false)
	require.NoError(t, l.Close())
	require.True(t, Place{Socket: socket}.Installed())
	_, err = dial(t.Context(), socket)
	require.ErrorIs(t, err, ErrUnreachable)
}
