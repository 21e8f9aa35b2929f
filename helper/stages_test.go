//go:build integration

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/registry"
)

// credentials are the distinct Uid and Cap lines of a process's threads.
func credentials(pid int) []string {
	var out []string
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		var s []string
		for line := range strings.Lines(string(b)) {
			k, v, _ := strings.Cut(strings.TrimSpace(line), ":")
			switch k {
			case "Uid", "CapInh", "CapPrm", "CapEff", "CapAmb":
				s = append(s, k+"="+strings.Join(strings.Fields(v), ","))
			}
		}
		out = append(out, strings.Join(s, " "))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// TestCapabilitiesAtEachStage holds the helper at the entry of a system call that only one stage makes, and looks at
// all its threads.
func TestCapabilitiesAtEachStage(t *testing.T) {
	wire(t, "v0", "v1")
	profiles(t, lanProfile)
	addUser(t)
	const (
		reduced = "Uid=64321,0,0,0 CapInh=0000000000000000 CapPrm=0000000000201000 CapEff=0000000000000000 CapAmb=0000000000000000"
		nothing = "Uid=64321,64321,64321,64321 CapInh=0000000000000000 CapPrm=0000000000000000 CapEff=0000000000000000 CapAmb=0000000000000000"
	)
	lan := []string{"--use-vnet", "--fd=3", "--br=lan"}
	unshare := strings.Replace(reduced, "CapEff=0000000000000000", "CapEff=0000000000200000", 1)
	netlink := strings.Replace(reduced, "CapEff=0000000000000000", "CapEff=0000000000001000", 1)
	for _, stage := range []struct {
		name, syscall string
		when          int
		want          []string
		wrap, args    []string
	}{
		{"reading the command line and the socket", "getsockopt", 1, []string{reduced}, nil, lan},
		{"reading the configuration", "fstat", 3, []string{reduced}, nil, lan},
		{"claiming", "pwrite64", 1, []string{reduced}, nil, lan},
		{"making the namespace", "unshare", 1, []string{unshare, reduced}, nil, lan},
		{"making the device", "sendto", 2, []string{netlink, reduced}, nil, lan},
		{"making the TAP device", "ioctl", 3, []string{netlink, reduced}, nil, lan},
		{"looking at the caller for the log", "readlinkat", 1, []string{nothing}, nil, lan},
		{"sending", "sendmsg", 1, []string{nothing}, nil, lan},
		{"refusing", "write", 1, []string{nothing}, nil, []string{"--help"}},
		// With which the kernel would leave the capabilities to whom sheds root (capabilities(7)).
		{"sending with the caller's securebits", "sendmsg", 1, []string{nothing}, []string{"setpriv", "--securebits", "+no_setuid_fixup"}, lan},
	} {
		t.Run(stage.name, func(t *testing.T) {
			// For each claim of another test the helper would make system calls more.
			require.NoError(t, os.RemoveAll(registry.Dir))
			got, stderr := held(t, stage.wrap, stage.syscall, stage.when, stage.args...)
			require.NotNil(t, got, "the helper ended without having been held: %q", stderr)
			require.Equal(t, slices.Sorted(slices.Values(stage.want)), got)
		})
	}
}

// held starts the helper, waits until strace holds it at a system call, for which time that is made, and returns the
// credentials of its threads; nil and what it has printed if it ends before.
func held(t *testing.T, wrap []string, name string, when int, args ...string) (found []string, printed string) {
	t.Helper()
	ours, theirs := socketpairAs(t, alice)
	defer unix.Close(ours)
	cmd := strace(t, append([]string{"-f", "-o", "/dev/null", "-u", "helperalice", "-e", "trace=" + name,
		"-e", fmt.Sprintf("inject=%s:delay_enter=2000000:when=%d", name, when), helper}, args...)...)
	if wrap != nil { // which executes strace
		path, err := exec.LookPath(wrap[0])
		require.NoError(t, err)
		cmd.Path, cmd.Args = path, append(slices.Clone(wrap), cmd.Args...)
	}
	cmd.ExtraFiles = []*os.File{theirs}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Start())
	theirs.Close()
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	pid := 0
	defer func() {
		// The helper first: without strace it would go on, and take its place within the profile's limits from the next.
		// strace sees to the ends of its threads only when the delay is over: then it, whereupon the kernel does.
		gone := func() {}
		if pid > 0 {
			gone = kill(t, pid)
		}
		cmd.Process.Kill()
		<-ended
		gone()
	}()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for pid == 0 {
		select {
		case <-ended:
			return nil, stderr.String()
		case <-tick.C:
		}
		kids, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", cmd.Process.Pid, cmd.Process.Pid))
		if kid, err := strconv.Atoi(strings.TrimSpace(string(kids))); err == nil && inSyscall(kid, name) {
			pid = kid
		}
	}
	return credentials(pid), ""
}

// kill kills a process that is not a child of the test's, and returns a function that waits for its end.
func kill(t *testing.T, pid int) (gone func()) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	require.NoError(t, err)
	require.NoError(t, unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0))
	return func() {
		t.Helper()
		defer unix.Close(fd)
		for {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10000)
			if err == unix.EINTR {
				continue
			}
			require.NoError(t, err)
			require.Equal(t, 1, n, "the helper has been killed and has not ended")
			return
		}
	}
}

// inSyscall reports whether the main thread stands at the entry of the system call.
func inSyscall(pid int, name string) bool {
	numbers := map[string]int{"getsockopt": unix.SYS_GETSOCKOPT, "fstat": unix.SYS_FSTAT, "pwrite64": unix.SYS_PWRITE64,
		"unshare": unix.SYS_UNSHARE, "sendto": unix.SYS_SENDTO, "readlinkat": unix.SYS_READLINKAT, "ioctl": unix.SYS_IOCTL, "write": unix.SYS_WRITE, "sendmsg": unix.SYS_SENDMSG}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
	if err != nil {
		return false
	}
	f := strings.Fields(string(b))
	if name == "ioctl" && (len(f) < 3 || f[2] != fmt.Sprintf("%#x", unix.TUNSETIFF)) {
		return false
	}
	if name == "sendto" && (len(f) < 4 || f[3] != "0x24") { // the length of a request to name a namespace
		return false
	}
	return f[0] == strconv.Itoa(numbers[name])
}

func TestProfileByName(t *testing.T) {
	wire(t, "v0", "v1")
	profiles(t, strings.Replace(lanProfile, "uid:64321", "user:nobody-here user:helperalice", 1))
	requireRefused(t, ask(t, "lan"), "access denied by acl file")
	addUser(t)
	requireGranted(t, ask(t, "lan"))
	requireRefused(t, askAs(t, bob, "lan"), "access denied by acl file")
}
