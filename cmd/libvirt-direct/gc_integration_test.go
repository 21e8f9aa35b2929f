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

// running makes a site on which the hook-owned guest "o" runs.
func running(t *testing.T) (s *site, before host.Snapshot) {
	s = newSite(t, uplinkConfig)
	s.up()
	before = s.snapshot()
	s.define(ownedGuest("o", ""))
	s.ok("rewrite", "--domain", "o")
	s.virsh("start", "o")
	return s, before
}

// killGuest kills a domain's QEMU and waits for its end.
func (s *site) killGuest(name string) {
	s.t.Helper()
	s.run("sh", "-c", `pid=$(cat "$1") && kill -KILL "$pid" && tail --pid="$pid" -s 0.01 -f /dev/null`, "sh", "/run/libvirt/qemu/"+name+".pid")
}

func TestGCAfterEverythingWasKilled(t *testing.T) {
	s, before := running(t)
	guest := s.snapshot()
	require.NotEmpty(t, before.Diff(guest))
	alive := func(when string) {
		t.Helper()
		require.Equal(t, nothing, s.ok("gc"), when)
		require.Empty(t, guest.Diff(s.snapshot()), when)
	}
	alive("all runs")
	require.Equal(t, nothing, s.ok("gc", "--connect", "test:///default"))
	require.Empty(t, guest.Diff(s.snapshot()), "a daemon that knows no such domain")

	require.NoError(t, s.KillLibvirtd(s.ctx, unix.SIGKILL))
	alive("libvirtd was killed, its guest lives")

	s.killGuest("o")
	out := s.ok("gc", "--dry-run")
	require.Regexp(t, `^domain "o" \([0-9a-f-]{36}\): would remove macvtap ldt[0-9a-f]{10}\n$`, out)
	require.Empty(t, guest.Diff(s.snapshot()))
	require.Equal(t, out, s.ok("gc", "--dry-run"))

	out = s.ok("gc")
	require.Regexp(t, `^domain "o" \([0-9a-f-]{36}\): removed macvtap ldt[0-9a-f]{10}\n$`, out)
	require.Empty(t, before.Diff(s.snapshot()))
	require.Equal(t, "nothing is held\n", s.ok("status"))
	require.Equal(t, nothing, s.ok("gc"))

	// libvirtd finds its guest dead, and it starts again.
	require.NoError(t, s.StartLibvirtd(s.ctx))
	s.virsh("start", "o")
	s.virsh("destroy", "o")
	require.Empty(t, before.Diff(s.snapshot()))
}

func TestGCWithoutJournal(t *testing.T) {
	s, before := running(t)
	guest := s.snapshot()
	s.run("rm", "-r", "/run/libvirt-direct")
	require.Equal(t, nothing, s.ok("gc", "--dry-run"))
	s.run("test", "!", "-e", "/run/libvirt-direct")
	require.Equal(t, nothing, s.ok("gc"))
	require.Empty(t, guest.Diff(s.snapshot()), "the guest lives")

	require.NoError(t, s.KillLibvirtd(s.ctx, unix.SIGKILL))
	s.killGuest("o")
	s.run("rm", "-r", "/run/libvirt-direct")
	require.Regexp(t, `^would remove macvtap ldt[0-9a-f]{10}, which no journal names\n$`, s.ok("gc", "--dry-run"))
	require.Empty(t, guest.Diff(s.snapshot()))
	require.Regexp(t, `^removed macvtap ldt[0-9a-f]{10}, which no journal named\n$`, s.ok("gc"))
	require.Empty(t, before.Diff(s.snapshot()))
}

func TestGCLeavesAHungDaemonsGuestsAlone(t *testing.T) {
	s, _ := running(t)
	guest := s.snapshot()
	s.run("sh", "-c", `kill -STOP $(cat /run/libvirtd.pid)`)
	defer s.run("sh", "-c", `kill -CONT $(cat /run/libvirtd.pid)`)
	require.Contains(t, s.fails("gc", "--timeout", "300ms"), "(see --timeout)")
	require.Empty(t, guest.Diff(s.snapshot()))
}

// libvirt does not answer for a domain whose hook it runs: gc must give way, long before
// the hook gives up, and has no lock meanwhile that the hook could wait for.
func TestGCDuringAStart(t *testing.T) {
	s, before := running(t)
	uuid := strings.TrimSpace(s.virsh("domuuid", "o"))
	journal := "/run/libvirt-direct/domains/" + uuid + ".json"
	// A journal that a killed run has left.
	s.run("cp", "-a", journal, "/run/left.json")
	s.virsh("destroy", "o")
	s.run("cp", "-a", "/run/left.json", journal)

	s.installHook("/run/our-hook", 0o755)
	s.write(hookFile, 0o755, `#!/bin/sh
if [ "$2" = prepare ]; then
	cat >/run/domain.xml
	`+filepath.Join(s.bin, "libvirt-direct")+` gc </dev/null >/run/gc.out 2>&1 &
	while ! [ -s /run/gc.out ]; do sleep 0.01; done
	exec /run/our-hook "$@" </run/domain.xml
fi
exec /run/our-hook "$@"
`)
	begin := time.Now()
	s.virsh("start", "o")
	require.Less(t, time.Since(begin), 8*time.Second)
	out, err := s.WaitLine(s.ctx, "/run/gc.out", func(string) bool { return true })
	require.NoError(t, err)
	require.Contains(t, out, `domain "o" (`+uuid+`): left alone, libvirt is starting or stopping it`)
	require.NotContains(t, s.ok("status"), "BUT")
	s.virsh("destroy", "o")
	require.Empty(t, before.Diff(s.snapshot()))
}
