// Package systemd holds the units; its tests ask systemd what it thinks of them.
package systemd

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// analyze runs systemd-analyze on a copy of a unit whose program exists.
func analyze(t *testing.T, unit string, args ...string) string {
	t.Helper()
	tool, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip(err)
	}
	text, err := os.ReadFile(unit)
	require.NoError(t, err)
	text = regexp.MustCompile(`(?m)^ExecStart=\S+`).ReplaceAll(text, []byte("ExecStart=/bin/true"))
	file := filepath.Join(t.TempDir(), unit)
	require.NoError(t, os.WriteFile(file, text, 0o644))
	cmd := exec.Command(tool, append(args, file)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "SYSTEMD_PAGER=", "NO_COLOR=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

func TestUnits(t *testing.T) {
	units, err := filepath.Glob("*.service")
	require.NoError(t, err)
	require.NotEmpty(t, units)
	for _, unit := range units {
		t.Run(unit, func(t *testing.T) {
			require.Empty(t, analyze(t, unit, "verify", "--man=no"))
		})
	}
}

func TestExposure(t *testing.T) {
	out := analyze(t, "vdpd.service", "security", "--offline=true")
	m := regexp.MustCompile(`Overall exposure level.*: (\d+\.\d)`).FindStringSubmatch(out)
	require.Len(t, m, 2, "%s", out)
	level, err := strconv.ParseFloat(m[1], 64)
	require.NoError(t, err)
	require.Less(t, level, 2.0, "%s", out)
	t.Logf("vdpd.service: %v of 10", level)
}
