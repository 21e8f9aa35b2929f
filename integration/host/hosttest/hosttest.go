// Package hosttest starts the hosts of package host for tests, and ends them
// with the test.
package hosttest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"libvirt-direct/integration/host"
)

// Main is TestMain's body for a package whose tests start hosts.
func Main(m *testing.M) {
	host.MaybeInit()
	os.Exit(m.Run())
}

// Require ends the test unless it can be run: as root, with these programs
// installed beside those that every Peer needs. In CI, which is to have all of
// them, the test fails; elsewhere it is skipped.
func Require(tb testing.TB, programs ...string) {
	tb.Helper()
	give := tb.Skipf
	if os.Getenv("CI") == "true" {
		give = tb.Fatalf
	}
	if os.Geteuid() != 0 {
		give("%s needs root, to make namespaces", tb.Name())
	}
	for _, p := range append([]string{"nsenter", "ip"}, programs...) {
		if _, err := exec.LookPath(p); err != nil {
			give("%s needs a program: %v", tb.Name(), err)
		}
	}
}

// LongVariable is set to 1 by "make long".
const LongVariable = "LONG"

// Rounds is how often a test repeats what it is about: a few times, or with LONG=1 in the
// environment many times, for a run over night.
func Rounds(few, many int) int {
	if os.Getenv(LongVariable) == "1" {
		return many
	}
	return few
}

// New starts a Host whose libvirtd does not run yet, after [Require]. A failed
// test shows the end of its libvirtd's log.
func New(ctx context.Context, tb testing.TB, opts host.Options) *host.Host {
	tb.Helper()
	Require(tb, "libvirtd", "virsh", "qemu-system-x86_64")
	h, err := host.New(ctx, prepare(tb, opts))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		h.Close()
		if log, err := os.ReadFile(h.LogFile()); err == nil && tb.Failed() {
			tb.Logf("%s ends with:\n%s", h.LogFile(), log[max(0, len(log)-4096):])
		}
	})
	return h
}

// NewPeer starts a Peer, after [Require].
func NewPeer(ctx context.Context, tb testing.TB, opts host.Options) *host.Peer {
	tb.Helper()
	Require(tb)
	p, err := host.NewPeer(ctx, prepare(tb, opts))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { p.Close() })
	return p
}

// prepare gives a host a folder of the test and the test's log.
func prepare(tb testing.TB, opts host.Options) host.Options {
	if opts.Dir == "" {
		opts.Dir = filepath.Join(tb.TempDir(), opts.Name)
	}
	if opts.Log == nil {
		opts.Log = tb.Output()
	}
	return opts
}
