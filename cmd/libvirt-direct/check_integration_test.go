//go:build integration

package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/internal/checks"
	"libvirt-direct/internal/config"
)

const (
	leftUUID   = "aaaaaaaa-0000-4000-8000-000000000001"
	helperPath = "/usr/libexec/qemu-direct-helper"
)

// journal writes a domain's journal by hand.
func (s *site) journal(uuid, text string) {
	s.t.Helper()
	s.run("mkdir", "-p", "-m", "700", "/run/libvirt-direct/domains")
	s.write("/run/libvirt-direct/domains/"+uuid+".json", 0o600, text)
}

// Each case spoils a host on which all is well, and is put right again after it.
func TestCheck(t *testing.T) {
	s := newSite(t, uplinkConfig)
	// The helper's folder, for this host alone.
	s.run("mkdir", "-p", "/usr/libexec")
	s.run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/usr/libexec")
	s.up()
	const dropIn = hookFile + ".d/50-libvirt-direct"
	admins := func(s *site, path string) { s.write(path, 0o755, "#!/bin/sh\nexit 0\n") }

	for _, c := range []struct {
		name  string
		spoil func(*site)
		line  string // "level about text…"
		code  int
	}{
		{"all is well", func(*site) {}, "ok hook " + hookFile, 0},
		{"hook missing", func(s *site) { s.run("rm", hookFile) }, "FAULT hook it is not installed: copy it to " + hookFile, exitFault},
		{"hook not executable", func(s *site) { s.run("chmod", "644", hookFile) }, "FAULT hook " + hookFile + " is not executable, so libvirt does not run it: chmod 755 " + hookFile, exitFault},
		{"hook writable by others", func(s *site) { s.run("chmod", "775", hookFile) }, "FAULT hook " + hookFile + " can be written by others than root (mode 0775)", exitFault},
		{"another's hook in its place", func(s *site) { admins(s, hookFile) }, "FAULT hook " + hookFile + " is another program's, and ours is not in " + hookFile + ".d: install it as " + dropIn, exitFault},
		{"beside another's hook", func(s *site) { admins(s, hookFile); s.installHook(dropIn, 0o755) }, "note hook " + hookFile + " is another program's: libvirt runs it before ours", 0},
		{"beside another's hook and not executable", func(s *site) { admins(s, hookFile); s.installHook(dropIn, 0o644) }, "FAULT hook " + dropIn + " is not executable", exitFault},
		{"twins", func(s *site) { s.installHook(dropIn, 0o755) }, "FAULT hook it is there more than once, libvirt would run each (" + hookFile + ", " + dropIn + ")", exitFault},
		{"a package manager's twin", func(s *site) { s.installHook(dropIn+".dpkg-old", 0o755) }, "note hook " + dropIn + ".dpkg-old is a package manager's or an editor's copy; it does nothing, remove it", 0},
		{"config broken", func(s *site) { s.write(config.Path, 0o644, "[uplink.storage]\ndevcie = \"nica\"\n") }, "FAULT config " + config.Path + `:2: unknown key "uplink.storage.devcie"; did you mean "device"?`, exitFault},
		{"config writable by others", func(s *site) { s.run("chmod", "666", config.Path) }, "FAULT config " + config.Path + " can be written by others than root", exitFault},
		{"no config", func(s *site) { s.run("rm", config.Path) }, "ok config no " + config.Path + ": the defaults hold", 0},
		{"uplink", func(*site) {}, "ok uplink storage nica, MTU 1500", 0},
		{"uplink down", func(s *site) { s.run("ip", "link", "set", "nica", "down") }, "note uplink storage nica is down", 0},
		{"uplink missing", func(s *site) { s.write(config.Path, 0o644, "[uplink.storage]\ndevice = \"eth7\"\n") }, "FAULT uplink storage look up eth7: no such network device; mend [uplink.storage] in " + config.Path, exitFault},
		{"no helper", func(*site) {}, "ok helper " + helperPath + " is not installed", 0},
		{"helper", func(s *site) { s.installHelper("4750") }, "ok helper " + helperPath + ", mode 4750", 0},
		{"helper not setuid", func(s *site) { s.installHelper("0755") }, "FAULT helper " + helperPath + " is not setuid: chmod 4750 " + helperPath, exitFault},
		{"helper writable by others", func(s *site) { s.installHelper("4770") }, "FAULT helper " + helperPath + " can be written by others than root", exitFault},
		{"left over", func(s *site) {
			s.run("ip", "link", "add", "name", "old", "link", "nica", "type", "macvtap")
			s.run("ip", "link", "set", "old", "alias", "libvirt-direct aaaaaaaa-0000-4000-8000-000000000001")
		}, "note leftovers 1 of domains that are not running", 0},
		{"a journal that cannot be read", func(s *site) { s.journal(leftUUID, "{") },
			"FAULT claims journal file cannot be trusted: /run/libvirt-direct/domains/" + leftUUID + ".json", exitFault},
		{"two of an older release claim one port", func(s *site) {
			for _, uuid := range []string{leftUUID, "bbbbbbbb-0000-4000-8000-000000000002"} {
				s.journal(uuid, `{"version":1,"uuid":"`+uuid+`","name":"old","since":"2026-01-01T00:00:00Z","entries":[
					{"phase":"done","step":{"nic":"52:54:00:00:00:01","macvtap":{"name":"ldt0","lower":"nica","mode":"vepa","mac":"52:54:00:00:00:01","index":9999}}}]}`)
			}
		}, `note claims domain "old" claims link/ldt0, and so does another`, 0},
		{"uplink in a bridge", inBridge("stp_state", "0"), "note bridge storage nica is a port of br9: the kernel makes no macvtap on it;", 0},
		{"without a spanning tree", inBridge("stp_state", "0"), "note bridge storage br9 runs no spanning tree and so passes frames to 01:80:C2:00:00:00 on: lldpad hears neither EVB nor VDP on nica", 0},
		{"with one", inBridge("stp_state", "1"), "note bridge storage br9 runs a spanning tree: it sends BPDUs out of nica", 0},
		{"that lets nothing through yet", inBridge("stp_state", "1"), "note bridge storage the spanning tree of br9 lets nothing through nica now (state 1)", 0},
		{"LLDP kept", inBridge("group_fwd_mask", "0"), "ok bridge storage LLDP (01:80:C2:00:00:0E) of guests in br9 ends there, as IEEE 802.1Q wants it; where a guest is to speak with the switch: ip link set br9 type bridge group_fwd_mask 0x4000", 0},
		{"LLDP passed on", inBridge("group_fwd_mask", "0x4000"), "note bridge storage group_fwd_mask of br9 passes LLDP (01:80:C2:00:00:0E) on to guests", 0},
		{"a bridge as uplink", func(s *site) {
			s.run("ip", "link", "add", "br9", "type", "bridge")
			s.write(config.Path, 0o644, "[uplink.storage]\ndevice = \"br9\"\nvlans = [\"10\"]\n")
		}, "note bridge storage br9 does not filter VLANs", 0},
		{"a pool without the network hook", pool, "note networks pool hand out devices of this host, and our hook for networks is not installed: ln -s qemu /etc/libvirt/hooks/network", 0},
		{"a pool with it", func(s *site) { pool(s); s.run("ln", "-s", "qemu", "/etc/libvirt/hooks/network") },
			"ok networks pool hand out devices of this host; /etc/libvirt/hooks/network sees to it", 0},
		{"libvirt", func(*site) {}, "ok libvirt qemu:///system answers", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := s.in(t)
			defer func() {
				s.Run(s.ctx, "sh", "-c", "rm -rf "+hookFile+" "+hookFile+".d /etc/libvirt/hooks/network "+helperPath+
					"; rm -rf /run/libvirt-direct; ip link set nica up; ip link del old; ip link del br9; virsh -q net-destroy pool")
				s.installHook(hookFile, 0o755)
				s.write(config.Path, 0o644, uplinkConfig)
			}()
			c.spoil(s)
			out, stderr, code := s.cli("check")
			require.Equal(t, c.code, code, out)
			require.Empty(t, stderr)
			require.Equal(t, c.code != 0, strings.Contains(out, string(checks.Fault)), out)
			var lines []string
			for line := range strings.Lines(out) {
				lines = append(lines, strings.Join(strings.Fields(line), " "))
			}
			require.Contains(t, strings.Join(lines, "\n"), c.line)
		})
	}
}

// inBridge makes the uplink a port of a bridge with an option set so.
func inBridge(option, value string) func(*site) {
	return func(s *site) {
		s.run("ip", "link", "add", "br9", "type", "bridge", option, value)
		s.run("ip", "link", "set", "br9", "up")
		s.run("ip", "link", "set", "nica", "master", "br9")
		_, err := s.Run(s.ctx, "ip", "link", "add", "link", "nica", "type", "macvtap")
		require.Error(s.t, err, "as check says")
	}
}

// pool starts one of libvirt's networks that hands out the uplink.
func pool(s *site) {
	s.write("/run/pool.xml", 0o600, "<network><name>pool</name><forward mode='bridge'><interface dev='nica'/></forward></network>")
	s.virsh("net-create", "/run/pool.xml")
}

func (s *site) installHelper(mode string) {
	s.t.Helper()
	require.NoError(s.t, s.CopyFile(s.ctx, helperPath, 0o755, filepath.Join(s.bin, "qemu")))
	s.run("chmod", mode, helperPath)
}

// libvirtd looks for hooks when it starts.
func TestCheckSeesADaemonOlderThanTheHook(t *testing.T) {
	s := newSite(t, "")
	out, _, code := s.cli("check")
	require.Equal(t, exitFault, code)
	require.Contains(t, out, "no daemon has a socket in /run/libvirt; is libvirtd or virtqemud running?")
	require.NoError(t, s.StartLibvirtd(s.ctx))
	s.installHook(hookFile, 0o755)
	out = s.ok("check")
	require.Contains(t, out, "before its first hook was installed")
	require.Contains(t, out, "systemctl reload libvirtd")
}
