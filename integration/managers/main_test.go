//go:build integration

package managers

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"libvirt-direct/integration/guest/kernel"
	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
	"libvirt-direct/integration/sriov/debian"
	"libvirt-direct/integration/vm"
)

// What the machine's tests need from outside it.
const (
	treesVariable    = "LIBVIRT_DIRECT_TREES"
	programsVariable = "LIBVIRT_DIRECT_BIN"
)

// suites are the Debian releases, and what of them is unpacked.
var suites = map[string]string{
	"bookworm": "dash,coreutils,grep,sed,systemd,udev,dbus,iproute2,ifupdown,network-manager,lldpd",
	"trixie":   "dash,coreutils,systemd,udev,iproute2",
}

// TestMain runs this very program again, inside a test machine.
func TestMain(m *testing.M) {
	host.MaybeInit()
	if os.Getenv(vm.Variable) != "" {
		os.Exit(m.Run())
	}
	vm.RunTests("managers", boot)
}

func boot(ctx context.Context) (int, error) {
	cache, err := kernel.CacheDir()
	if err != nil {
		return 0, err
	}
	programs, err := os.MkdirTemp("", "managers-bin-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(programs)
	if err := hosttest.Build(programs, map[string]string{
		"qemu": "hooks/qemu", "libvirt-direct": "cmd/libvirt-direct", "qemu-direct-helper": "helper",
	}); err != nil {
		return 0, err
	}
	m := vm.Default()
	m.Cache, m.CPUs, m.Memory, m.Timeout = cache, 1, 1024, 15*time.Minute
	m.Env = []string{programsVariable + "=" + programs, kernel.CacheVariable + "=" + cache}
	for suite := range suites {
		dir, err := tree(ctx, cache, suite)
		if err != nil {
			return 0, err
		}
		m.Env = append(m.Env, treesVariable+"_"+suite+"="+dir)
	}
	for _, name := range []string{"CI", "GOCOVERDIR", hosttest.LongVariable} {
		if v, ok := os.LookupEnv(name); ok {
			m.Env = append(m.Env, name+"="+v)
		}
	}
	return m.Run(ctx, os.Stdout, os.Args...)
}

// tree returns a folder of the cache with the packages of a release, unpacked. No script of
// theirs has run.
func tree(ctx context.Context, cache, suite string) (string, error) {
	what := sha256.Sum256([]byte(suites[suite]))
	dir := filepath.Join(cache, "managers-"+suite+"-"+hex.EncodeToString(what[:4]))
	unlock, err := kernel.Lock(ctx, cache)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	archive, _, err := debian.Release(ctx)
	if err != nil {
		return "", err
	}
	tmp := dir + ".new"
	if err := os.RemoveAll(tmp); err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	fmt.Fprintf(os.Stderr, "fetching %s's %s into %s; nothing is installed\n", suite, strings.ReplaceAll(suites[suite], ",", " "), dir)
	cmd := exec.CommandContext(ctx, "mmdebstrap", "--variant=extract", "--aptopt=APT::Install-Recommends \"false\"",
		"--include="+suites[suite], suite, tmp, "deb "+archive+" "+suite+" main")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("mmdebstrap %s: %w\n%s", suite, err, out)
	}
	for _, d := range []string{"usr/share/doc", "usr/share/man", "usr/share/locale"} {
		if err := os.RemoveAll(filepath.Join(tmp, d)); err != nil {
			return "", err
		}
	}
	return dir, os.Rename(tmp, dir)
}
