//go:build integration

package main

import (
	"fmt"
	"os"
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
	// For each TAP device that the registry has from another test the helper would make one ioctl(2) more.
	require.NoError(t, os.RemoveAll(registry.Dir))
	const (
		reduced = "Uid=64321,0,0,0 CapInh=0000000000000000 CapPrm=0000000000201000 CapEff=0000000000000000 CapAmb=0000000000000000"
		making  = "Uid=64321,0,0,0 CapInh=0000000000000000 CapPrm=0000000000001000 CapEff=0000000000001000 CapAmb=0000000000000000"
		nothing = "Uid=64321,64321,64321,64321 CapInh=0000000000000000 CapPrm=0000000000000000 CapEff=0000000000000000 CapAmb=0000000000000000"
	)
	unshare := strings.Replace(reduced, "CapEff=0000000000000000", "CapEff=0000000000200000", 1)
	for _, stage := range []struct {
		name, syscall string
		when          int
		want          []string
	}{
		{"reading the command line and the socket", "getsockopt", 1, []string{reduced}},
		{"reading the configuration", "fstat", 3, []string{reduced}},
		{"claiming", "pwrite64", 1, []string{reduced}},
		{"making the namespace", "unshare", 1, []string{unshare, reduced}},
		{"opening the node", "ioctl", 2, []string{making, reduced}},
		{"sending", "sendmsg", 1, []string{nothing}},
	} {
		t.Run(stage.name, func(t *testing.T) {
			got, stderr := held(t, stage.syscall, stage.when)
			require.NotNil(t, got, "the helper ended without having been held: %q", stderr)
			require.Equal(t, slices.Sorted(slices.Values(stage.want)), got)
		})
	}
}

// held starts the helper, waits until strace holds it at a system call, for which time that is made, and returns the
// credentials of its threads; nil and what it has printed if it ends before.
func held(t *testing.T, name string, when int) (found []string, printed string) {
	t.Helper()
	ours, theirs := socketpairAs(t, alice)
	defer unix.Close(ours)
	cmd := strace(t, "-f", "-o", "/dev/null", "-u", "helperalice", "-e", "trace="+name,
		"-e", fmt.Sprintf("inject=%s:delay_enter=2000000:when=%d", name, when), helper, "--use-vnet", "--fd=3", "--br=lan")
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
		"unshare": unix.SYS_UNSHARE, "ioctl": unix.SYS_IOCTL, "sendmsg": unix.SYS_SENDMSG}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
	if err != nil {
		return false
	}
	f := strings.Fields(string(b))
	if name == "ioctl" && (len(f) < 3 || f[2] != fmt.Sprintf("%#x", unix.TUNSETIFF)) {
		return false
	}
	return f[0] == strconv.Itoa(numbers[name])
}

// addUser gives alice a name and a group.
func addUser(t testing.TB) {
	t.Helper()
	addUserAs(t, "helperalice", alice)
}

// addUserAs does so for any user, in the test's own /etc.
func addUserAs(t testing.TB, name string, uid int) {
	t.Helper()
	for file, line := range map[string]string{
		"/etc/passwd": fmt.Sprintf("%s:x:%d:%d::/tmp:/bin/sh\n", name, uid, uid),
		"/etc/group":  fmt.Sprintf("%s:x:%d:\n", name, uid),
	} {
		old, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(file, append(slices.Clone(old), line...), 0o644))
		t.Cleanup(func() { os.WriteFile(file, old, 0o644) })
	}
}

func TestProfileByName(t *testing.T) {
	wire(t, "v0", "v1")
	profiles(t, strings.Replace(lanProfile, "uid:64321", "user:nobody-here user:helperalice", 1))
	requireRefused(t, ask(t, "lan"), "access denied by acl file")
	addUser(t)
	requireGranted(t, ask(t, "lan"))
	requireRefused(t, askAs(t, bob, "lan"), "access denied by acl file")
}
