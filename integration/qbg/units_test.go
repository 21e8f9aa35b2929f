//go:build vm

package qbg

import (
	"os"
	"testing"
	"time"

	"libvirt-direct/integration/host/hosttest"

	"github.com/stretchr/testify/require"
)

// The units of the package libvirt-direct, unchanged, under systemd: gc in its sandbox
// undoes what a dead guest has left, and the watch on libvirt's hooks moves ours beside
// an administrator's.
func TestUnitsOfTheHook(t *testing.T) {
	requireSystemd(t)
	// libvirtd's profile is not loaded in the machine, and would take seconds to be.
	shell(t, `rm -f /etc/apparmor.d/usr.sbin.libvirtd
		install -D `+program(t, "libvirt-direct")+` /usr/bin/libvirt-direct
		install -D `+program(t, "qemu-hook")+` /usr/libexec/libvirt-direct/qemu-hook
		install ../../packaging/hook/place-hook /usr/libexec/libvirt-direct/place-hook
		rm -rf /etc/libvirt/hooks; mkdir -p /etc/libvirt/hooks /etc/libvirt-direct
		printf '[uplink.gc0]\ndevice = "gc0"\n' >/etc/libvirt-direct/config.toml
		/usr/libexec/libvirt-direct/place-hook install
		ip link add gc0 type veth peer name gc1; ip link set gc0 up; ip link set gc1 up`)
	t.Cleanup(func() {
		shell(t, "ip link del gc0; rm -rf /etc/libvirt/hooks /etc/libvirt-direct/config.toml /usr/bin/libvirt-direct /usr/libexec/libvirt-direct")
	})
	const units = "../../packaging/systemd/libvirt-direct-"
	m := startManager(t, units+"gc.service", units+"hook.service", units+"hook.path")

	// There is no QEMU of this guest.
	const guest = `<domain type='qemu'><name>g</name><uuid>7c1d2e3f-0b3a-4a6e-9d0e-1f2a3b4c5d6e</uuid>
		<metadata><ld:nics xmlns:ld='urn:libvirt-direct:1'><ld:nic mac='52:54:00:00:00:07' own='hook' mode='vepa' uplink='gc0' vlan='100' allmulticast='yes'/></ld:nics></metadata>
		<devices><interface type='ethernet'><mac address='52:54:00:00:00:07'/><target dev='ldt7777777777' managed='no'/></interface>
		<interface type='direct'><mac address='52:54:00:00:00:08'/><source dev='gc0.200' mode='bridge'/></interface></devices></domain>`
	require.NoError(t, os.WriteFile("/run/guest.xml", []byte(guest), 0o600))
	shell(t, "/etc/libvirt/hooks/qemu g prepare begin - </run/guest.xml")
	require.Contains(t, shell(t, "ip link"), "gc0.200@gc0")
	require.NotEmpty(t, shell(t, "ls /run/libvirt-direct/domains"))
	m.systemctl("start", "libvirt-direct-gc.service")
	require.NotContains(t, shell(t, "ip link"), "gc0.200")
	require.Empty(t, shell(t, "ls /run/libvirt-direct/domains"))

	m.systemctl("start", "libvirt-direct-hook.path")
	const admins = "#!/bin/sh\nexit 0\n"
	require.NoError(t, os.WriteFile("/etc/libvirt/hooks/qemu", []byte(admins), 0o755))
	hosttest.Eventually(t, time.Minute, "our hook moves beside the administrator's", func() bool {
		_, err := os.Stat("/etc/libvirt/hooks/qemu.d/50-libvirt-direct")
		return err == nil
	})
	kept, err := os.ReadFile("/etc/libvirt/hooks/qemu")
	require.NoError(t, err)
	require.Equal(t, admins, string(kept))
	require.True(t, m.active("libvirt-direct-hook.path"))
}
