package checks

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// marked stands for isHook: a program that says so is the hook.
func marked(path string) bool {
	text, err := os.ReadFile(path)
	return err == nil && string(text) == "hook"
}

// The modes of what is installed where nobody but root can write are the integration
// tests' to look at.
func TestHookIn(t *testing.T) {
	const main, dropIn = "qemu", "qemu.d/50-libvirt-direct"
	for _, c := range []struct {
		name  string
		files map[string]string // "hook" or what another program is; "-" in front: it is not executable, "@": a link to it
		want  []string          // level and text, DIR for the folder
	}{
		{"nothing", nil, []string{"FAULT it is not installed: copy it to DIR/qemu, mode 755"}},
		{"another's", map[string]string{main: "sh"}, []string{"FAULT DIR/qemu is another program's, and ours is not in DIR/qemu.d: install it as DIR/qemu.d/50-libvirt-direct"}},
		{"not executable", map[string]string{main: "-hook"}, []string{"FAULT DIR/qemu is not executable, so libvirt does not run it: chmod 755 DIR/qemu"}},
		{"beside another's", map[string]string{main: "sh", dropIn: "-hook"}, []string{
			"FAULT DIR/qemu.d/50-libvirt-direct is not executable",
			"note DIR/qemu is another program's: libvirt runs it before ours",
		}},
		{"beside another's that libvirt does not run", map[string]string{main: "-sh", dropIn: "-hook"}, []string{"FAULT DIR/qemu.d/50-libvirt-direct is not executable"}},
		{"twice, and a copy", map[string]string{main: "-hook", dropIn: "-hook", dropIn + ".dpkg-old": "hook", "qemu.d/99-other": "sh"}, []string{
			"note DIR/qemu.d/50-libvirt-direct.dpkg-old is a package manager's or an editor's copy",
			"FAULT it is there more than once, libvirt would run each (DIR/qemu, DIR/qemu.d/50-libvirt-direct): remove all but one",
			"FAULT DIR/qemu is not executable",
			"FAULT DIR/qemu.d/50-libvirt-direct is not executable",
			"note DIR/qemu.d/99-other is another program's: libvirt runs it after ours, and no guest starts when it fails",
		}},
		{"a link to nothing", map[string]string{main: "@nowhere"}, []string{"FAULT DIR/qemu is another program's, and ours is not in DIR/qemu.d"}},
		{"a link to another's", map[string]string{main: "@other", "other": "sh", dropIn: "-hook"}, []string{
			"FAULT DIR/qemu.d/50-libvirt-direct is not executable", "note DIR/qemu is another program's: libvirt runs it before ours",
		}},
		{"a link to the hook", map[string]string{main: "@other", "other": "-hook"}, []string{"FAULT DIR/qemu is not executable"}},
		{"neighbours", map[string]string{
			dropIn: "-hook", "qemu.d/10-first": "sh", "qemu.d/60-later": "sh", "qemu.d/70-off": "-sh", "qemu.d/80-gone": "@nowhere",
			"qemu.d/90-copy.dpkg-old": "sh", "qemu.d/win10/prepare/begin/vfio.sh": "sh",
		}, []string{
			"FAULT DIR/qemu.d/50-libvirt-direct is not executable",
			"note DIR/qemu.d/10-first is another program's: libvirt runs it before ours, and no guest starts when it fails",
			"note DIR/qemu.d/60-later is another program's: libvirt runs it after ours, and no guest starts when it fails",
			"note DIR/qemu.d/70-off is not executable: libvirt does not run it",
			"note DIR/qemu.d/80-gone is a link to nothing: libvirt does not run it",
			"note DIR/qemu.d/90-copy.dpkg-old looks like a copy that a package manager or an editor has left: libvirt runs it like any other, after ours",
		}},
		{"ours first, and a neighbour", map[string]string{main: "-hook", "qemu.d/10-first": "sh"}, []string{
			"FAULT DIR/qemu is not executable",
			"note DIR/qemu.d/10-first is another program's: libvirt runs it after ours, and no guest starts when it fails",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range c.files {
				program(t, filepath.Join(dir, name), text)
			}
			var want []Finding
			for _, line := range c.want {
				level, text, _ := strings.Cut(strings.ReplaceAll(line, "DIR", dir), " ")
				want = append(want, Finding{Level(level), "hook", text})
			}
			requireFindings(t, want, hookIn(dir, marked))
		})
	}
}

// program makes a file that is executable but with "-" in front of its text, or a link to
// what follows "@".
func program(t *testing.T, path, text string) {
	t.Helper()
	mode := os.FileMode(0o755)
	text, plain := strings.CutPrefix(text, "-")
	if plain {
		mode = 0o644
	}
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	if to, link := strings.CutPrefix(text, "@"); link {
		require.NoError(t, os.Symlink(to, path))
		return
	}
	require.NoError(t, os.WriteFile(path, []byte(text), mode))
}

// libvirt runs what is in qemu.d since 6.5.0.
func TestHookFolder(t *testing.T) {
	dir := t.TempDir()
	main, dropIn := filepath.Join(dir, "qemu"), filepath.Join(dir, "qemu.d", "50-libvirt-direct")
	program(t, main, "sh")
	require.Empty(t, hookFolder(dir, 6_000_000, marked))
	program(t, dropIn, "hook")
	require.Equal(t, []Finding{{Fault, "libvirt", "libvirt 6.4.1 runs no programs in " + main + ".d, which 6.5.0 is the first to do, and " + main +
		" is another program: let that end with: exec " + dropIn + " \"$@\""}}, hookFolder(dir, 6_004_001, marked))
	require.Empty(t, hookFolder(dir, 6_005_000, marked))
	program(t, main, "hook")
	require.Empty(t, hookFolder(dir, 6_000_000, marked))
}

func TestNetworkHookIn(t *testing.T) {
	dir := t.TempDir()
	main, dropIn := filepath.Join(dir, "network"), filepath.Join(dir, "network.d", "50-libvirt-direct")
	missing := "a, b hand out devices of this host, and our hook for networks is not installed: "
	look := func() Finding { return networkHookIn(dir, marked, "a, b") }
	require.Equal(t, Finding{Note, "networks", missing + "ln -s qemu " + main + ", then reload libvirtd or virtnetworkd"}, look())
	program(t, main, "sh")
	require.Equal(t, Finding{Note, "networks", missing + "install it as " + dropIn + ", then reload libvirtd or virtnetworkd"}, look())
	program(t, dropIn, "hook")
	require.Equal(t, Finding{OK, "networks", "a, b hand out devices of this host; " + dropIn + " sees to it"}, look())
}

func TestListed(t *testing.T) {
	list := filepath.Join(t.TempDir(), "modules.dep")
	require.False(t, listed(list, "macvtap"))
	require.NoError(t, os.WriteFile(list, []byte("kernel/drivers/net/macvtap.ko.xz: kernel/drivers/net/tap.ko.xz\nkernel/net/8021q/8021q.ko:\n"), 0o644))
	require.True(t, listed(list, "macvtap"))
	require.True(t, listed(list, "8021q"))
	require.False(t, listed(list, "tap"))
}
