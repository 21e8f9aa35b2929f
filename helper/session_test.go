//go:build integration

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// userSession is libvirt's session mode of one user: qemu:///session.
type userSession struct {
	t      testing.TB
	uid    uint32
	home   string
	daemon *exec.Cmd
}

// newSession starts a session daemon. The user needs a name, which addUser gives him.
func newSession(t testing.TB, uid uint32) *userSession {
	t.Helper()
	home, err := os.MkdirTemp("", "session") // a short name, for the sockets in it
	require.NoError(t, err)
	s := &userSession{t: t, uid: uid, home: home}
	t.Cleanup(func() {
		// What would outlive the daemon: a failed test's guest, and its log daemon for two minutes.
		_ = terminate("qemu-system-x86", filepath.Join(home, "run/libvirt/qemu/run/s1.pid"))
		_ = terminate("virtlogd", filepath.Join(home, "run/libvirt/virtlogd.pid"))
		os.RemoveAll(home)
	})
	for _, d := range []string{"run", ".config/libvirt"} {
		require.NoError(t, os.MkdirAll(filepath.Join(home, d), 0o700))
	}
	put(t, filepath.Join(home, ".config/libvirt/qemu.conf"), "bridge_helper = \""+helper+"\"\n")
	owner := strconv.Itoa(int(uid))
	run(t, "chown", "-R", owner+":"+owner, home)
	s.start()
	return s
}

// terminate ends a daemon, unless its number is meanwhile another process's.
func terminate(name, pidFile string) error {
	b, err := os.ReadFile(pidFile)
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return err
	}
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil || strings.TrimSpace(string(comm)) != name {
		return err
	}
	return unix.Kill(pid, unix.SIGTERM)
}

func (s *userSession) command(args ...string) *exec.Cmd {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = []string{"HOME=" + s.home, "XDG_RUNTIME_DIR=" + s.home + "/run", "PATH=" + os.Getenv("PATH"), "LANG=C"}
	cmd.Dir = s.home
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: s.uid, Gid: s.uid}}
	return cmd
}

// start starts the daemon, for as long as the test that made the session goes on.
func (s *userSession) start() {
	s.t.Helper()
	daemon := s.command("libvirtd", "-t", "600")
	s.daemon = daemon
	watch(s.t, daemon)
	require.Eventually(s.t, func() bool { return s.try("list") == nil }, 20*time.Second, 50*time.Millisecond)
}

// watch starts a daemon that ends with the test, which shows what it said if it fails.
func watch(t testing.TB, daemon *exec.Cmd) {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	require.NoError(t, err)
	daemon.Stderr = log
	require.NoError(t, daemon.Start())
	t.Cleanup(func() {
		daemon.Process.Kill()
		daemon.Wait()
		if b, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("%s: %s", daemon.Args[0], b)
		}
		log.Close()
	})
}

func (s *userSession) try(args ...string) error {
	return s.command(append([]string{"virsh", "-c", "qemu:///session"}, args...)...).Run()
}

func (s *userSession) virsh(t testing.TB, args ...string) {
	t.Helper()
	out, err := s.command(append([]string{"virsh", "-c", "qemu:///session"}, args...)...).CombinedOutput()
	require.NoError(t, err, "%v: %s", args, out)
}

// guest is the QEMU of the guest s1.
func (s *userSession) guest(t testing.TB) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.home, "run/libvirt/qemu/run/s1.pid"))
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	require.NoError(t, err)
	return pid
}

// define defines the guest s1 with a NIC whose source is called bridge.
func (s *userSession) define(t testing.TB, bridge string) {
	t.Helper()
	xml := filepath.Join(s.home, "s1.xml")
	put(t, xml, `<domain type='qemu'><name>s1</name><memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='q35'>hvm</type></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<interface type='bridge'><mac address='`+guestMAC+`'/><source bridge='`+bridge+`'/><model type='virtio'/><boot order='1'/></interface>
</devices></domain>`)
	require.NoError(t, os.Chmod(xml, 0o644))
	s.virsh(t, "define", "--validate", xml)
}

const natNetwork = `<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'><name>default</name><bridge name='virbr0'/><forward mode='nat'/>
<ip address='192.168.122.1' netmask='255.255.255.0'><dhcp><range start='192.168.122.2' end='192.168.122.254'/></dhcp></ip>
<dnsmasq:options><dnsmasq:option value='` + noProxyDHCP + `'/></dnsmasq:options></network>`

// nat starts the system's libvirtd and its NAT network, as on a desktop, and returns a function that waits until its
// dnsmasq has given a lease.
func nat(t testing.TB) func(mac string) {
	t.Helper()
	for _, d := range []string{"/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt"} {
		require.NoError(t, os.MkdirAll(d, 0o755))
		require.NoError(t, unix.Mount("tmpfs", d, "tmpfs", 0, "mode=755"))
		t.Cleanup(func() { _ = unix.Unmount(d, unix.MNT_DETACH) })
	}
	dir := t.TempDir()
	xml, conf := filepath.Join(dir, "default.xml"), filepath.Join(dir, "libvirtd.conf")
	put(t, xml, natNetwork)
	put(t, conf, "auth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\nunix_sock_group = \"root\"\n")
	require.NoError(t, os.RemoveAll("/etc/libvirt/qemu/networks")) // the test's own /etc
	watch(t, exec.Command("libvirtd", "--config", conf))
	virsh := func(args ...string) *exec.Cmd {
		return exec.Command("virsh", append([]string{"-c", "network:///system"}, args...)...)
	}
	require.Eventually(t, func() bool { return virsh("net-list").Run() == nil }, 20*time.Second, 50*time.Millisecond)
	for _, args := range [][]string{{"net-define", xml}, {"net-start", "default"}} {
		out, err := virsh(args...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	t.Cleanup(func() {
		if virsh("net-destroy", "default").Run() != nil {
			_ = terminate("dnsmasq", "/run/libvirt/network/default.pid")
		}
	})
	return func(mac string) {
		t.Helper()
		require.Eventually(t, func() bool {
			out, err := virsh("net-dhcp-leases", "default").Output()
			return err == nil && strings.Contains(string(out), mac)
		}, 60*time.Second, 50*time.Millisecond, "no lease")
	}
}

// TestLibvirtSession starts guests through a session daemon of alice's: on the LAN, and on the NAT network of the
// system's libvirtd.
func TestLibvirtSession(t *testing.T) {
	wire(t, "v0", "v1")
	acl(t, "allow virbr0\n")
	profiles(t, lanProfile)
	addUser(t)
	leases := map[string]func(string){
		"lan/" + guestMAC: lease(t, "v1", "10.57.0.1/24", "10.57.0.10", "10.57.0.200"),
		"virbr0":          nat(t),
	}
	s := newSession(t, alice)
	for _, name := range []string{"lan/" + guestMAC, "virbr0"} {
		t.Run(name, func(t *testing.T) {
			s.define(t, name)
			s.virsh(t, "start", "s1")
			leases[name](guestMAC)
			s.virsh(t, "destroy", "s1")
			requireNothingLeft(t)

			s.virsh(t, "start", "s1")
			require.NotEmpty(t, leftovers(t))
			require.NoError(t, unix.Kill(s.guest(t), unix.SIGKILL))
			requireNothingLeft(t)

			require.Eventually(t, func() bool { return s.try("start", "s1") == nil }, 10*time.Second, 100*time.Millisecond)
			pid := s.guest(t)
			require.NoError(t, s.daemon.Process.Kill())
			s.daemon.Wait()
			require.NotEmpty(t, leftovers(t), "the guest goes on without its daemon")
			require.NoError(t, unix.Kill(pid, unix.SIGKILL))
			requireNothingLeft(t)
			s.start()
			s.virsh(t, "undefine", "s1")
		})
	}
}

// TestSessionKilled kills all that a user has running in one system call: a session daemon with its guest, guests of
// QEMU alone and of the launcher, and helpers at work.
func TestSessionKilled(t *testing.T) {
	const carol = 64323 // nobody else's processes may go
	wire(t, "v0", "v1")
	bridge(t, "br0")
	profiles(t, strings.ReplaceAll(nics, "uid:64321", "uid:64323"))
	addUserAs(t, "helpercarol", carol)
	s := newSession(t, carol)
	s.define(t, "lan/"+guestMAC)
	s.virsh(t, "start", "s1")
	for _, args := range [][]string{
		qemuArgs("-S", "-netdev", "bridge,id=n0,br=lan,helper="+helper),
		qemuArgs("-S", "-netdev", "bridge,id=n0,br=guests,helper="+helper),
		launch(t, append([]string{"--net", "lan", "--net", "guests,queues=2", "--"},
			qemuArgs("-S", "-sandbox", sandbox, "-netdev", "tap,id=n0,fd={fd:lan}", "-netdev", "tap,id=n1,fds={fds:guests}")...)...),
	} {
		watch(t, s.command(args...))
	}
	// Five devices: three namespaces, two TAPs, and the namespace in which the one of two queues was made.
	var left []string
	require.Eventually(t, func() bool { left = leftovers(t); return len(left) == 6 }, waitLimit, 10*time.Millisecond, "%v", &left)
	watch(t, s.command(append([]string{"/bin/sh", "-c", `while :; do "$@"; done`, "sh"}, launch(t, "--net", "guests", "--", "true", "{fd:guests}")...)...))
	require.Eventually(t, func() bool { return len(leftovers(t)) > 6 }, waitLimit, time.Millisecond)
	// kill(2) spares only the process that calls it, and that is about to end.
	require.NoError(t, s.command("/bin/sh", "-c", "kill -KILL -1").Run())
	requireNothingLeft(t)
}
