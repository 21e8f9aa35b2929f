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
func (s *site) dieAt(op string, n int) {
	s.t.Helper()
	require.NoError(s.t, os.WriteFile(s.Path("/run/killhook"), fmt.Appendf(nil, "%s %d", op, n), 0o600))
}

func (s *site) live() { s.dieAt("nothing", 0) }

// hook runs the installed hook as libvirt does, and reports whether it was killed.
func (s *site) hook(xml, op string) (killed bool) {
	s.t.Helper()
	cmd := s.Command(s.ctx, hookPath, "g", op, "begin", "-")
	cmd.Stdin = strings.NewReader(xml)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if status := exit.Sys().(syscall.WaitStatus); status.Signaled() && status.Signal() == syscall.SIGKILL {
			return true
		}
	}
	require.NoError(s.t, err, "%s: %s", op, out)
	return false
}

// killEverywhere kills the hook at every point of a domain's start and of its stop,
// and checks that whatever comes next leaves the host as it was: gc; libvirt's own end
// of a failed start; the next start. With thin each point sees one of these in turn. It
// returns how many points there are.
func (s *site) killEverywhere(xml string, thin bool) int {
	s.t.Helper()
	before := s.snapshot()
	run := func(ops ...string) {
		for _, op := range ops {
			require.False(s.t, s.hook(xml, op))
		}
	}
	recoveries := []struct {
		name string
		do   func()
	}{
		{"gc", func() { s.gc() }},
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
				s.live()
				run(life[:i]...)
				s.dieAt(op, n)
				killed = s.hook(xml, op)
				s.live()
				r.do()
				s.sameAfterKill(before, op, n, r.name)
			}
			points++
		}
	}
	return points
}

func (s *site) sameAfterKill(before host.Snapshot, op string, n int, then string) {
	s.t.Helper()
	where := fmt.Sprintf("killed at point %d of %s, then %s", n, op, then)
	require.Empty(s.t, before.Diff(s.snapshot()), where)
	require.Empty(s.t, s.journals(), where)
}
