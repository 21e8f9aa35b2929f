//go:build vm

package qbg

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/integration/host/hosttest"
	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
	"libvirt-direct/vdp/vdptest"
)

// A manager is a systemd as PID 1 of its own PID, mount and cgroup namespace. It has no
// units but those in its folder.
type manager struct {
	t   *testing.T
	pid string
}

// targets are what units depend on by default, here without what they want.
var targets = []string{"sysinit", "basic", "sockets", "shutdown", "network-pre", "test"}

func startManager(t *testing.T, units ...string) manager {
	t.Helper()
	dir := t.TempDir()
	for _, name := range targets {
		text := "[Unit]\nDescription=" + name + "\nDefaultDependencies=no\n"
		require.NoError(t, os.WriteFile(dir+"/"+name+".target", []byte(text), 0o644))
	}
	shell(t, "cp "+strings.Join(units, " ")+" "+dir)
	cmd := exec.Command("unshare", "--fork", "--kill-child", "--pid", "--mount", "--mount-proc", "--cgroup", "sh", "-c",
		`mountpoint -q /sys/fs/cgroup || mount -t cgroup2 cgroup2 /sys/fs/cgroup
		exec /lib/systemd/systemd --system --unit=test.target --log-target=kmsg --default-standard-output=kmsg`)
	cmd.Env = append(os.Environ(), "container=test", "SYSTEMD_UNIT_PATH="+dir)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(shell(t, "dmesg | tail -50"))
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	m := manager{t: t}
	hosttest.Eventually(t, time.Minute, "systemd", func() bool {
		out, _ := exec.Command("pgrep", "-P", strconv.Itoa(cmd.Process.Pid)).Output()
		m.pid = strings.TrimSpace(string(out))
		return m.pid != "" && m.active("test.target")
	})
	return m
}

// run runs a program inside.
func (m manager) run(args ...string) (string, error) {
	out, err := exec.Command("nsenter", append([]string{"-t", m.pid, "-m", "-p", "--"}, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (m manager) systemctl(args ...string) string {
	m.t.Helper()
	out, err := m.run(append([]string{"systemctl", "--no-pager"}, args...)...)
	require.NoError(m.t, err, "systemctl %v: %s", args, out)
	return out
}

func (m manager) active(unit string) bool {
	out, err := m.run("systemctl", "is-active", unit)
	return err == nil && out == "active"
}

// mainPID is a service's, as it is inside.
func (m manager) mainPID(unit string) string {
	m.t.Helper()
	return m.systemctl("show", "--property=MainPID", "--value", unit)
}

// requireSystemd wants the test machine, whose host has systemd by integration/deps.
func requireSystemd(t *testing.T) {
	t.Helper()
	requireMachine(t)
	require.FileExists(t, "/lib/systemd/systemd")
}

// vdpd's unit, unchanged, under systemd: in lldpad's place, in its sandbox, and without
// losing a VSI when it is restarted, killed, or stopped and started.
func TestSystemdUnit(t *testing.T) {
	requireSystemd(t)
	ctx := hosttest.Deadline(t, 4*time.Minute)
	shell(t, "modprobe tun")
	br := newTapBridge(t, "tapsd")
	br.set(vdp.Edition2012)
	shell(t, "ip link set tapsd up && install -D -m 755 "+program(t, "vdpd")+" /usr/sbin/vdpd && mkdir -p /etc/libvirt-direct /var/lib/lldpad")
	require.NoError(t, os.WriteFile("/etc/libvirt-direct/vdpd.toml", []byte("[[uplink]]\nname = \"tapsd\"\n"), 0o644))

	begin := time.Now()
	m := startManager(t, "../../packaging/systemd/vdpd.service", "/lib/systemd/system/lldpad.service", "/lib/systemd/system/lldpad.socket")
	t.Logf("systemd is up after %v", time.Since(begin))
	m.systemctl("start", "lldpad.service")
	require.True(t, m.active("lldpad.socket"))

	begin = time.Now()
	m.systemctl("start", "vdpd.service")
	t.Logf("systemctl start vdpd: %v", time.Since(begin))
	require.False(t, m.active("lldpad.service"), "two stations")
	require.False(t, m.active("lldpad.socket"), "it would start lldpad")

	pid := m.mainPID("vdpd.service")
	status, err := m.run("cat", "/proc/"+pid+"/status")
	require.NoError(t, err)
	const capabilities = "0000000000003000" // CAP_NET_ADMIN, CAP_NET_RAW
	for _, line := range []string{"CapBnd:\t" + capabilities, "CapEff:\t" + capabilities, "NoNewPrivs:\t1", "Seccomp:\t2"} {
		require.Contains(t, status, line)
	}
	out, err := m.run("nsenter", "-t", pid, "-m", "touch", "/etc/vdpd-was-here")
	require.Error(t, err)
	require.Contains(t, out, "Read-only file system")

	vdpd := control.NewClient("")
	established := func(when string) {
		t.Helper()
		hosttest.Eventually(t, time.Minute, "association "+when, func() bool {
			l, err := vdpd.Show(ctx, vsi.ID)
			return err == nil && l[0].State == "established"
		})
		require.Equal(t, vdp.Associate, br.mode(), when)
	}
	ready := func(when string) {
		t.Helper()
		hosttest.Eventually(t, time.Minute, "EVB "+when, func() bool { return vdpd.Ready(ctx, "tapsd") == nil })
	}
	ready("after the start")
	_, err = vdpd.Associate(ctx, "tapsd", vsi)
	require.NoError(t, err)
	established("after the start")

	for _, again := range []struct {
		how string
		do  func()
	}{
		{"restarted", func() { m.systemctl("restart", "vdpd.service") }},
		{"killed", func() { m.systemctl("kill", "--signal=KILL", "vdpd.service") }},
		{"stopped and started", func() { m.systemctl("stop", "vdpd.service"); m.systemctl("start", "vdpd.service") }},
	} {
		before := m.mainPID("vdpd.service")
		br.do(func(b *vdptest.Bridge) [][]byte { b.Log = nil; b.Restart(); return nil })
		begin := time.Now()
		again.do()
		hosttest.Eventually(t, time.Minute, "a new vdpd, "+again.how, func() bool {
			now := m.mainPID("vdpd.service")
			return now != before && now != "0" && m.active("vdpd.service")
		})
		established(again.how)
		t.Logf("%s: established again after %v", again.how, time.Since(begin))
		require.Equal(t, []vdp.Mode{vdp.Associate}, modes(br.log()), "requested again, and never taken back")
	}
	require.NoError(t, vdpd.DeAssociate(ctx, "tapsd", vsi.ID))
	require.Zero(t, br.mode())
	m.systemctl("stop", "vdpd.service")
	_, err = os.Stat("/run/lldpad.pid")
	require.ErrorIs(t, err, unix.ENOENT)
}

func shell(t *testing.T, command string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", command).CombinedOutput()
	require.NoError(t, err, "%s: %s", command, out)
	return string(out)
}
