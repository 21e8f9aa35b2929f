//go:build integration

package integration

import (
	"context"
	"os"
	"os/exec"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host/hosttest"
)

// Whatever libvirt takes as a name, the hook does.
func TestNames(t *testing.T) {
	ctx := hosttest.Deadline(t, time.Minute)
	h := newFixture(ctx, t, "a", conf)
	newLAN(ctx, t, plug{h, "nica"})
	h.MustStartLibvirtd()
	before := h.MustSnapshot()
	for _, name := range []string{"two words", "-leading", "--help", "Gäst ✓", "a'b\"c$(d);&", `<back\slash>`, "*"} {
		t.Run(name, func(t *testing.T) {
			h := h.in(t)
			d := tiny(name, direct(1, "storage", "bridge"))
			d.Metadata = metadata(1, "own='hook'")
			h.rewrite(d)
			h.start(name)
			require.Len(t, h.macvtaps(), 1)
			require.Len(t, h.Journals(), 1)
			h.stop(name)
			h.RequireUnchanged(before)

			h.MustVirsh("undefine", "--domain", name)
			d = tiny(name, direct(1, "nica", "bridge"))
			d.UUID, d.Metadata = uuid, metadata(1, "own='hook'")
			h.MustDefine(d)
			_, err := h.Virsh(ctx, "start", "--domain", name)
			_, command, found := strings.Cut(err.Error(), "; run: libvirt-direct rewrite --domain ")
			require.True(t, found, err)
			// The line that a person is told to type says the same name to a shell.
			said := h.MustRun("sh", "-c", "printf %s "+strings.TrimSpace(command))
			require.Equal(t, name, said)
		})
	}
}

// Copies of the hook that package managers leave in qemu.d, which libvirt runs all.
func TestTwins(t *testing.T) {
	ctx := hosttest.Deadline(t, time.Minute)
	h := newFixture(ctx, t, "a", conf)
	newLAN(ctx, t, plug{h, "nica"})
	for _, twin := range []string{"50-libvirt-direct.dpkg-old", "50-libvirt-direct.rpmsave", "50-libvirt-direct~", ".50-libvirt-direct.swp"} {
		require.NoError(t, h.CopyFile(ctx, "/etc/libvirt/hooks/qemu.d/"+twin, 0o755, program(t, "qemu-hook")))
	}
	h.MustStartLibvirtd()
	before := h.MustSnapshot()
	d := tiny("g", direct(1, "storage", "bridge"), direct(2, "storage", "bridge"))
	d.Metadata = metadata(1, "own='hook'")
	h.rewrite(d)
	h.start("g")
	require.Len(t, h.macvtaps(), 2)
	h.stop("g")
	h.RequireUnchanged(before)

	// Not even what fails: a twin of a hook that refuses a start adds no line.
	d.Metadata = metadata(2, "profile='gold'")
	h.MustVirsh("undefine", "g")
	h.MustDefine(d)
	_, err := h.Virsh(ctx, "start", "g")
	require.Equal(t, 1, strings.Count(err.Error(), "libvirt-direct: prepare: "), err)
	h.RequireUnchanged(before)

	// The hook in qemu.d alone, where another program has the place of the main one.
	h.MustWrite(hookPath, 0o755, "#!/bin/sh\ncat >/dev/null\n")
	require.NoError(t, h.CopyFile(ctx, "/etc/libvirt/hooks/qemu.d/50-libvirt-direct", 0o755, program(t, "qemu-hook")))
	d.Metadata = metadata(1, "own='hook'")
	h.MustVirsh("undefine", "g")
	h.rewrite(d)
	h.start("g")
	require.Len(t, h.macvtaps(), 2)
	h.stop("g")
	h.RequireUnchanged(before)
}

// Programs beside the hook that read, pass on, change or say nothing of the XML that it filters.
func TestNeighboursOfTheFilter(t *testing.T) {
	ctx := hosttest.Deadline(t, 2*time.Minute)
	h := newFixture(ctx, t, "a", conf)
	newLAN(ctx, t, plug{h, "nica"})
	h.MustStartLibvirtd()
	before := h.MustSnapshot()
	d := tiny("g", direct(1, "nica", "bridge"))
	d.UUID = uuid
	h.MustDefine(d)
	image := path.Join(t.TempDir(), "image")
	elsewhere := strings.Replace(d.XML(), "dev='nica'", "dev='enpb'", 1)
	h.MustWrite("/run/elsewhere.xml", 0o644, elsewhere)
	const quiet, passes, fails = "cat >/dev/null", "cat", "cat >/dev/null; exit 3"
	for name, c := range map[string]struct {
		main, first, last string // beside the hook, which is between the two in qemu.d
		fails             bool
	}{
		"quiet":                    {main: quiet, last: quiet},
		"passing it on":            {main: passes, first: passes, last: passes},
		"reads nothing":            {main: "exit 0", last: "exit 0"},
		"another name of the host": {main: "exec sed s/enpb/storage/", last: quiet},
		"fails behind ours":        {main: quiet, last: fails, fails: true},
		"fails before ours":        {main: fails, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			h := h.in(t)
			h.start("g")
			h.MustVirsh("save", "g", image)
			require.NoError(t, h.WaitState(ctx, "g", libvirt.DomainShutoff))
			h.MustRun("mkdir", "-p", hookPath+".d")
			for file, script := range map[string]string{hookPath: c.main, hookPath + ".d/10-first": c.first, hookPath + ".d/99-last": c.last} {
				if script != "" {
					h.MustWrite(file, 0o755, "#!/bin/sh\n[ \"$2\" = restore ] || exit 0\n"+script+"\n")
				}
			}
			require.NoError(t, h.CopyFile(ctx, hookPath+".d/50-libvirt-direct", 0o755, program(t, "qemu-hook")))
			t.Cleanup(func() {
				h.MustRun("rm", "-r", hookPath+".d")
				require.NoError(t, h.CopyFile(context.WithoutCancel(ctx), hookPath, 0o755, program(t, "qemu-hook")))
			})
			_, err := h.Virsh(ctx, "restore", image, "--xml", "/run/elsewhere.xml")
			if c.fails {
				require.Error(t, err)
				h.RequireUnchanged(before)
				return
			}
			require.NoError(t, err)
			require.Len(t, h.macvtaps(), 1)
			for _, m := range h.macvtaps() {
				require.Equal(t, "nica", m["parent"])
			}
			h.stop("g")
			h.RequireUnchanged(before)
		})
	}
}

// A session daemon runs the same hook as an ordinary user.
func TestSessionHookOnlyFilters(t *testing.T) {
	ctx := hosttest.Deadline(t, time.Minute)
	h := newFixture(ctx, t, "a", conf)
	newLAN(ctx, t, plug{h, "nica"})
	require.NoError(t, exec.Command("chmod", "-R", "a+rX", path.Dir(program(t, "qemu-hook"))).Run())
	before := h.MustSnapshot()
	d := tiny("g", direct(1, "enpb", "bridge"))
	d.UUID = uuid
	hook := func(op string) (string, string, error) {
		cmd := h.Command(ctx, "setpriv", "--reuid", "64321", "--regid", "64321", "--clear-groups", hookPath, "g", op, "begin", "-")
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
	h.RequireUnchanged(before)
	_, err := os.Stat(h.Path("/run/libvirt-direct"))
	require.ErrorIs(t, err, os.ErrNotExist)
}
