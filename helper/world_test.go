//go:build integration || vm

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The tests have a network namespace, an /etc and a /run of their own, so that the helper under test can be the very
// program that is installed, with the paths compiled into it.
const inWorld = "QEMU_DIRECT_HELPER_WORLD"

const (
	alice = 64321 // unprivileged, unknown to /etc/passwd until a test adds it
	bob   = 64322
)

// helper is the setuid program under test, plain the same without the bit.
var helper string

func TestMain(m *testing.M) {
	if os.Getenv(inWorld) == "" {
		os.Exit(enterWorld())
	}
	if role := os.Getenv(roleVar); role != "" {
		os.Exit(play(role))
	}
	dir, err := buildWorld()
	if err != nil {
		fmt.Fprintln(os.Stderr, "test world:", err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// beforeWorld is what needs the machine's own network.
var beforeWorld = func() error { return nil }

func enterWorld() int {
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			fmt.Fprintln(os.Stderr, "these tests need root")
			return 1
		}
		fmt.Println("skipped: these tests need root")
		return 0
	}
	if err := beforeWorld(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inWorld+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return exit.ExitCode()
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func buildWorld() (dir string, err error) {
	dir, err = os.MkdirTemp("", "qemu-direct-helper")
	if err != nil {
		return "", err
	}
	script := `set -e
		modprobe -qa tun || true # where it is a module, no udev may have made its node
		mount --make-rprivate /
		chmod 755 $D
		mkdir $D/etc $D/bin
		mount -t tmpfs -o mode=755 tmpfs $D/etc
		cp -a /etc/. $D/etc/
		rm -rf $D/etc/qemu $D/etc/libvirt-direct
		mkdir $D/etc/qemu $D/etc/libvirt-direct
		echo 0123456789abcdef0123456789abcdef >$D/etc/machine-id
		mount --bind $D/etc /etc
		mount -t tmpfs -o mode=755 tmpfs /run
		mount -t sysfs sysfs /sys
		mknod -m 666 $D/tun c 10 200; mount --bind $D/tun /dev/net/tun
		ip link set lo up
		CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o $D/bin/plain .
		install -m 4755 -o root -g root $D/bin/plain $D/bin/qemu-direct-helper
		umount -R $D/etc 2>/dev/null || true`
	cmd := exec.Command("/bin/sh", "-c", script)
	// The test machine's PATH has no Go.
	cmd.Env = append(os.Environ(), "D="+dir, "PATH="+os.Getenv("PATH")+":/usr/local/go/bin:/usr/lib/go/bin")
	if out, err := cmd.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("%w\n%s", err, out)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return dir, err
	}
	if fs.Flags&unix.ST_NOSUID != 0 {
		return dir, errors.New(dir + " is mounted nosuid; set TMPDIR")
	}
	helper = filepath.Join(dir, "bin/qemu-direct-helper")
	return dir, nil
}

// run is a command that has to succeed.
func run(t testing.TB, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	require.NoError(t, err, "%v: %s", args, out)
	return string(out)
}

// strace is a command that runs another one under strace(1).
func strace(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath("strace")
	require.NoError(t, err, "this test stops the helper at its system calls: install strace")
	return exec.Command(path, args...)
}

// wire makes a lower device and what is at the other end of its cable.
func wire(t testing.TB, lower, peer string) {
	t.Helper()
	run(t, "ip", "link", "add", lower, "type", "veth", "peer", "name", peer)
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", lower).Run() })
	for _, l := range []string{lower, peer} {
		run(t, "ip", "link", "set", l, "addrgenmode", "none", "up")
	}
}

func bridge(t testing.TB, name string) {
	t.Helper()
	run(t, "ip", "link", "add", name, "address", "52:54:00:00:00:01", "type", "bridge")
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", name).Run() })
	run(t, "ip", "link", "set", name, "addrgenmode", "none", "mtu", "1450", "up")
}

func profiles(t testing.TB, text string) {
	t.Helper()
	put(t, "/etc/libvirt-direct/helper.conf", text)
}

func acl(t testing.TB, text string) {
	t.Helper()
	put(t, "/etc/qemu/bridge.conf", text)
}

func put(t testing.TB, path, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	t.Cleanup(func() { os.Remove(path) })
}

// call is one execution of the helper by an unprivileged user.
type call struct {
	uid    uint32
	groups []uint32
	args   []string // after the program's name; %FD stands for the number of the socket
	env    []string
	wrap   []string // a command that executes the rest of its arguments
	socket *os.File // instead of one end of a fresh pair
	before func(*exec.Cmd)
}

type answer struct {
	files  []*os.File
	octets []byte
	code   int // -1: ended by a signal
	stderr string
	stdout string
}

func (a answer) granted() bool { return a.code == 0 }

// socketpairAs makes a pair whose SO_PEERCRED is uid's.
func socketpairAs(t testing.TB, uid uint32) (ours int, theirs *os.File) {
	t.Helper()
	return socketpairOf(t, uid, unix.SOCK_STREAM)
}

func socketpairOf(t testing.TB, uid uint32, kind int) (ours int, theirs *os.File) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	set := func(euid uintptr) {
		keep := ^uintptr(0)
		_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, euid, keep)
		require.Zero(t, errno)
	}
	set(uintptr(uid))
	pair, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	set(0)
	require.NoError(t, err)
	return pair[0], os.NewFile(uintptr(pair[1]), "socket")
}

func (c call) do(t testing.TB) answer {
	t.Helper()
	ours, theirs := socketpairAs(t, c.uid)
	defer unix.Close(ours)
	defer theirs.Close()
	cmd, stdout, stderr := c.command(t, theirs)
	err := cmd.Start()
	theirs.Close()
	require.NoError(t, err)
	return finish(t, cmd, ours, stdout, stderr)
}

func (c call) command(t testing.TB, theirs *os.File) (*exec.Cmd, *bytes.Buffer, *bytes.Buffer) {
	var args []string
	for _, a := range c.args {
		args = append(args, strings.ReplaceAll(a, "%FD", "3"))
	}
	argv := append(append([]string{}, c.wrap...), helper)
	argv = append(argv, args...)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, c.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: c.uid, Gid: c.uid, Groups: c.groups}}
	cmd.ExtraFiles = []*os.File{theirs}
	if c.socket != nil {
		cmd.ExtraFiles[0] = c.socket
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if c.before != nil {
		c.before(cmd)
	}
	return cmd, &stdout, &stderr
}

func finish(t testing.TB, cmd *exec.Cmd, ours int, stdout, stderr *bytes.Buffer) answer {
	t.Helper()
	var a answer
	_ = cmd.Wait()
	a.code, a.stdout, a.stderr = cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()
	b, oob := make([]byte, 16), make([]byte, 1024)
	n, oobn, _, _, err := unix.Recvmsg(ours, b, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err == nil {
		a.octets = b[:n]
		msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
		require.NoError(t, err)
		for i := range msgs {
			fds, err := unix.ParseUnixRights(&msgs[i])
			require.NoError(t, err)
			for _, fd := range fds {
				require.NoError(t, unix.SetNonblock(fd, true))
				a.files = append(a.files, os.NewFile(uintptr(fd), "tap"))
			}
		}
	}
	t.Cleanup(a.close)
	return a
}

func (a answer) close() {
	for _, f := range a.files {
		f.Close()
	}
}

// ask is the ordinary call: alice, one queue, QEMU's form.
func ask(t testing.TB, name string, more ...string) answer {
	t.Helper()
	return askAs(t, alice, name, more...)
}

func askAs(t testing.TB, uid uint32, name string, more ...string) answer {
	t.Helper()
	return call{uid: uid, args: append([]string{"--use-vnet", "--fd=%FD", "--br=" + name}, more...)}.do(t)
}

func requireGranted(t testing.TB, a answer) *os.File {
	t.Helper()
	require.True(t, a.granted(), "exit %d: %s", a.code, a.stderr)
	require.NotEmpty(t, a.files, "exit 0 without a descriptor")
	require.Equal(t, []byte{0}, a.octets)
	return a.files[0]
}

func requireRefused(t testing.TB, a answer, text string) {
	t.Helper()
	require.Equal(t, 1, a.code, "stderr: %s", a.stderr)
	require.Empty(t, a.files, "a descriptor came with a refusal")
	require.Empty(t, a.octets)
	require.Contains(t, a.stderr, text)
	require.Equal(t, 1, strings.Count(a.stderr, "\n"), "one line: %q", a.stderr)
}

// leftovers are the devices, namespaces and nodes of the helper's that exist in this network namespace or on the host.
func leftovers(t testing.TB) []string {
	t.Helper()
	var out []string
	links, err := net.Interfaces()
	require.NoError(t, err)
	for _, l := range links {
		if l.Index >= 1<<30 {
			out = append(out, l.Name)
		}
	}
	for line := range strings.Lines(run(t, "ip", "netns", "list-id")) {
		var id int
		if _, err := fmt.Sscanf(line, "nsid %d", &id); err == nil && id >= 1<<30 {
			out = append(out, fmt.Sprint("namespace ", id))
		}
	}
	nodes, err := filepath.Glob("/dev/tap*")
	require.NoError(t, err)
	for _, n := range nodes {
		// Others on this host count their devices from 1.
		if i, err := strconv.Atoi(strings.TrimPrefix(n, "/dev/tap")); err == nil && i >= 1<<30 {
			out = append(out, n)
		}
	}
	return out
}

// requireNothingLeft waits for the kernel to take down what nobody holds.
func requireNothingLeft(t testing.TB) {
	t.Helper()
	var left []string
	require.Eventually(t, func() bool { left = leftovers(t); return len(left) == 0 }, 10*time.Second, 10*time.Millisecond,
		"left over: %v", &left)
}
