//go:build integration

package main

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/integration/host"
)

const nothing = "nothing is left over\n"

// running makes a host on which the hook-owned guest "o" runs.
func running(t *testing.T) (h *fixture, before host.Snapshot) {
	h = newFixture(t, uplinkConfig)
	h.up()
	before = h.MustSnapshot()
	h.MustDefine(ownedGuest("o", ""))
	h.ok("rewrite", "--domain", "o")
	h.MustVirsh("start", "o")
	return h, before
}

// killGuest kills a domain's QEMU and waits for its end.
func (h *fixture) killGuest(name string) {
	h.T.Helper()
	h.MustRun("sh", "-c", `pid=$(cat "$1") && kill -KILL "$pid" && tail --pid="$pid" -s 0.01 -f /dev/null`, "sh", "/run/libvirt/qemu/"+name+".pid")
}

func TestGCAfterEverythingWasKilled(t *testing.T) {
	h, before := running(t)
	guest := h.MustSnapshot()
	require.NotEmpty(t, before.Diff(guest))
	alive := func(when string) {
		t.Helper()
		require.Equal(t, nothing, h.ok("gc"), when)
		require.Empty(t, guest.Diff(h.MustSnapshot()), when)
	}
	alive("all runs")
	require.Equal(t, nothing, h.ok("gc", "--connect", "test:///default"))
	require.Empty(t, guest.Diff(h.MustSnapshot()), "a daemon that knows no such domain")

	require.NoError(t, h.KillLibvirtd(h.Ctx, unix.SIGKILL))
	alive("libvirtd was killed, its guest lives")

	h.killGuest("o")
	out := h.ok("gc", "--dry-run")
	require.Regexp(t, `^domain "o" \([0-9a-f-]{36}\): would take (ldt[0-9a-f]{10}) down\ndomain "o" \([0-9a-f-]{36}\): would remove macvtap ldt[0-9a-f]{10}\n$`, out)
	require.Empty(t, guest.Diff(h.MustSnapshot()))
	require.Equal(t, out, h.ok("gc", "--dry-run"))

	out = h.ok("gc")
	require.Regexp(t, `^domain "o" \([0-9a-f-]{36}\): removed macvtap ldt[0-9a-f]{10}\n$`, out)
	require.Empty(t, before.Diff(h.MustSnapshot()))
	require.Equal(t, "nothing is held\n", h.ok("status"))
	require.Equal(t, nothing, h.ok("gc"))

	// libvirtd finds its guest dead, and it starts again.
	h.MustStartLibvirtd()
	h.MustVirsh("start", "o")
	h.MustVirsh("destroy", "o")
	require.Empty(t, before.Diff(h.MustSnapshot()))
}

func TestGCWithoutJournal(t *testing.T) {
	h, before := running(t)
	guest := h.MustSnapshot()
	h.MustRun("rm", "-r", "/run/libvirt-direct")
	require.Equal(t, nothing, h.ok("gc", "--dry-run"))
	h.MustRun("test", "!", "-e", "/run/libvirt-direct")
	require.Equal(t, nothing, h.ok("gc"))
	require.Empty(t, guest.Diff(h.MustSnapshot()), "the guest lives")

	require.NoError(t, h.KillLibvirtd(h.Ctx, unix.SIGKILL))
	h.killGuest("o")
	h.MustRun("rm", "-r", "/run/libvirt-direct")
	require.Regexp(t, `^would remove macvtap ldt[0-9a-f]{10}, which no journal names\n$`, h.ok("gc", "--dry-run"))
	require.Empty(t, guest.Diff(h.MustSnapshot()))
	require.Regexp(t, `^removed macvtap ldt[0-9a-f]{10}, which no journal named\n$`, h.ok("gc"))
	require.Empty(t, before.Diff(h.MustSnapshot()))
}

func TestGCLeavesAHungDaemonsGuestsAlone(t *testing.T) {
	h, _ := running(t)
	guest := h.MustSnapshot()
	h.MustRun("sh", "-c", `kill -STOP $(cat /run/libvirtd.pid)`)
	defer h.MustRun("sh", "-c", `kill -CONT $(cat /run/libvirtd.pid)`)
	require.Contains(t, h.fails("gc", "--timeout", "300ms"), "(see --timeout)")
	require.Empty(t, guest.Diff(h.MustSnapshot()))
}

// libvirt does not answer for a domain whose hook it runs: gc must give way, long before
// the hook gives up, and has no lock meanwhile that the hook could wait for.
func TestGCDuringAStart(t *testing.T) {
	h, before := running(t)
	uuid := strings.TrimSpace(h.MustVirsh("domuuid", "o"))
	journal := "/run/libvirt-direct/domains/" + uuid + ".json"
	// A journal that a killed run has left.
	h.MustRun("cp", "-a", journal, "/run/left.json")
	h.MustVirsh("destroy", "o")
	h.MustRun("cp", "-a", "/run/left.json", journal)

	h.installHook("/run/our-hook", 0o755)
	h.MustWrite(hookFile, 0o755, `#!/bin/sh
if [ "$2" = prepare ]; then
	cat >/run/domain.xml
	`+filepath.Join(h.bin, "libvirt-direct")+` gc </dev/null >/run/gc.out 2>&1 &
	while ! [ -s /run/gc.out ]; do sleep 0.01; done
	exec /run/our-hook "$@" </run/domain.xml
fi
exec /run/our-hook "$@"
`)
	begin := time.Now()
	h.MustVirsh("start", "o")
	require.Less(t, time.Since(begin), 8*time.Second)
	out, err := h.WaitLine(h.Ctx, "/run/gc.out", func(string) bool { return true })
	require.NoError(t, err)
	require.Contains(t, out, `domain "o" (`+uuid+`): left alone, libvirt is starting or stopping it`)
	require.NotContains(t, h.ok("status"), "BUT")
	h.MustVirsh("destroy", "o")
	require.Empty(t, before.Diff(h.MustSnapshot()))
}
