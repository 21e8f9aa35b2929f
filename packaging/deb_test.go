//go:build integration

package packaging

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host/hosttest"
	"libvirt-direct/internal/version"
)

var apt = manager{
	install: func(m *machine, files []string) string {
		return m.sh("apt-get -q -y -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold install --no-install-recommends " + m.give(files))
	},
	remove: func(m *machine) string {
		return m.sh("dpkg --remove libvirt-direct libvirt-direct-helper libvirt-direct-vdpd")
	},
	purge: func(m *machine) string {
		return m.sh("dpkg --purge libvirt-direct libvirt-direct-helper libvirt-direct-vdpd")
	},
	look:  libvirtdProfile,
	keeps: "config.toml",
}

func TestDebVersion(t *testing.T) {
	requireDeb(t)
	require.Equal(t, version.Version+"\n", output(t, "dpkg-parsechangelog", "-l", "debian/changelog", "-S", "Version"))
}

func TestDebReproducible(t *testing.T) {
	requireDeb(t)
	reproducible(t, "deb", must(t, debs))
}

func TestDebContents(t *testing.T) {
	requireDeb(t)
	for name, file := range must(t, debs) {
		var files []string
		for line := range strings.Lines(output(t, "dpkg-deb", "-c", file)) {
			f := strings.Fields(line)
			if strings.HasSuffix(f[5], "/") || strings.Contains(f[5], "/share/doc/") || strings.Contains(f[5], "/share/man/") {
				continue
			}
			require.Equal(t, "root/root", f[1], line)
			files = append(files, f[0]+" "+strings.TrimPrefix(f[5], "."))
		}
		golden(t, name+".files", strings.Join(files, "\n")+"\n")
		require.NotContains(t, output(t, "dpkg-deb", "-c", file), "rws", "what is setuid is made so with its group, which may not exist yet")
	}
}

// lintian's overrides are in the packages, each with its reason.
func TestLintian(t *testing.T) {
	requireDeb(t)
	hosttest.Require(t, "lintian")
	out := output(t, "lintian", append([]string{"--allow-root", "--tag-display-limit=0"}, must(t, debs).files()...)...)
	require.Empty(t, out)
	overrides, err := filepath.Glob("debian/*.lintian-overrides")
	require.NoError(t, err)
	for _, file := range overrides {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(string(text), "# "), "%s has no reason", file)
	}
}

func TestDebLife(t *testing.T) {
	requireDeb(t)
	for _, suite := range []string{"bookworm", "trixie"} {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			life(t, newMachine(t, suite), apt, must(t, oldDebs), must(t, debs))
		})
	}
}

func TestDebNeighbours(t *testing.T) {
	requireDeb(t)
	neighbours(t, newMachine(t, "bookworm"), apt, must(t, debs))
}

func TestDebInterrupted(t *testing.T) {
	requireDeb(t)
	m := newMachine(t, "bookworm")
	interrupted(t, m, apt, must(t, debs))

	// The switch for the helper's rights, as the manual says it.
	helper := func() string {
		return strings.TrimSpace(m.sh("stat -c '%U %G %a' /usr/libexec/qemu-direct-helper"))
	}
	require.Equal(t, "root kvm 4750", helper())
	m.sh(command(t, "dpkg-statoverride --update"))
	require.Equal(t, "root libvirt 4750", helper())
	m.sh("dpkg --install " + m.give(must(t, debs).files())) // as an upgrade does
	require.Equal(t, "root libvirt 4750", helper())
	m.sh(command(t, "dpkg-statoverride --remove"))
	require.Equal(t, "root kvm 4750", helper())
}

// command returns the block of docs/install.md that begins so.
func command(t *testing.T, begin string) string {
	t.Helper()
	text, err := os.ReadFile("../docs/install.md")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(text), "```sh\n"+begin)
	require.True(t, found, begin)
	block, _, _ := strings.Cut(rest, "```")
	return begin + block
}
