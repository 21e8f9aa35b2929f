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
	helperConf = "/etc/libvirt-direct/helper.conf"
	bridgeConf = "/etc/qemu/bridge.conf"
	pciDevices = "/sys/bus/pci/devices"
)

// journal writes a domain's journal by hand.
func (h *fixture) journal(uuid, text string) {
	h.T.Helper()
	h.MustRun("mkdir", "-p", "-m", "700", "/run/libvirt-direct/domains")
	h.MustWrite("/run/libvirt-direct/domains/"+uuid+".json", 0o600, text)
}

// Each case spoils a host on which all is well, and is put right again after it.
func TestCheck(t *testing.T) {
	h := newFixture(t, uplinkConfig)
	// The helper's folder, for this host alone.
	h.MustRun("mkdir", "-p", "/usr/libexec")
	h.MustRun("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/usr/libexec")
	h.up()
	const dropIn = hookFile + ".d/50-libvirt-direct"
	admins := func(h *fixture, path string) { h.MustWrite(path, 0o755, "#!/bin/sh\nexit 0\n") }

	for _, c := range []struct {
		name  string
		spoil func(*fixture)
		line  string // "level about text…"
		code  int
	}{
		{"all is well", func(*fixture) {}, "ok hook " + hookFile, 0},
		{"hook missing", func(h *fixture) { h.MustRun("rm", hookFile) }, "FAULT hook it is not installed: copy it to " + hookFile, exitFault},
		{"hook not executable", func(h *fixture) { h.MustRun("chmod", "644", hookFile) }, "FAULT hook " + hookFile + " is not executable, so libvirt does not run it: chmod 755 " + hookFile, exitFault},
		{"hook writable by others", func(h *fixture) { h.MustRun("chmod", "775", hookFile) }, "FAULT hook " + hookFile + " can be written by others than root (mode 0775)", exitFault},
		{"another's hook in its place", func(h *fixture) { admins(h, hookFile) }, "FAULT hook " + hookFile + " is another program's, and ours is not in " + hookFile + ".d: install it as " + dropIn, exitFault},
		{"beside another's hook", func(h *fixture) { admins(h, hookFile); h.installHook(dropIn, 0o755) }, "note hook " + hookFile + " is another program's: libvirt runs it before ours", 0},
		{"beside another's hook and not executable", func(h *fixture) { admins(h, hookFile); h.installHook(dropIn, 0o644) }, "FAULT hook " + dropIn + " is not executable", exitFault},
		{"twins", func(h *fixture) { h.installHook(dropIn, 0o755) }, "FAULT hook it is there more than once, libvirt would run each (" + hookFile + ", " + dropIn + ")", exitFault},
		{"a package manager's twin", func(h *fixture) { h.installHook(dropIn+".dpkg-old", 0o755) }, "note hook " + dropIn + ".dpkg-old is a package manager's or an editor's copy; it does nothing, remove it", 0},
		{"config broken", func(h *fixture) { h.Configure("[uplink.storage]\ndevcie = \"nica\"\n") }, "FAULT config " + config.Path + `:2: unknown key "uplink.storage.devcie"; did you mean "device"?`, exitFault},
		{"config writable by others", func(h *fixture) { h.MustRun("chmod", "666", config.Path) }, "FAULT config " + config.Path + " can be written by others than root", exitFault},
		{"no config", func(h *fixture) { h.MustRun("rm", config.Path) }, "ok config no " + config.Path + ": the defaults hold", 0},
		{"uplink", func(*fixture) {}, "ok uplink storage nica, MTU 1500", 0},
		{"uplink down", func(h *fixture) { h.MustRun("ip", "link", "set", "nica", "down") }, "note uplink storage nica is down", 0},
		{"uplink missing", func(h *fixture) { h.Configure("[uplink.storage]\ndevice = \"eth7\"\n") }, "FAULT uplink storage look up eth7: no such network device; fix [uplink.storage] in " + config.Path, exitFault},
		{"uplink with two devices", func(h *fixture) {
			h.MustRun("ip", "link", "add", "old", "type", "veth", "peer", "name", "old-peer")
			h.MustRun("mount", "-t", "tmpfs", "tmpfs", pciDevices)
			h.MustRun("mkdir", "-p", pciDevices+"/10000:e1:00.0/net/nica", pciDevices+"/10000:e1:00.0/net/old")
			h.Configure("[uplink.storage]\npci = \"10000:E1:0.0\"\n")
		}, "FAULT uplink storage look up PCI 10000:e1:00.0: several network devices answer to it: nica, old; name the one that is meant with device = \"NAME\"; fix [uplink.storage] in " + config.Path, exitFault},
		{"two uplinks with one device", func(h *fixture) {
			h.MustRun("ip", "link", "property", "add", "dev", "nica", "altname", "a-name-of-more-than-fifteen")
			h.Configure(uplinkConfig + "[uplink.test]\ndevice = \"a-name-of-more-than-fifteen\"\n")
		}, "note uplink test nica is the device of uplink storage, too:", 0},
		{"config of Windows", func(h *fixture) { h.Configure("\ufeff" + strings.ReplaceAll(uplinkConfig, "\n", "\r\n")) }, "ok uplink storage nica, MTU 1500", 0},
		{"no helper", func(*fixture) {}, "ok helper " + helperPath + " is not installed", 0},
		{"helper", func(h *fixture) { h.installHelper("4750") }, "ok helper " + helperPath + ", mode 4750", 0},
		{"helper not setuid", func(h *fixture) { h.installHelper("0755") }, "FAULT helper " + helperPath + " is not setuid: chmod 4750 " + helperPath, exitFault},
		{"helper writable by others", func(h *fixture) { h.installHelper("4770") }, "FAULT helper " + helperPath + " can be written by others than root", exitFault},
		{"helper with plain taps for several", func(h *fixture) {
			h.installHelper("4750")
			h.MustWrite(helperConf, 0o644, "[guests]\nkind = bridge\nbridge = br0\nallow = group:kvm\n")
		}, "note helper profile guests gives several users plain TAP devices", 0},
		{"helper with a broken profile", func(h *fixture) {
			h.installHelper("4750")
			h.MustWrite(helperConf, 0o644, "[guests]\nkind = brigde\n")
		}, "FAULT helper every profile is refused: " + helperConf + ":2: ", exitFault},
		{"helper with bridge.conf", func(h *fixture) {
			h.installHelper("4750")
			h.MustRun("mkdir", "-p", "/etc/qemu")
			h.MustWrite(bridgeConf, 0o644, "allow all\n")
		}, "note helper " + bridgeConf + " gives plain TAP devices to everybody who may read it", 0},
		{"left over", func(h *fixture) {
			h.MustRun("ip", "link", "add", "name", "old", "link", "nica", "type", "macvtap")
			h.MustRun("ip", "link", "set", "old", "alias", "libvirt-direct aaaaaaaa-0000-4000-8000-000000000001")
		}, "note leftovers 1 of guests that are not running", 0},
		{"a journal that cannot be read", func(h *fixture) { h.journal(leftUUID, "{") },
			"FAULT claims journal file cannot be trusted: /run/libvirt-direct/domains/" + leftUUID + ".json", exitFault},
		{"two of an older release claim one port", func(h *fixture) {
			for _, uuid := range []string{leftUUID, "bbbbbbbb-0000-4000-8000-000000000002"} {
				h.journal(uuid, `{"version":1,"uuid":"`+uuid+`","name":"old","since":"2026-01-01T00:00:00Z","entries":[
					{"phase":"done","step":{"nic":"52:54:00:00:00:01","macvtap":{"name":"ldt0","lower":"nica","mode":"vepa","mac":"52:54:00:00:00:01","index":9999}}}]}`)
			}
		}, `note claims domain "old" claims link/ldt0, and so does another`, 0},
		{"uplink in a bridge", inBridge("stp_state", "0"), "note bridge storage nica is a port of br9: the kernel makes no macvtap on it;", 0},
		{"without a spanning tree", inBridge("stp_state", "0"), "note bridge storage br9 runs no spanning tree and so passes frames to 01:80:C2:00:00:00 on: lldpad hears neither EVB nor VDP on nica", 0},
		{"with one", inBridge("stp_state", "1"), "note bridge storage br9 runs a spanning tree: it sends BPDUs out of nica", 0},
		{"that lets nothing through yet", inBridge("stp_state", "1"), "note bridge storage the spanning tree of br9 lets nothing through nica now (state 1)", 0},
		{"LLDP kept", inBridge("group_fwd_mask", "0"), "ok bridge storage LLDP (01:80:C2:00:00:0E) of guests in br9 ends there, as IEEE 802.1Q wants it; where a guest is to speak with the switch: ip link set br9 type bridge group_fwd_mask 0x4000", 0},
		{"LLDP passed on", inBridge("group_fwd_mask", "0x4000"), "note bridge storage group_fwd_mask of br9 passes LLDP (01:80:C2:00:00:0E) on to guests", 0},
		{"a bridge as uplink", func(h *fixture) {
			h.MustRun("ip", "link", "add", "br9", "type", "bridge")
			h.Configure("[uplink.storage]\ndevice = \"br9\"\nvlans = [\"10\"]\n")
		}, "note bridge storage br9 does not filter VLANs", 0},
		{"a pool without the network hook", pool, "note networks pool hand out devices of this host, and our hook for networks is not installed: ln -s qemu /etc/libvirt/hooks/network", 0},
		{"a pool with it", func(h *fixture) { pool(h); h.MustRun("ln", "-s", "qemu", "/etc/libvirt/hooks/network") },
			"ok networks pool hand out devices of this host; /etc/libvirt/hooks/network sees to it", 0},
		{"libvirt", func(*fixture) {}, "ok libvirt qemu:///system answers", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := h.in(t)
			defer func() {
				h.Run(h.Ctx, "sh", "-c", "rm -rf "+hookFile+" "+hookFile+".d /etc/libvirt/hooks/network "+helperPath+" "+helperConf+" "+bridgeConf+
					"; rm -rf /run/libvirt-direct; ip link set nica up; ip link del old; ip link del br9; umount "+pciDevices+"; ip link property del dev nica altname a-name-of-more-than-fifteen; virsh -q net-destroy pool")
				h.installHook(hookFile, 0o755)
				h.Configure(uplinkConfig)
			}()
			c.spoil(h)
			out, stderr, code := h.cli("check")
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
func inBridge(option, value string) func(*fixture) {
	return func(h *fixture) {
		h.MustRun("ip", "link", "add", "br9", "type", "bridge", option, value)
		h.MustRun("ip", "link", "set", "br9", "up")
		h.MustRun("ip", "link", "set", "nica", "master", "br9")
		_, err := h.Run(h.Ctx, "ip", "link", "add", "link", "nica", "type", "macvtap")
		require.Error(h.T, err, "as check says")
	}
}

// pool starts one of libvirt's networks that hands out the uplink.
func pool(h *fixture) {
	h.MustWrite("/run/pool.xml", 0o600, "<network><name>pool</name><forward mode='bridge'><interface dev='nica'/></forward></network>")
	h.MustVirsh("net-create", "/run/pool.xml")
}

func (h *fixture) installHelper(mode string) {
	h.T.Helper()
	require.NoError(h.T, h.CopyFile(h.Ctx, helperPath, 0o755, filepath.Join(h.bin, "qemu")))
	h.MustRun("chmod", mode, helperPath)
}

// libvirtd looks for hooks when it starts.
func TestCheckSeesADaemonOlderThanTheHook(t *testing.T) {
	h := newFixture(t, "")
	out, _, code := h.cli("check")
	require.Equal(t, exitFault, code)
	require.Contains(t, out, "no daemon has a socket in /run/libvirt; is libvirtd or virtqemud running?")
	h.MustStartLibvirtd()
	h.installHook(hookFile, 0o755)
	out = h.ok("check")
	require.Contains(t, out, "before its first hook was installed")
	require.Contains(t, out, "systemctl reload libvirtd")
}
