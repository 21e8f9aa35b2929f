//go:build integration

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/helper/client"
)

const ovsProfile = `[fabric]
kind = ovs
bridge = ovsbr0
vlan = 100
mac = 52:54:00:*
allow = uid:64321
ingress-rate = 20000
max-per-user = 2
[trunk]
kind = ovs
bridge = ovsbr0
vlan = 5
trunks = 5-7
allow = uid:64321
[lost]
kind = ovs
bridge = v0
allow = uid:64321
`

// openvswitch starts Open vSwitch with its datapath in user space, and the bridge ovsbr0.
func openvswitch(t testing.TB) (stop func(daemon string)) {
	t.Helper()
	for _, p := range []string{"ovsdb-server", "ovs-vswitchd"} {
		_, err := exec.LookPath(p)
		require.NoError(t, err, "install openvswitch-switch")
	}
	require.NoError(t, os.MkdirAll("/run/openvswitch", 0o755))
	run(t, "ovsdb-tool", "create", "/run/openvswitch/conf.db", "/usr/share/openvswitch/vswitch.ovsschema")
	daemons := map[string]*exec.Cmd{}
	stop = func(name string) {
		if d := daemons[name]; d != nil {
			d.Process.Kill()
			d.Wait()
			delete(daemons, name)
		}
	}
	t.Cleanup(func() {
		stop("ovs-vswitchd")
		stop("ovsdb-server")
		os.RemoveAll("/run/openvswitch")
		exec.Command("ip", "link", "del", "ovsbr0").Run()
		exec.Command("ip", "link", "del", "ovs-netdev").Run()
	})
	start := func(name string, args ...string) {
		cmd := exec.Command(name, append(args, "--pidfile", "--no-chdir", "-vconsole:emer", "-vsyslog:off")...)
		cmd.Env = append(os.Environ(), "OVS_LOGDIR=/run/openvswitch", "OVS_DBDIR=/run/openvswitch")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		require.NoError(t, cmd.Start())
		daemons[name] = cmd
		require.Eventually(t, func() bool { return exec.Command("ovs-appctl", "-t", name, "version").Run() == nil }, time.Minute, 10*time.Millisecond)
	}
	start("ovsdb-server", "/run/openvswitch/conf.db", "--remote=punix:/run/openvswitch/db.sock")
	run(t, "ovs-vsctl", "--no-wait", "init")
	start("ovs-vswitchd", "unix:/run/openvswitch/db.sock", "--disable-system")
	run(t, "ovs-vsctl", "--timeout=30", "add-br", "ovsbr0", "--", "set", "Bridge", "ovsbr0", "datapath_type=netdev")
	run(t, "ip", "link", "set", "ovsbr0", "up")
	return stop
}

func ovsPorts(t testing.TB) []string {
	t.Helper()
	return strings.Fields(run(t, "ovs-vsctl", "list-ports", "ovsbr0"))
}

func column(t testing.TB, table, name, column string) string {
	t.Helper()
	return strings.TrimSpace(run(t, "ovs-vsctl", "get", table, name, column))
}

func TestOVS(t *testing.T) {
	wire(t, "v0", "v1")
	stop := openvswitch(t)
	profiles(t, ovsProfile)
	requireRefused(t, askAs(t, bob, "fabric"), "access denied by acl file")
	requireRefused(t, ask(t, "fabric"), "MAC")
	requireRefused(t, ask(t, "lost/52:54:00:00:00:09"), "no such Open vSwitch bridge")
	require.Empty(t, ovsPorts(t))

	a := ask(t, "fabric/52:54:00:00:00:01", "--queues=2")
	d, err := client.Inspect(requireGranted(t, a))
	require.NoError(t, err)
	require.Equal(t, []string{d.Name}, ovsPorts(t))
	require.Equal(t, "100", column(t, "Port", d.Name, "tag"))
	require.Equal(t, `{libvirt-direct=helper, libvirt-direct-uid="64321"}`, column(t, "Port", d.Name, "external_ids"))
	require.Equal(t, `{transient="true"}`, column(t, "Port", d.Name, "other_config"))
	require.Equal(t, `{attached-mac="52:54:00:00:00:01", iface-status=active}`, column(t, "Interface", d.Name, "external_ids"))
	require.Equal(t, "20000", column(t, "Interface", d.Name, "ingress_policing_rate"))
	require.Equal(t, "[]", column(t, "Interface", d.Name, "error"))
	require.Contains(t, run(t, "ip", "link", "show", d.Name), ",UP,")

	b := ask(t, "trunk")
	e, err := client.Inspect(requireGranted(t, b))
	require.NoError(t, err)
	require.Equal(t, "native-untagged", column(t, "Port", e.Name, "vlan_mode"))
	require.Equal(t, "[5, 6, 7]", column(t, "Port", e.Name, "trunks"))

	// The next call finds what a guest that was killed has left.
	run(t, "ovs-vsctl", "add-port", "ovsbr0", "not-ours")
	a.close()
	require.Eventually(t, func() bool { return exec.Command("ip", "link", "show", d.Name).Run() != nil }, time.Minute, 5*time.Millisecond)
	require.Len(t, ovsPorts(t), 3)
	c := ask(t, "fabric/52:54:00:00:00:01")
	f, err := client.Inspect(requireGranted(t, c))
	require.NoError(t, err)
	require.ElementsMatch(t, []string{e.Name, f.Name, "not-ours"}, ovsPorts(t))

	c.close()
	b.close()
	requireNothingLeft(t)
	stop("ovs-vswitchd")
	requireRefused(t, ask(t, "fabric/52:54:00:00:00:01"), "ovs-vswitchd has not made the port: is it running?")
	require.Equal(t, []string{"not-ours"}, ovsPorts(t), "and nothing is left")
	stop("ovsdb-server")
	requireRefused(t, ask(t, "fabric/52:54:00:00:00:01"), "the database of Open vSwitch cannot be reached")
	requireNothingLeft(t)
}

// Killed at whatever point, the helper leaves no more than a row that the next call
// removes.
func TestOVSKilledAtEverySystemCall(t *testing.T) {
	openvswitch(t)
	profiles(t, ovsProfile)
	addUser(t)
	killed := killAtCalls(t, "fabric/52:54:00:00:00:01", 4, "connect", "sendmsg", "read", "ioctl", "pwrite64", "sendto", "setresuid")
	require.GreaterOrEqual(t, killed, 12, "strace did not kill what it was told to")
	t.Logf("killed %d times, %d rows left", killed, len(ovsPorts(t)))
	requireNothingLeft(t)
	d, err := client.Inspect(requireGranted(t, ask(t, "fabric/52:54:00:00:00:01")))
	require.NoError(t, err)
	require.Equal(t, []string{d.Name}, ovsPorts(t))
}

// Guests' firmware asks for a lease through Open vSwitch: by QEMU's helper=, and by the
// launcher where QEMU may not fork.
func TestOVSGuests(t *testing.T) {
	openvswitch(t)
	profiles(t, ovsProfile+"[open]\nkind = ovs\nbridge = ovsbr0\nallow = uid:64321\n")
	wait := lease(t, "ovsbr0", "10.57.0.1/24", "10.57.0.10", "10.57.0.200")
	for _, args := range [][]string{
		qemuArgs("-netdev", "bridge,id=n0,br=open/"+guestMAC+",helper="+helper, "-device", "virtio-net-pci,netdev=n0,bootindex=1,mac="+guestMAC),
		launch(t, append([]string{"--net", "open,mac=52:54:00:77:77:02", "--"}, qemuArgs("-sandbox", sandbox,
			"-netdev", "tap,id=n0,fd={fd:open}", "-device", "virtio-net-pci,netdev=n0,bootindex=1,mac={mac:open}")...)...),
	} {
		cmd := asAlice(t, args...)
		if strings.Contains(strings.Join(args, " "), "sandbox") {
			wait("52:54:00:77:77:02")
		} else {
			wait(guestMAC)
		}
		kill9(t, cmd)
	}
}

// The helper finds the database where root's file says. OVS_RUNDIR is the caller's.
func TestOVSSocketElsewhere(t *testing.T) {
	wire(t, "v0", "v1")
	openvswitch(t)
	folder := t.TempDir()
	socket := filepath.Join(folder, "db.sock")
	require.NoError(t, os.Chmod(folder, 0o755))
	require.NoError(t, os.Rename("/run/openvswitch/db.sock", "/run/openvswitch/other.sock"))
	require.NoError(t, os.Symlink("/run/openvswitch/other.sock", socket))
	t.Setenv("OVS_RUNDIR", folder)
	profiles(t, ovsProfile)
	requireRefused(t, ask(t, "fabric/52:54:00:00:00:01"), "the database of Open vSwitch cannot be reached at /run/openvswitch/db.sock: no such file or directory; ovs-socket in /etc/libvirt-direct/helper.conf says where it is")
	requireNothingLeft(t)
	profiles(t, "ovs-socket = "+socket+"\n"+ovsProfile)
	requireGranted(t, ask(t, "fabric/52:54:00:00:00:01"))
}
