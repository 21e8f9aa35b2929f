//go:build integration

package packaging

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
	"libvirt-direct/internal/version"
)

// previous is a version that an upgrade comes from.
const previous = "0.0.1"

// scratch holds what all tests share.
var scratch string

func TestMain(m *testing.M) {
	host.MaybeInit()
	// What make is told by the make that runs the tests, -j above all, is not meant for ours.
	for _, name := range []string{"MAKEFLAGS", "MFLAGS", "MAKELEVEL"} {
		os.Unsetenv(name)
	}
	var err error
	if scratch, err = os.MkdirTemp("", "packaging-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(scratch)
	os.Exit(code)
}

// A set is the packages of one kind and version by name, "libvirt-direct-helper".
type set map[string]string

func (s set) files() []string {
	var files []string
	for _, name := range []string{"libvirt-direct", "libvirt-direct-helper", "libvirt-direct-vdpd"} {
		files = append(files, s[name])
	}
	return files
}

// copyTree copies what git knows of the tree, as a clone has it.
func copyTree(dir string) error {
	script := `cd .. && git ls-files -z --cached --others --exclude-standard -- . ':!:.cache' |
		tar -c --null --verbatim-files-from --files-from=- --ignore-failed-read --warning=no-failed-read | tar -x -C "$0"`
	if out, err := exec.Command("sh", "-c", script, dir).CombinedOutput(); err != nil {
		return fmt.Errorf("copy the tree: %w %s", err, out)
	}
	return nil
}

// build makes packages of kind "deb" or "rpm" from a copy of the tree, as in a clean
// clone, as of a version.
func build(kind, v string) (set, error) {
	dir, err := os.MkdirTemp(scratch, kind+"-")
	if err != nil {
		return nil, err
	}
	if err := copyTree(dir); err != nil {
		return nil, err
	}
	if v != version.Version {
		for _, file := range []string{"internal/version/version.go", "packaging/debian/changelog"} {
			text, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				return nil, err
			}
			text = []byte(strings.Replace(string(text), version.Version, v, 1))
			if err := os.WriteFile(filepath.Join(dir, file), text, 0o644); err != nil {
				return nil, err
			}
		}
	}
	cmd := exec.Command("make", "-s", kind)
	cmd.Dir = dir
	// xz takes longer than all the rest.
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1790000000", "DPKG_DEB_COMPRESSOR_LEVEL=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("make %s: %w\n%s", kind, err, out)
	}
	files, err := filepath.Glob(filepath.Join(dir, "dist", "*."+kind))
	if err != nil {
		return nil, err
	}
	built := set{}
	for _, f := range files {
		name, _, _ := strings.Cut(filepath.Base(f), map[string]string{"deb": "_", "rpm": "-" + v}[kind])
		built[name] = f
	}
	if len(built) != 3 {
		return nil, fmt.Errorf("make %s built %v", kind, files)
	}
	return built, nil
}

var (
	debs    = sync.OnceValues(func() (set, error) { return build("deb", version.Version) })
	oldDebs = sync.OnceValues(func() (set, error) { return build("deb", previous) })
	rpms    = sync.OnceValues(func() (set, error) { return build("rpm", version.Version) })
	oldRPMs = sync.OnceValues(func() (set, error) { return build("rpm", previous) })
)

func must(tb testing.TB, packages func() (set, error)) set {
	tb.Helper()
	s, err := packages()
	require.NoError(tb, err)
	return s
}

// output runs a program that has to succeed, and returns all that it says.
func output(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	require.NoError(tb, err, "%s %v: %s", name, args, out)
	return string(out)
}

// requireDeb and requireRPM begin a test, which runs beside others: each builds in a folder
// of its own and installs into a root in namespaces of its own.

func requireDeb(t *testing.T) {
	t.Helper()
	hosttest.Require(t, "dpkg-buildpackage", "dh", "dh_apparmor", "git")
	t.Parallel()
}

func requireRPM(t *testing.T) {
	t.Helper()
	hosttest.Require(t, "rpmbuild", "git")
	t.Parallel()
}

// reproducible builds a kind's packages once more and compares the bytes.
func reproducible(t *testing.T, kind string, first set) {
	t.Helper()
	again, err := build(kind, version.Version)
	require.NoError(t, err)
	for name, file := range first {
		one, err := os.ReadFile(file)
		require.NoError(t, err)
		two, err := os.ReadFile(again[name])
		require.NoError(t, err)
		require.True(t, bytes.Equal(one, two), "%s differs: diffoscope %s %s", name, file, again[name])
	}
}
