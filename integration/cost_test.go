//go:build integration

package integration

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
)

// median is of fifty runs of a program on the machine itself: entering a host costs
// more than what is measured.
func median(t *testing.T, stdin string, argv ...string) time.Duration {
	took := make([]time.Duration, 50)
	for i := range took {
		cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
		cmd.Stdin = strings.NewReader(stdin)
		begin := time.Now()
		out, err := cmd.CombinedOutput()
		took[i] = time.Since(begin)
		require.NoError(t, err)
		require.Empty(t, out)
	}
	slices.Sort(took)
	return took[len(took)/2]
}

// A domain without our NICs must not notice the hook.
func TestForeignDomainCost(t *testing.T) {
	ctx := hosttest.Deadline(t, time.Minute)
	h := newFixture(ctx, t, "a", conf)
	h.MustStartLibvirtd()
	h.MustDefine(host.Domain{Name: "g", Interfaces: []string{
		"<interface type='user'><mac address='52:54:00:00:00:01'/></interface>",
		"<interface type='user'><mac address='52:54:00:00:00:02'/></interface>",
	}})
	h.start("g")
	xml := h.MustVirsh("dumpxml", "g")
	h.stop("g")
	_, err := os.Stat(h.Path("/run/libvirt-direct"))
	require.ErrorIs(t, err, os.ErrNotExist, "nothing was held for it")

	idle := median(t, xml, "true")
	for _, op := range []string{"prepare", "start", "started", "stopped", "release", "migrate", "reconnect"} {
		took := median(t, xml, program(t, "qemu-hook"), "g", op, "begin", "-")
		t.Logf("%s: %v (true: %v)", op, took.Round(10*time.Microsecond), idle.Round(10*time.Microsecond))
		// On a busy machine nothing takes less than 5 ms.
		require.Less(t, took, max(5*time.Millisecond, 3*idle), op)
	}
}
