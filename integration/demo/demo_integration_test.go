//go:build integration

package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/guest/kernel"
	"libvirt-direct/integration/host/hosttest"
)

// demo is the demo's program, with a TMPDIR of the test, and the programs that it
// shows.
func demo(t *testing.T) (program, programs string) {
	t.Helper()
	hosttest.Require(t, "libvirtd", "virsh", "qemu-system-x86_64", "dnsmasq", "tcpdump", "busybox")
	dir := t.TempDir()
	program = filepath.Join(dir, "demo")
	out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput()
	require.NoError(t, err, string(out))
	programs = filepath.Join(dir, "bin")
	require.NoError(t, build(t.Context(), programs))
	cache, err := kernel.CacheDir()
	require.NoError(t, err)
	t.Setenv(kernel.CacheVariable, cache)
	tmp := filepath.Join(dir, "tmp")
	require.NoError(t, os.Mkdir(tmp, 0o755))
	t.Setenv("TMPDIR", tmp)
	t.Cleanup(func() {
		left, err := os.ReadDir(tmp)
		require.NoError(t, err)
		require.Empty(t, left, "the demo left files")
	})
	return program, programs
}

func TestDemo(t *testing.T) {
	program, programs := demo(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	begin := time.Now()
	out, err := exec.CommandContext(ctx, program, "-programs", programs).CombinedOutput()
	require.NoError(t, err, string(out))
	t.Logf("took %v", time.Since(begin).Round(time.Second))
	screen := string(out)
	for _, want := range []string{
		"the guest bridge, up for", "the guest vepa, up for", "the guest passthrough, up for",
		"bytes from 10.77.0.11", "bytes from 10.77.0.12", "bytes from 10.77.0.13",
		"802.1Q VLAN 100", "enp1s0.100 is gone",
	} {
		require.Contains(t, screen, want)
	}
	require.Equal(t, 2, strings.Count(screen, "ok: nothing is left"), screen)
}

// A hook that does nothing must not pass for one that works.
func TestDemoFindsFault(t *testing.T) {
	program, programs := demo(t)
	require.NoError(t, os.WriteFile(filepath.Join(programs, "qemu-hook"), []byte("#!/bin/sh\nexec cat >/dev/null\n"), 0o755))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "-programs", programs)
	out, err := cmd.CombinedOutput()
	require.Error(t, err, string(out))
	require.Equal(t, 1, cmd.ProcessState.ExitCode())
	require.Contains(t, string(out), "not as it should be: virsh start bridge")
}

func TestInterruptedDemoCleansUp(t *testing.T) {
	program, programs := demo(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "-programs", programs)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Start())
	seen := ""
	for buf := make([]byte, 4096); !strings.Contains(seen, "Domain 'bridge' started"); {
		n, err := stdout.Read(buf)
		require.NoError(t, err, seen)
		seen += string(buf[:n])
	}
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	begin := time.Now()
	require.Error(t, cmd.Wait())
	require.Equal(t, 130, cmd.ProcessState.ExitCode())
	require.Contains(t, stderr.String(), "interrupted")
	require.Less(t, time.Since(begin), 5*time.Second)
}
