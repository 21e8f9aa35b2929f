package lldpad

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// The pid file that a dead lldpad leaves leads libvirt astray, and nobody else.
func TestNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lldpad.pid")
	require.Equal(t, ErrNoDaemon, nobody(path))

	done := exec.Command("true")
	require.NoError(t, done.Run())
	self := os.Args[0]
	for content, want := range map[string]string{
		"":                                     "",
		"x\n":                                  "",
		"-1":                                   "",
		"0\x00":                                "",
		fmt.Sprintf("%d\n", done.Process.Pid):  fmt.Sprintf("process %d is gone", done.Process.Pid),
		fmt.Sprintf("%d\x00\x00", os.Getpid()): fmt.Sprintf("process %d is %s", os.Getpid(), filepath.Base(self)),
	} {
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		err := nobody(path)
		require.ErrorIs(t, err, ErrNoDaemon)
		if want == "" {
			require.Equal(t, ErrNoDaemon, err)
			continue
		}
		require.ErrorIs(t, err, ErrStalePid)
		require.EqualError(t, err, "lldpad does not run: systemctl start lldpad; /run/lldpad.pid is left over: "+want)
	}

	// lldpad of another network namespace, and vdpd in its place, are not asked here.
	for _, name := range []string{"lldpad", "vdpd"} {
		other := exec.Command("sleep", "60")
		other.Args[0] = "/usr/sbin/" + name
		require.NoError(t, other.Start())
		t.Cleanup(func() { other.Process.Kill(); other.Wait() })
		require.NoError(t, os.WriteFile(path, fmt.Append(nil, other.Process.Pid), 0o600))
		require.Equal(t, ErrNoDaemon, nobody(path))
	}
}
