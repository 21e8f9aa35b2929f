//go:build integration

package packaging

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host/hosttest"
)

func TestAppArmorProfiles(t *testing.T) {
	hosttest.Require(t, "apparmor_parser")
	profiles, err := filepath.Glob("apparmor/*")
	require.NoError(t, err)
	require.Len(t, profiles, 3)
	for _, p := range profiles {
		parsed(t, output(t, "apparmor_parser", "--skip-kernel-load", "--skip-cache", p))
	}
}

// parsed judges what AppArmor's compiler says.
func parsed(t testing.TB, out string) {
	t.Helper()
	for line := range strings.Lines(out) {
		require.Contains(t, line, "interface file missing", "a kernel without AppArmor is all that may be warned of")
	}
}

// libvirtdProfile is about libvirtd's own profile with our lines in it, and about ours,
// in the root's version: a rule that contradicts another one does not compile.
func libvirtdProfile(m *machine) {
	m.tb.Helper()
	lines := m.read("/etc/apparmor.d/local/usr.sbin.libvirtd")
	require.Contains(m.tb, lines, "/etc/libvirt/hooks/qemu PUx -> libvirt-direct-hook,")
	require.Contains(m.tb, lines, "/usr/libexec/qemu-direct-helper PUx,")
	for _, profile := range []string{"usr.sbin.libvirtd", "libvirt-direct-hook", "usr.libexec.qemu-direct-helper", "usr.sbin.vdpd"} {
		parsed(m.tb, m.sh("apparmor_parser --skip-kernel-load --skip-cache /etc/apparmor.d/"+profile))
	}
}

// The policy module is compiled against Debian's policy, whose makefile is that of
// Fedora's: it runs checkmodule and semodule_package.
func TestSELinuxModule(t *testing.T) {
	hosttest.Require(t, "checkmodule", "semodule_package")
	const devel = "/usr/share/selinux/devel/Makefile"
	if _, err := os.Stat(devel); err != nil {
		hosttest.Require(t, devel)
	}
	dir := t.TempDir()
	output(t, "cp", "-r", "selinux/.", dir)
	out := output(t, "make", "-C", dir, "-f", devel, "NAME=default", "libvirt_direct.pp")
	require.NotRegexp(t, regexp.MustCompile(`(?i)error|warning`), out)
	contexts, err := os.ReadFile("selinux/libvirt_direct.fc")
	require.NoError(t, err)
	for _, path := range []string{"/etc/libvirt-direct", "/usr/libexec/qemu-direct-helper", "/usr/s?bin/vdpd", "/run/vdpd", "/run/libvirt-direct"} {
		require.Contains(t, string(contexts), path)
	}
}
