//go:build integration

package integration

import (
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/hooks/step"
)

// Whatever dies, a guest that lives keeps its NIC, and one that does not leaves none.
func TestDeaths(t *testing.T) {
	ctx := deadline(t, 2*time.Minute)
	s := newSite(ctx, t, "a", conf)
	l := newLAN(ctx, t, plug{s, "nica"})
	s.up()
	before := s.snapshot()
	assisted := newLinux(t, "assisted", 1, direct(1, "storage", "vepa"), "allmulticast='yes'")
	owned := newLinux(t, "owned", 2, direct(2, "storage", "bridge"), "own='hook'")
	s.define(assisted.Domain)
	s.rewrite(owned.Domain)
	start := func(l *lan) {
		for _, g := range []*linux{assisted, owned} {
			s.start(g.Name)
		}
		for _, g := range []*linux{assisted, owned} {
			g.talks(l)
		}
	}
	start(l)
	running := s.snapshot()

	t.Run("libvirtd killed", func(t *testing.T) {
		s, l := s.in(t), l.in(t)
		require.NoError(t, s.KillLibvirtd(ctx, unix.SIGKILL))
		s.up()
		for _, g := range []*linux{assisted, owned} {
			require.NoError(t, s.WaitState(ctx, g.Name, libvirt.DomainRunning))
			g.talks(l)
		}
		require.Empty(t, running.Diff(s.snapshot()))
		require.Len(t, s.journals(), 2)
	})
	t.Run("libvirtd killed and the journal lost", func(t *testing.T) {
		s, l := s.in(t), l.in(t)
		require.NoError(t, s.KillLibvirtd(ctx, unix.SIGKILL))
		_, err := s.Run(ctx, "rm", "-r", "/run/libvirt-direct")
		require.NoError(t, err)
		s.up()
		for _, g := range []*linux{assisted, owned} {
			require.NoError(t, s.WaitState(ctx, g.Name, libvirt.DomainRunning))
			g.talks(l)
		}
		require.Empty(t, running.Diff(s.snapshot()))
		require.Len(t, s.journals(), 2, "both adopted")
		// What a guest holds gc leaves alone, marked or not.
		require.Contains(t, s.gc(), "nothing is left over")
		require.Empty(t, running.Diff(s.snapshot()))
	})
	t.Run("stopped after that", func(t *testing.T) {
		s := s.in(t)
		s.virsh("shutdown", assisted.Name)
		require.NoError(t, s.WaitState(ctx, assisted.Name, libvirt.DomainShutoff))
		s.stop(owned.Name)
		require.Empty(t, s.journals())
		require.Empty(t, s.macvtaps())
		// An altname has no mark: once the journal was lost it is not known to be
		// ours, and stays.
		after := s.snapshot()
		require.Equal(t, "storage", after["nica"]["altnames"])
		_, err := s.Run(ctx, "ip", "link", "property", "del", "dev", "nica", "altname", "storage")
		require.NoError(t, err)
		s.unchanged(before)
	})
	t.Run("QEMU killed", func(t *testing.T) {
		s, l := s.in(t), l.in(t)
		start(l)
		for _, g := range []*linux{assisted, owned} {
			s.kill(s.qemu(g.Name))
			require.NoError(t, s.WaitState(ctx, g.Name, libvirt.DomainShutoff))
		}
		s.unchanged(before)
	})
	t.Run("QEMU killed while no libvirtd is there", func(t *testing.T) {
		s := s.in(t)
		s.start(assisted.Name)
		s.start(owned.Name)
		pids := []string{s.qemu(assisted.Name), s.qemu(owned.Name)}
		require.NoError(t, s.KillLibvirtd(ctx, unix.SIGKILL))
		s.kill(pids...)
		s.up()
		for _, g := range []*linux{assisted, owned} {
			require.NoError(t, s.WaitState(ctx, g.Name, libvirt.DomainShutoff))
		}
		s.unchanged(before)
	})
	t.Run("all killed and never started again", func(t *testing.T) {
		s := s.in(t)
		s.start(assisted.Name)
		s.start(owned.Name)
		pids := []string{s.qemu(assisted.Name), s.qemu(owned.Name)}
		require.NoError(t, s.KillLibvirtd(ctx, unix.SIGKILL))
		require.Contains(t, s.gc(), "nothing is left over", "without libvirtd, while QEMU runs")
		s.kill(pids...)
		done := s.gc()
		require.Contains(t, done, "removed macvtap")
		require.Contains(t, done, "took the name storage from nica")
		for name, m := range s.macvtaps() {
			require.NotContains(t, m["alias"], step.Alias, "%s is ours", name)
		}
		s.up() // libvirt removes its own
		require.NoError(t, s.WaitState(ctx, assisted.Name, libvirt.DomainShutoff))
		s.unchanged(before)
	})
}
