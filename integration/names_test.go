//go:build integration

package integration

import (
	"os"
	"os/exec"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Whatever libvirt takes as a name, the hook does.
func TestNames(t *testing.T) {
	ctx := deadline(t, time.Minute)
	s := newSite(ctx, t, "a", conf)
	newLAN(ctx, t, plug{s, "nica"})
	s.up()
	before := s.snapshot()
	for _, name := range []string{"two words", "-leading", "--help", "Gäst ✓", "a'b\"c$(d);&", `<back\slash>`, "*"} {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
			d := tiny(name, direct(1, "storage", "bridge"))
			d.Metadata = metadata(1, "own='hook'")
			s.rewrite(d)
			s.start(name)
			require.Len(t, s.macvtaps(), 1)
			require.Len(t, s.journals(), 1)
			s.stop(name)
			s.unchanged(before)

			s.virsh("undefine", "--domain", name)
			d = tiny(name, direct(1, "nica", "bridge"))
			d.UUID, d.Metadata = uuid, metadata(1, "own='hook'")
			s.define(d)
			_, err := s.Virsh(ctx, "start", "--domain", name)
			_, command, found := strings.Cut(err.Error(), "; run: libvirt-direct rewrite --domain ")
			require.True(t, found, err)
			// The line that a person is told to type says the same name to a shell.
			said := s.run("", "sh", "-c", "printf %s "+strings.TrimSpace(command))
			require.Equal(t, name, said)
		})
	}
}

// Copies of the hook that package managers leave in qemu.d, which libvirt runs all.
func TestTwins(t *testing.T) {
	ctx := deadline(t, time.Minute)
	s := newSite(ctx, t, "a", conf)
	newLAN(ctx, t, plug{s, "nica"})
	for _, twin := range []string{"50-libvirt-direct.dpkg-old", "50-libvirt-direct.rpmsave", "50-libvirt-direct~", ".50-libvirt-direct.swp"} {
		require.NoError(t, s.CopyFile(ctx, "/etc/libvirt/hooks/qemu.d/"+twin, 0o755, program(t, "qemu-hook")))
	}
	s.up()
	before := s.snapshot()
	d := tiny("g", direct(1, "storage", "bridge"), direct(2, "storage", "bridge"))
	d.Metadata = metadata(1, "own='hook'")
	s.rewrite(d)
	s.start("g")
	require.Len(t, s.macvtaps(), 2)
	s.stop("g")
	s.unchanged(before)

	// Not even what fails: a twin of a hook that refuses a start adds no line.
	d.Metadata = metadata(2, "profile='gold'")
	s.virsh("undefine", "g")
	s.define(d)
	_, err := s.Virsh(ctx, "start", "g")
	require.Equal(t, 1, strings.Count(err.Error(), "libvirt-direct: prepare: "), err)
	s.unchanged(before)

	// The hook in qemu.d alone, where another program has the place of the main one.
	require.NoError(t, s.WriteFile(ctx, hookPath, 0o755, []byte("#!/bin/sh\ncat >/dev/null\n")))
	require.NoError(t, s.CopyFile(ctx, "/etc/libvirt/hooks/qemu.d/50-libvirt-direct", 0o755, program(t, "qemu-hook")))
	d.Metadata = metadata(1, "own='hook'")
	s.virsh("undefine", "g")
	s.rewrite(d)
	s.start("g")
	require.Len(t, s.macvtaps(), 2)
	s.stop("g")
	s.unchanged(before)
}

// A session daemon runs the same hook as an ordinary user.
func TestSessionHookOnlyFilters(t *testing.T) {
	ctx := deadline(t, time.Minute)
	s := newSite(ctx, t, "a", conf)
	newLAN(ctx, t, plug{s, "nica"})
	require.NoError(t, exec.Command("chmod", "-R", "a+rX", path.Dir(program(t, "qemu-hook"))).Run())
	before := s.snapshot()
	d := tiny("g", direct(1, "enpb", "bridge"))
	d.UUID = uuid
	hook := func(op string) (string, string, error) {
		cmd := s.Command(ctx, "setpriv", "--reuid", "64321", "--regid", "64321", "--clear-groups", hookPath, "g", op, "begin", "-")
		cmd.Stdin = strings.NewReader(d.XML())
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		return string(out), stderr.String(), err
	}
	for _, op := range []string{"prepare", "start", "started", "stopped", "release", "reconnect", "attach", "what-comes-next"} {
		out, stderr, err := hook(op)
		require.NoError(t, err, op)
		require.Empty(t, out+stderr, op)
	}
	for _, op := range []string{"migrate", "restore"} {
		out, _, err := hook(op)
		require.NoError(t, err, op)
		require.Contains(t, out, "<source dev='nica' mode='bridge'/>", op)
	}
	s.unchanged(before)
	_, err := os.Stat(s.Path("/run/libvirt-direct"))
	require.ErrorIs(t, err, os.ErrNotExist)
}
