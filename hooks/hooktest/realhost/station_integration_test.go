//go:build integration

package realhost_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/hooktest"
	"libvirt-direct/hooks/hooktest/realhost"
)

func TestStation(t *testing.T) {
	vdpd := filepath.Join(t.TempDir(), "vdpd")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", vdpd, "libvirt-direct/vdp/vdpd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	s := realhost.NewStation(t, vdpd)
	hooktest.StationContract().Run(t, s.For)
}
