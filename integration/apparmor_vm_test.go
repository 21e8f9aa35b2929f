//go:build vm

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"libvirt-direct/integration/host/hosttest"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Confined by the profiles of packaging, on a kernel that enforces them, the hook, the
// helper and vdpd do what they do, and AppArmor has refused them nothing.
func TestAppArmor(t *testing.T) {
	if !inMachine() {
		t.Skip("this is for the test machine: go test -tags vm -exec testvm")
	}
	ctx := hosttest.Deadline(t, 4*time.Minute)
	sh := func(script string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(ctx, "sh", append([]string{"-euc", script, "sh"}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			log, _ := exec.CommandContext(ctx, "dmesg").CombinedOutput()
			require.NoError(t, err, "%s\n%s%s", script, out, log)
		}
		return string(out)
	}
	put := func(name, text string) {
		t.Helper()
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, []byte(text), 0o644))
	}
	enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	require.NoError(t, err)
	require.Equal(t, "Y\n", string(enabled))
	_ = unix.Mount("securityfs", "/sys/kernel/security", "securityfs", 0, "") // it may be

	sh(`install -D "$1/qemu-hook" /etc/libvirt/hooks/qemu
		install -D -g kvm -m 4750 "$1/qemu-direct-helper" /usr/libexec/qemu-direct-helper
		install "$1/vdpd" /usr/sbin/vdpd
		apparmor_parser --replace --skip-cache ../packaging/apparmor/*
		modprobe tun # there is no udev, which makes its node
		dmesg --clear
		ip link add aa0 type veth peer name aa1; ip link set aa0 up; ip link set aa1 up
		ip link add aabr type bridge; ip link set aabr up
		ip netns add aans`, filepath.Dir(program(t, "qemu-hook")))
	defer func() {
		sh(`ip link del aa0; ip link del aabr; ip netns del aans; apparmor_parser --remove ../packaging/apparmor/*
			rm -r /etc/libvirt/hooks/qemu /usr/libexec/qemu-direct-helper /usr/sbin/vdpd /etc/libvirt-direct`)
	}()
	refused := func() {
		t.Helper()
		for line := range strings.Lines(sh("dmesg")) {
			require.NotContains(t, line, `apparmor="DENIED"`)
		}
	}

	t.Run("hook", func(t *testing.T) {
		put("/etc/libvirt-direct/config.toml", "[uplink.storage]\ndevice = \"aa0\"\n")
		put("/run/guest.xml", fmt.Sprintf(`<domain type='qemu'><name>g</name><uuid>%s</uuid>
			<metadata><ld:nics xmlns:ld='urn:libvirt-direct:1'><ld:nic mac='52:54:00:00:00:01' own='hook' mode='vepa' uplink='storage' vlan='100' allmulticast='yes'/></ld:nics></metadata>
			<devices><interface type='ethernet'><mac address='52:54:00:00:00:01'/><target dev='ldt0123456789' managed='no'/></interface>
			<interface type='direct'><mac address='52:54:00:00:00:02'/><source dev='storage.200' mode='bridge'/></interface></devices></domain>`, uuid))
		// As by the rule in libvirtd's profile.
		confined := func(op, sub string) string {
			return sh(`echo "exec libvirt-direct-hook" >/proc/self/attr/apparmor/exec
				exec /etc/libvirt/hooks/qemu g "$1" "$2" - </run/guest.xml`, op, sub)
		}
		confined("prepare", "begin")
		made := sh("ip -d link show ldt0123456789; ip link show storage.200")
		require.Contains(t, made, "macvtap mode vepa")
		for _, op := range []string{"start", "started", "reconnect"} {
			confined(op, "begin")
		}
		confined("stopped", "end")
		confined("release", "end")
		require.NotContains(t, sh("ip link"), "ldt0123456789")
		require.NotContains(t, sh("ip link"), "storage")
		refused()
	})
	// What libvirt has saved of a device is kept from the ends of two that were refused it.
	t.Run("hidden file", func(t *testing.T) {
		sh(`ip link add link aa0 name aatap type macvtap mode passthru
			mkdir -p /run/libvirt/qemu; echo '{"mac":"02:00:00:00:00:aa"}' >/run/libvirt/qemu/aa0`)
		defer sh("ip link del aatap; rm -r /run/libvirt")
		confined := func(number int, op string) {
			put("/run/refused.xml", fmt.Sprintf(`<domain type='qemu'><name>r</name><uuid>%.35s%d</uuid><devices>
				<interface type='direct'><mac address='52:54:00:00:00:0%d'/><source dev='aa0' mode='passthrough'/></interface></devices></domain>`, uuid, number, number))
			sh(`echo "exec libvirt-direct-hook" >/proc/self/attr/apparmor/exec
				exec /etc/libvirt/hooks/qemu r "$1" end - </run/refused.xml`, op)
		}
		files := func() []string { return strings.Fields(sh("ls /run/libvirt/qemu")) }
		confined(3, "stopped")
		confined(4, "stopped")
		require.Len(t, files(), 2)
		require.NotContains(t, files(), "aa0")
		confined(3, "release")
		confined(4, "release")
		require.Equal(t, []string{"aa0"}, files())
		refused()
	})
	// libvirtd keeps OVS_RUNDIR from its hooks, which read it from its environment, as the
	// packages' line in its profile lets them.
	t.Run("Open vSwitch of libvirtd", func(t *testing.T) {
		put("/run/libvirtd.aa", `abi <abi/3.0>,
			profile libvirtd { file, capability, network, unix, signal, change_profile, ptrace readby peer=libvirt-direct-hook, }`)
		put("/run/ovs.xml", fmt.Sprintf(`<domain type='qemu'><name>o</name><uuid>%s</uuid>
			<metadata><ld:nics xmlns:ld='urn:libvirt-direct:1'><ld:nic mac='52:54:00:00:00:01' isolated='yes'/></ld:nics></metadata>
			<devices><interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='b'/><virtualport type='openvswitch'/><target dev='vnet0'/></interface></devices></domain>`, uuid))
		said := sh(`apparmor_parser --replace --skip-cache /run/libvirtd.aa; cp /bin/sh /run/libvirtd
			echo "exec libvirtd" >/proc/self/attr/apparmor/exec
			OVS_RUNDIR=/run/elsewhere exec /run/libvirtd -c 'cat /run/ovs.xml | sh -c "unset OVS_RUNDIR
				echo \"exec libvirt-direct-hook\" >/proc/self/attr/apparmor/exec
				exec /etc/libvirt/hooks/qemu o start begin - 2>&1" || true'`)
		defer func() { sh("apparmor_parser --remove /run/libvirtd.aa; rm /run/libvirtd") }()
		require.Contains(t, said, "dial unix /run/elsewhere/db.sock")
		require.Contains(t, said, "OVS_RUNDIR of libvirtd says that it is there")
		sh("rm -r /run/libvirt-direct") // there is no switch from which to remove the port
		refused()
	})
	t.Run("helper", func(t *testing.T) {
		put("/etc/libvirt-direct/helper.conf", "[lan]\nkind = macvtap\nlower = aa1\nallow = everyone\n"+
			"[tagged]\nkind = macvtap\nlower = aa1\nvlan = 7\nvisible = yes\nallow = everyone\n[br]\nkind = bridge\nbridge = aabr\nallow = everyone\n")
		user := func(script string) string {
			return sh(`exec setpriv --reuid 4242 --regid "$(getent group kvm | cut -d: -f3)" --clear-groups -- sh -euc "$1"`, script)
		}
		require.Contains(t, user("/usr/libexec/qemu-direct-helper --list"), "lan macvtap")
		for _, name := range []string{"lan", "tagged", "br"} {
			out := user(program(t, "libvirt-direct") + " run --net " + name + " -- sh -c 'readlink /proc/self/fd/$1' sh {fd:" + name + "}")
			require.Contains(t, out, "/dev/", name)
		}
		refused()
	})
	t.Run("vdpd", func(t *testing.T) {
		put("/etc/libvirt-direct/vdpd.toml", "[[uplink]]\nname = \"aa0\"\n")
		// Until it answers; then it stops by itself when it is told to.
		sh(`mkdir -p /run/vdpd; /usr/sbin/vdpd & pid=$!
			until "$1" vsi list >/dev/null 2>&1; do kill -0 $pid; sleep 0.1; done
			test "$(cat /run/lldpad.pid)" = $pid
			kill $pid; wait $pid`, program(t, "libvirt-direct"))
		refused()
	})
}
