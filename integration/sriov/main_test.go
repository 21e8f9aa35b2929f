//go:build integration

package sriov

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"libvirt-direct/integration/guest"
	"libvirt-direct/integration/guest/kernel"
	"libvirt-direct/integration/host/hosttest"
	"libvirt-direct/integration/sriov/debian"
	"libvirt-direct/integration/vm"
)

// What the machine's tests need from outside it.
const (
	moduleVariable   = "LIBVIRT_DIRECT_TESTNIC"
	programsVariable = "LIBVIRT_DIRECT_BIN"
)

// TestMain runs this very program again, inside a test machine with an SR-IOV card.
func TestMain(m *testing.M) {
	if os.Getenv(vm.Variable) != "" {
		// As on a host without Open vSwitch, for whose restart gc would wait.
		if err := os.Remove("/run/openvswitch"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	vm.RunTests("sriov", boot)
}

func boot(ctx context.Context) (int, error) {
	cache, err := kernel.CacheDir()
	if err != nil {
		return 0, err
	}
	k, err := kernel.Fetch(ctx, cache, os.Stderr)
	if err != nil {
		return 0, err
	}
	m := vm.Default()
	if m.Program, err = debian.QEMU(ctx, cache, os.Stderr); err != nil {
		return 0, err
	}
	module, err := debian.Module(ctx, k, "testnic/testnic.c", os.Stderr)
	if err != nil {
		return 0, err
	}
	if _, err := guest.Prepare(ctx, cache, os.Stderr); err != nil { // for the guests in the machine
		return 0, err
	}
	programs, err := os.MkdirTemp("", "sriov-bin-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(programs)
	if err := hosttest.Build(programs, map[string]string{
		"qemu": "hooks/qemu", "libvirt-direct": "cmd/libvirt-direct", "killhook": "integration/killhook", "vdpd": "vdp/vdpd",
	}); err != nil {
		return 0, err
	}
	m.Cache, m.NIC, m.IOMMU, m.Memory, m.Timeout = cache, "igb", true, 2048, 28*time.Minute
	m.Env = []string{moduleVariable + "=" + module, programsVariable + "=" + programs, kernel.CacheVariable + "=" + cache}
	if slices.Contains(os.Args, "-update") { // golden files are written through
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			return 0, err
		}
		m.Writable = []string{"testdata"}
	}
	for _, name := range []string{"CI", "GOCOVERDIR", hosttest.LongVariable} {
		if v, ok := os.LookupEnv(name); ok {
			m.Env = append(m.Env, name+"="+v)
		}
	}
	return m.Run(ctx, os.Stdout, os.Args...)
}

// sh runs a shell command and returns what it says, without the last newline.
func sh(t testing.TB, command string, args ...any) string {
	t.Helper()
	out, err := tryShell(command, args...)
	if err != nil {
		t.Fatalf("%s: %v: %s", fmt.Sprintf(command, args...), err, out)
	}
	return out
}

func tryShell(command string, args ...any) (string, error) {
	cmd := exec.Command("/bin/sh", "-c", fmt.Sprintf(command, args...))
	out, err := cmd.CombinedOutput()
	return strings.TrimSuffix(string(out), "\n"), err
}

// loadTestnic loads our driver and unloads it with the test. Cards that igb has stay
// igb's.
func loadTestnic(t *testing.T, parameters string) {
	t.Helper()
	sh(t, "insmod %s %s", os.Getenv(moduleVariable), parameters)
	t.Cleanup(func() { sh(t, "rmmod testnic") })
}

// answer chooses what testnic answers from now on.
func answer(t testing.TB, parameter string, value any) {
	t.Helper()
	file := filepath.Join("/sys/module/testnic/parameters", parameter)
	if err := os.WriteFile(file, fmt.Append(nil, value), 0); err != nil {
		t.Fatal(err)
	}
}

// counted reads one of testnic's counters.
func counted(t testing.TB, parameter string) string {
	t.Helper()
	return sh(t, "cat /sys/module/testnic/parameters/%s", parameter)
}
