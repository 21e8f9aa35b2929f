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

// analyze runs systemd-analyze on a copy of a unit, among copies of the others, whose
// programs exist.
func analyze(t *testing.T, unit string, args ...string) string {
	t.Helper()
	tool, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	for _, file := range units(t) {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		text = regexp.MustCompile(`(?m)^ExecStart=\S+`).ReplaceAll(text, []byte("ExecStart=/bin/true"))
		require.NoError(t, os.WriteFile(filepath.Join(dir, file), text, 0o644))
	}
	cmd := exec.Command(tool, append(args, filepath.Join(dir, unit))...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "SYSTEMD_PAGER=", "NO_COLOR=1", "SYSTEMD_UNIT_PATH="+dir+":")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

func units(t *testing.T) []string {
	var all []string
	for _, kind := range []string{"service", "timer", "path"} {
		files, err := filepath.Glob("*." + kind)
		require.NoError(t, err)
		require.NotEmpty(t, files)
		all = append(all, files...)
	}
	return all
}

func TestUnits(t *testing.T) {
	for _, unit := range units(t) {
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
