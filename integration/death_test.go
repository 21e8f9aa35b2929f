//go:build integration

package integration

import (
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/hooks/step"
	"libvirt-direct/integration/host/hosttest"
)

// Whatever dies, a guest that lives keeps its NIC, and one that does not leaves none.
func TestDeaths(t *testing.T) {
	ctx := hosttest.Deadline(t, 2*time.Minute)
	h := newFixture(ctx, t, "a", conf)
	l := newLAN(ctx, t, plug{h, "nica"})
	h.MustStartLibvirtd()
	before := h.MustSnapshot()
	assisted := newLinux(t, "assisted", 1, direct(1, "storage", "vepa"), "allmulticast='yes'")
	owned := newLinux(t, "owned", 2, direct(2, "storage", "bridge"), "own='hook'")
	h.MustDefine(assisted.Domain)
	h.rewrite(owned.Domain)
	start := func(l *lan) {
		for _, g := range []*linux{assisted, owned} {
			h.start(g.Name)
		}
		for _, g := range []*linux{assisted, owned} {
			g.talks(l)
		}
	}
	start(l)
	running := h.MustSnapshot()

	t.Run("libvirtd killed", func(t *testing.T) {
		h, l := h.in(t), l.in(t)
		require.NoError(t, h.KillLibvirtd(ctx, unix.SIGKILL))
		h.MustStartLibvirtd()
		for _, g := range []*linux{assisted, owned} {
			require.NoError(t, h.WaitState(ctx, g.Name, libvirt.DomainRunning))
			g.talks(l)
		}
		require.Empty(t, running.Diff(h.MustSnapshot()))
		require.Len(t, h.Journals(), 2)
	})
	t.Run("libvirtd killed and the journal lost", func(t *testing.T) {
		h, l := h.in(t), l.in(t)
		require.NoError(t, h.KillLibvirtd(ctx, unix.SIGKILL))
		_, err := h.Run(ctx, "rm", "-r", "/run/libvirt-direct")
		require.NoError(t, err)
		h.MustStartLibvirtd()
		for _, g := range []*linux{assisted, owned} {
			require.NoError(t, h.WaitState(ctx, g.Name, libvirt.DomainRunning))
			g.talks(l)
		}
		require.Empty(t, running.Diff(h.MustSnapshot()))
		require.Len(t, h.Journals(), 2, "both adopted")
		// What a guest holds gc leaves alone, marked or not.
		require.Contains(t, h.gc(), "nothing is left over")
		require.Empty(t, running.Diff(h.MustSnapshot()))
	})
	t.Run("stopped after that", func(t *testing.T) {
		h := h.in(t)
		h.MustVirsh("shutdown", assisted.Name)
		require.NoError(t, h.WaitState(ctx, assisted.Name, libvirt.DomainShutoff))
		h.stop(owned.Name)
		require.Empty(t, h.Journals())
		require.Empty(t, h.macvtaps())
		// An altname has no mark: once the journal was lost it is not known to be
		// ours, and stays.
		after := h.MustSnapshot()
		require.Equal(t, "storage", after["nica"]["altnames"])
		_, err := h.Run(ctx, "ip", "link", "property", "del", "dev", "nica", "altname", "storage")
		require.NoError(t, err)
		h.RequireUnchanged(before)
	})
	t.Run("QEMU killed", func(t *testing.T) {
		h, l := h.in(t), l.in(t)
		start(l)
		for _, g := range []*linux{assisted, owned} {
			h.kill(h.qemu(g.Name))
			require.NoError(t, h.WaitState(ctx, g.Name, libvirt.DomainShutoff))
		}
		h.RequireUnchanged(before)
	})
	t.Run("QEMU killed while no libvirtd is there", func(t *testing.T) {
		h := h.in(t)
		h.start(assisted.Name)
		h.start(owned.Name)
		pids := []string{h.qemu(assisted.Name), h.qemu(owned.Name)}
		require.NoError(t, h.KillLibvirtd(ctx, unix.SIGKILL))
		h.kill(pids...)
		h.MustStartLibvirtd()
		for _, g := range []*linux{assisted, owned} {
			require.NoError(t, h.WaitState(ctx, g.Name, libvirt.DomainShutoff))
		}
		h.RequireUnchanged(before)
	})
	t.Run("all killed and never started again", func(t *testing.T) {
		h := h.in(t)
		h.start(assisted.Name)
		h.start(owned.Name)
		pids := []string{h.qemu(assisted.Name), h.qemu(owned.Name)}
		require.NoError(t, h.KillLibvirtd(ctx, unix.SIGKILL))
		require.Contains(t, h.gc(), "nothing is left over", "without libvirtd, while QEMU runs")
		h.kill(pids...)
		done := h.gc()
		require.Contains(t, done, "removed macvtap")
		require.Contains(t, done, "took the name storage from nica")
		for name, m := range h.macvtaps() {
			require.NotContains(t, m["alias"], step.Alias, "%s is ours", name)
		}
		h.MustStartLibvirtd() // libvirt removes its own
		require.NoError(t, h.WaitState(ctx, assisted.Name, libvirt.DomainShutoff))
		h.RequireUnchanged(before)
	})
}
