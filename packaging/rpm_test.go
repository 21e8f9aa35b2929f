//go:build integration

package packaging

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host/hosttest"
)

// Debian's rpm installs into a Debian system that does not know of it: what is shown is
// what the packages hold and what their scripts do. It is no Fedora: dependencies are
// not resolved, and there is neither systemd's macros nor SELinux in it.
var rpm = manager{
	install: func(m *machine, files []string) string {
		return m.rpm(append([]string{"--upgrade", "--nodeps"}, files...)...)
	},
	remove: func(m *machine) string {
		return m.rpm("--erase", "--nodeps", "libvirt-direct", "libvirt-direct-helper", "libvirt-direct-vdpd")
	},
	keeps: "config.toml.rpmsave",
}

func (m *machine) rpm(args ...string) string {
	m.tb.Helper()
	cmd := m.Command(m.ctx, "rpm", append([]string{"--root", m.root, "--dbpath", "/var/lib/rpm"}, args...)...)
	out, err := cmd.CombinedOutput()
	require.NoError(m.tb, err, "%s", out)
	return string(out)
}

func TestRPMReproducible(t *testing.T) {
	requireRPM(t)
	reproducible(t, "rpm", must(t, rpms))
}

func TestRPMContents(t *testing.T) {
	requireRPM(t)
	for name, file := range must(t, rpms) {
		list := output(t, "rpm", "--query", "--package", "--qf",
			"[%{filemodes:perms} %{fileusername}/%{filegroupname} %{filenames} %{fileflags:fflags}\n]", file)
		var files []string
		for line := range strings.Lines(list) {
			if !strings.Contains(line, "/share/doc/") && !strings.Contains(line, "/share/man/") && !strings.Contains(line, "/share/licenses/") {
				files = append(files, strings.TrimSpace(line))
			}
		}
		golden(t, name+".rpm.files", strings.Join(files, "\n")+"\n")
	}
}

// rpmlint.toml has the reason for each thing that may be.
func TestRPMLint(t *testing.T) {
	requireRPM(t)
	hosttest.Require(t, "rpmlint")
	out := output(t, "rpmlint", append([]string{"--config", "rpmlint.toml"}, must(t, rpms).files()...)...)
	require.Contains(t, out, " 0 errors, 0 warnings")
}

func TestRPMLife(t *testing.T) {
	requireRPM(t)
	m := newMachine(t, "bookworm")
	// Folders of Fedora's package filesystem.
	m.sh("cd /usr/share; mkdir -p man/man1 man/man5 man/man7 man/man8 fish/vendor_completions.d zsh/site-functions licenses")
	life(t, m, rpm, must(t, oldRPMs), must(t, rpms))
}

func TestRPMNeighbours(t *testing.T) {
	requireRPM(t)
	neighbours(t, newMachine(t, "bookworm"), rpm, must(t, rpms))
}

func TestRPMInterrupted(t *testing.T) {
	requireRPM(t)
	interrupted(t, newMachine(t, "bookworm"), rpm, must(t, rpms))
}
