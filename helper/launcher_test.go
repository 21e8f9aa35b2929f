//go:build integration

package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// libvirt-direct run, the launcher, is tested here because it needs the helper as it is installed.

const nics = lanProfile + `queues = 4
[guests]
kind = bridge
bridge = br0
allow = uid:64321
`

func launcher(t testing.TB) string {
	t.Helper()
	path := filepath.Join(filepath.Dir(helper), "libvirt-direct")
	if _, err := os.Stat(path); err != nil {
		cmd := exec.Command("go", "build", "-o", path, "../cmd/libvirt-direct")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	return path
}

func launch(t testing.TB, args ...string) []string {
	t.Helper()
	return append([]string{launcher(t), "run", "--helper", helper}, args...)
}

// devices are the files a process has open on TAP and macvtap nodes.
func devices(t testing.TB, pid int) (out []string) {
	t.Helper()
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	require.NoError(t, err)
	for _, l := range links {
		to, err := os.Readlink(l)
		require.NoError(t, err)
		if strings.HasPrefix(to, "/dev/tap") || strings.HasSuffix(to, "/tun") {
			out = append(out, to)
		}
	}
	return out
}

const sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

// The firmware of a guest whose QEMU may not even fork asks for a lease.
func TestLauncherSandbox(t *testing.T) {
	wire(t, "v0", "v1")
	bridge(t, "br0")
	profiles(t, nics)
	macvtapLease := lease(t, "v1", "10.58.0.1/24", "10.58.0.10", "10.58.0.200")
	bridgeLease := lease(t, "br0", "10.59.0.1/24", "10.59.0.10", "10.59.0.200")
	for _, test := range []struct {
		net, mac string
		wait     func(string)
	}{
		{"lan", strings.Fields(call{uid: alice, args: []string{"--list"}}.do(t).stdout)[3], macvtapLease},
		{"lan,mac=" + guestMAC + ",name=n", guestMAC, macvtapLease},
		{"guests,mac=" + guestMAC + ",name=n", guestMAC, bridgeLease},
	} {
		t.Run(test.net, func(t *testing.T) {
			name := "lan"
			if strings.Contains(test.net, "name=n") {
				name = "n"
			}
			cmd := asAlice(t, launch(t, append([]string{"--net", test.net, "--"}, qemuArgs("-sandbox", sandbox,
				"-netdev", "tap,id=n0,fd={fd:"+name+"}", "-device", "virtio-net-pci,netdev=n0,bootindex=1,mac={mac:"+name+"}")...)...)...)
			test.wait(test.mac)
			require.Len(t, devices(t, cmd.Process.Pid), 1)
			kill9(t, cmd)
		})
	}
}

// A program other than QEMU gets the descriptor and the address as its own options say them.
func TestLauncherOtherProgram(t *testing.T) {
	wire(t, "v0", "v1")
	bridge(t, "br0")
	profiles(t, nics)
	program := filepath.Join(filepath.Dir(helper), "program")
	run(t, "cp", fmt.Sprintf("/proc/%d/exe", os.Getpid()), program)
	cmd := exec.Command(launcher(t), launch(t, "--net", "lan,mac=52:54:00:aa:bb:cc", "--", program, "--net", "fd=[{fd:lan}],mac={mac:lan}")[1:]...)
	cmd.Env = append(os.Environ(), roleVar+"=receive")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: alice, Gid: alice}, Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	ready := make([]byte, len("ready\n"))
	_, err = io.ReadFull(out, ready)
	require.NoError(t, err)
	require.Equal(t, "ready\n", string(ready))
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", cmd.Process.Pid))
	require.NoError(t, err)
	require.Len(t, devices(t, cmd.Process.Pid), 1, "%v", fds)

	frame, err := hex.DecodeString("525400aabbcc" + "525400000001" + "88b5")
	require.NoError(t, err)
	far := listener(t, "v1")
	l, err := net.InterfaceByName("v1")
	require.NoError(t, err)
	require.NoError(t, unix.Sendto(far, append(frame, []byte("<hello>"+strings.Repeat(".", 50))...), 0, &unix.SockaddrLinklayer{Ifindex: l.Index}))
	got, err := io.ReadAll(out)
	require.NoError(t, err)
	require.Equal(t, "52:54:00:aa:bb:cc from 52:54:00:00:00:01: <hello>\n", string(got))
	require.NoError(t, cmd.Wait())
	requireNothingLeft(t)
}

// What the helper refuses is one line and status 1; the program is not run.
func TestLauncherRefused(t *testing.T) {
	wire(t, "v0", "v1")
	bridge(t, "br0")
	profiles(t, nics+"[others]\nkind = macvtap\nlower = v0\nallow = uid:64322\n")
	for _, test := range []struct{ net, want string }{
		{"others", "access denied by acl file: others: the profile is not for you"},
		{"nothing", "access denied by acl file: nothing"},
		{"lan,mac=52:55:00:00:00:01", "the profile does not allow this MAC address"},
		{"lan,queues=5", "at most 4 queues"},
		{"guests", "on a bridge the guest's MAC is the caller's choice"},
	} {
		name, _, _ := strings.Cut(test.net, ",")
		args := launch(t, "--net", test.net, "--", "echo", "{fd:"+name+"}", "{mac:"+name+"}")
		cmd := exec.Command(args[0], args[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: alice, Gid: alice}}
		var stdout, stderr strings.Builder
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		_ = cmd.Run()
		require.Equal(t, 1, cmd.ProcessState.ExitCode(), "%s: %s", test.net, stderr.String())
		require.Empty(t, stdout.String(), test.net)
		require.Contains(t, stderr.String(), test.want)
		require.Equal(t, 1, strings.Count(stderr.String(), "\n"), "one line: %q", stderr.String())
		requireNothingLeft(t)
	}
}
