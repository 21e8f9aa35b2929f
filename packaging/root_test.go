//go:build integration

package packaging

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/integration/guest/kernel"
	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
	"libvirt-direct/integration/sriov/debian"
	"libvirt-direct/internal/poll"
)

// contents is what a root has beside the essential packages: what ours depend on, and
// what it takes to run a guest.
const contents = "apparmor,libvirt-daemon-system,qemu-system-x86,iproute2,systemd"

// maxAge is after how long a cached root is made again, for the security fixes.
const maxAge = 30 * 24 * time.Hour

// tarball returns a clean root of a Debian release, made of packages from the archive
// that this machine's own come from.
func tarball(ctx context.Context, suite string) (string, error) {
	cache, err := kernel.CacheDir()
	if err != nil {
		return "", err
	}
	what := sha256.Sum256([]byte(contents))
	file := filepath.Join(cache, "root-"+suite+"-"+hex.EncodeToString(what[:4])+".tar")
	unlock, err := kernel.Lock(ctx, cache)
	if err != nil {
		return "", err
	}
	defer unlock()
	if fi, err := os.Stat(file); err == nil && time.Since(fi.ModTime()) < maxAge {
		return file, nil
	}
	archive, _, err := debian.Release(ctx)
	if err != nil {
		return "", err
	}
	tmp := file + ".new.tar"
	defer os.Remove(tmp)
	args := []string{"--variant=minbase", "--include=" + contents, "--aptopt=APT::Install-Recommends \"false\""}
	for _, d := range []string{"man", "locale", "doc"} {
		args = append(args, "--dpkgopt=path-exclude=/usr/share/"+d+"/*")
	}
	// A package's documents are part of what the tests look at: ours stay.
	args = append(args, "--dpkgopt=path-include=/usr/share/doc/libvirt-direct*", "--dpkgopt=path-include=/usr/share/man/*/*direct*")
	cmd := exec.CommandContext(ctx, "mmdebstrap", append(args, suite, tmp, "deb "+archive+" "+suite+" main")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("mmdebstrap %s: %w\n%s", suite, err, out)
	}
	return file, os.Rename(tmp, file)
}

var unpacked = struct {
	sync.Mutex
	roots map[string]string
}{roots: map[string]string{}}

// unpack returns the directory of a release's root, which nobody may change.
func unpack(ctx context.Context, suite string) (string, error) {
	unpacked.Lock()
	defer unpacked.Unlock()
	if dir := unpacked.roots[suite]; dir != "" {
		return dir, nil
	}
	file, err := tarball(ctx, suite)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(scratch, "root-"+suite)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	if out, err := exec.CommandContext(ctx, "tar", "-xf", file, "-C", dir, "--numeric-owner", "--xattrs-include=*").CombinedOutput(); err != nil {
		return "", fmt.Errorf("unpack %s: %w %s", file, err, out)
	}
	unpacked.roots[suite] = dir
	return dir, nil
}

// A machine is a Debian system in namespaces of its own, which shares its kernel's
// state and nothing else with a host whose libvirtd is the root's.
type machine struct {
	*host.Host
	tb   testing.TB
	ctx  context.Context
	root string
}

// newMachine makes a machine of a release with a NIC "nic0".
func newMachine(tb testing.TB, suite string) *machine {
	tb.Helper()
	hosttest.Require(tb, "mmdebstrap")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	tb.Cleanup(cancel)
	base, err := unpack(ctx, suite)
	require.NoError(tb, err)
	m := &machine{Host: hosttest.New(ctx, tb, host.Options{Name: suite}), tb: tb, ctx: ctx}
	m.root = filepath.Join(tb.TempDir(), "root")
	layers := filepath.Join(tb.TempDir(), "layers")
	m.outside("sh", "-euc", `
		mkdir "$1" "$2"; mount -t tmpfs tmpfs "$2"; mkdir "$2/upper" "$2/work"; chmod 755 "$2/upper"
		mount -t overlay -o "lowerdir=$0,upperdir=$2/upper,workdir=$2/work" overlay "$1"
		mount --bind /dev "$1/dev"; mount -t proc proc "$1/proc"; mount --rbind /sys "$1/sys"
		mount --bind /run "$1/run"; mount --bind /var/log/libvirt "$1/var/log/libvirt"
		cp /etc/libvirt/libvirtd.conf /etc/libvirt/qemu.conf "$1/etc/libvirt"
		mkdir -p /run/lock; cp /etc/hosts "$1/etc/hosts"`, base, m.root, layers)
	peer := hosttest.NewPeer(ctx, tb, host.Options{Name: "switch"})
	require.NoError(tb, host.Wire(ctx, m.Peer, "nic0", peer, "port0"))
	return m
}

// outside runs a program of this machine in m's namespaces.
func (m *machine) outside(name string, args ...string) string {
	m.tb.Helper()
	out, err := m.Run(m.ctx, name, args...)
	require.NoError(m.tb, err)
	return out
}

// try runs a shell script inside the root and returns all that it says.
func (m *machine) try(script string) (string, error) {
	cmd := m.Command(m.ctx, "chroot", m.root, "/bin/sh", "-euc", script)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (m *machine) sh(script string) string {
	m.tb.Helper()
	out, err := m.try(script)
	require.NoError(m.tb, err, "%s\n%s", script, out)
	return out
}

// path is where a file of the root is seen from here.
func (m *machine) path(name string) string { return m.Path(filepath.Join(m.root, name)) }

func (m *machine) write(name string, mode os.FileMode, text string) {
	m.tb.Helper()
	require.NoError(m.tb, m.WriteFile(m.ctx, filepath.Join(m.root, name), mode, []byte(text)))
}

func (m *machine) read(name string) string {
	m.tb.Helper()
	text, err := os.ReadFile(m.path(name))
	require.NoError(m.tb, err)
	return string(text)
}

// give copies files of this machine into the root and returns their paths there.
func (m *machine) give(files []string) string {
	m.tb.Helper()
	m.sh("rm -rf /root/packages; mkdir -p /root/packages")
	var inside []string
	for _, f := range files {
		to := filepath.Join("/root/packages", filepath.Base(f))
		require.NoError(m.tb, m.CopyFile(m.ctx, filepath.Join(m.root, to), 0o644, f))
		inside = append(inside, to)
	}
	return strings.Join(inside, " ")
}

// startLibvirtd starts the root's libvirtd and waits until it answers.
func (m *machine) startLibvirtd() {
	m.tb.Helper()
	cmd := m.Command(m.ctx, "chroot", m.root, "/usr/sbin/libvirtd")
	log := m.tb.Output()
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(m.tb, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	m.tb.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
	})
	require.NoError(m.tb, poll.Until(m.ctx, 20*time.Millisecond, func() (bool, error) {
		select {
		case err := <-ended:
			ended <- err // the cleanup waits for it
			return false, fmt.Errorf("libvirtd ended: %v", err)
		default:
		}
		l, err := m.Connect(m.ctx)
		switch {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ECONNREFUSED):
			return false, nil
		case err != nil:
			return false, err
		}
		return true, l.Disconnect()
	}))
}

// watched are the folders whose files must be the same after a purge as before, but
// for what the package managers and libvirt keep of their own.
var (
	watched = []string{"etc", "usr", "lib", "var", "root", "run", "opt", "srv", "tmp"}
	ignored = []string{"var/lib/dpkg", "var/lib/rpm", "var/log", "var/cache", "var/lib/apt", "var/lib/libvirt", "run/libvirt", "etc/libvirt/qemu",
		"etc/libvirt/storage", "etc/libvirt/nwfilter", "root/packages", "run/libvirtd.pid", "run/lock", "etc/ld.so.cache",
		"etc/apparmor.d/disable"} // which dh_apparmor's script removes when it is empty
)

// files describes the root's files by path.
func (m *machine) files() map[string]string {
	m.tb.Helper()
	base := m.path("")
	all := map[string]string{}
	for _, dir := range watched {
		err := filepath.WalkDir(filepath.Join(base, dir), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			name := strings.TrimPrefix(path, base+"/")
			if slices.Contains(ignored, name) {
				if d.IsDir() {
					return filepath.SkipDir
				}
				return nil
			}
			var st unix.Stat_t
			if err := unix.Lstat(path, &st); err != nil {
				return err
			}
			what := fmt.Sprintf("%06o %d:%d", st.Mode, st.Uid, st.Gid)
			switch {
			case d.Type() == fs.ModeSymlink:
				target, err := os.Readlink(path)
				if err != nil {
					return err
				}
				what += " " + target
			case d.Type().IsRegular() && dir == "usr": // its files are many and large
				what += fmt.Sprintf(" %d %d", st.Size, st.Mtim.Sec)
			case d.Type().IsRegular():
				text, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				sum := sha256.Sum256(text)
				what += " " + hex.EncodeToString(sum[:8])
			}
			all[name] = what
			return nil
		})
		require.NoError(m.tb, err)
	}
	return all
}

// difference lists what is not in both.
func difference(before, after map[string]string) []string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if now, ok := after[name]; !ok {
			lines = append(lines, "- "+name+" "+before[name])
		} else if now != before[name] {
			lines = append(lines, "! "+name+" "+before[name]+" is now "+now)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if _, ok := before[name]; !ok {
			lines = append(lines, "+ "+name+" "+after[name])
		}
	}
	return lines
}
