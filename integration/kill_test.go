//go:build integration || vm

package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host"
)

// dieAt makes killhook, which must be installed, die at the nth point of an
// operation.
func (h *fixture) dieAt(op string, n int) {
	h.T.Helper()
	require.NoError(h.T, os.WriteFile(h.Path("/run/killhook"), fmt.Appendf(nil, "%s %d", op, n), 0o600))
}

func (h *fixture) live() { h.dieAt("nothing", 0) }

// hook runs the installed hook as libvirt does, and reports whether it was killed.
func (h *fixture) hook(xml, op string) (killed bool) {
	h.T.Helper()
	cmd := h.Command(h.Ctx, hookPath, "g", op, "begin", "-")
	cmd.Stdin = strings.NewReader(xml)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if status := exit.Sys().(syscall.WaitStatus); status.Signaled() && status.Signal() == syscall.SIGKILL {
			return true
		}
	}
	require.NoError(h.T, err, "%s: %s", op, out)
	return false
}

// killEverywhere kills the hook at every point of a domain's start and of its stop,
// and checks that whatever comes next leaves the host as it was: gc; libvirt's own end
// of a failed start; the next start. With thin each point sees one of these in turn. It
// returns how many points there are.
func (h *fixture) killEverywhere(xml string, thin bool) int {
	h.T.Helper()
	before := h.MustSnapshot()
	run := func(ops ...string) {
		for _, op := range ops {
			require.False(h.T, h.hook(xml, op))
		}
	}
	recoveries := []struct {
		name string
		do   func()
	}{
		{"gc", func() { h.gc() }},
		{"stop", func() { run("stopped", "release") }},
		{"next start", func() { run("prepare", "stopped", "release") }},
	}
	life := []string{"prepare", "stopped", "release"}
	points := 0
	for i, op := range life {
		killed := true
		for n := 1; killed; n++ {
			for j, r := range recoveries {
				if thin && n%len(recoveries) != j {
					continue
				}
				h.live()
				run(life[:i]...)
				h.dieAt(op, n)
				killed = h.hook(xml, op)
				h.live()
				r.do()
				h.sameAfterKill(before, op, n, r.name)
			}
			points++
		}
	}
	return points
}

func (h *fixture) sameAfterKill(before host.Snapshot, op string, n int, then string) {
	h.T.Helper()
	where := fmt.Sprintf("killed at point %d of %s, then %s", n, op, then)
	require.Empty(h.T, before.Diff(h.MustSnapshot()), where)
	require.Empty(h.T, h.Journals(), where)
}
