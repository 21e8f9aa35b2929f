//go:build integration

package main

import (
	"fmt"
	"libvirt-direct/helper/internal/registry"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// No grant without its line in the log, none with two; and no caller who makes the helper wait.

const logged = guests + "max-per-user = 64\n" + taps + "max-per-user = 64\n" + `[lan]
kind = macvtap
lower = v0
allow = uid:64321 uid:64322
mac = 52:54:00:*
max-per-user = 64
`

// inOwnDev runs f with a /dev and, if it has a log, a log of its own.
func inOwnDev(t *testing.T, withLog bool, f func(t *testing.T, log *logSocket)) {
	t.Helper()
	fabric(t)
	wire(t, "v0", "v1")
	profiles(t, logged)
	acl(t, "allow br0\n")
	t.Run("own /dev", func(t *testing.T) { f(t, ownDev(t, withLog)) }) // whose goroutine may lose its thread
}

var loggedRequests = []string{"guests/" + alicesMAC, "taps", "br0", "lan/" + alicesMAC}

// requireOneLine says that a request and the log agree.
func requireOneLine(t testing.TB, a answer, lines []string, what string) {
	t.Helper()
	require.LessOrEqual(t, len(lines), 1, what)
	if a.granted() {
		require.NotEmpty(t, a.files, what)
		require.Len(t, lines, 1, "%s: granted without a line", what)
		require.Contains(t, lines[0], ": granted uid=64321", what)
	} else {
		require.Empty(t, a.files, what)
	}
}

// crowded leaves the helper free descriptors below its limit, apart from the first four.
func crowded(free int) call {
	const limit = 64
	return call{uid: alice, wrap: []string{"prlimit", fmt.Sprintf("--nofile=%d:%d", limit, limit)}, before: func(cmd *exec.Cmd) {
		null, err := os.Open("/dev/null")
		if err != nil {
			panic(err)
		}
		for range limit - 4 - free {
			cmd.ExtraFiles = append(cmd.ExtraFiles, null)
		}
	}}
}

func TestCallerGetsADeviceBehindTheLogsBack(t *testing.T) {
	inOwnDev(t, true, func(t *testing.T, log *logSocket) {
		for _, name := range loggedRequests {
			for free := range 14 {
				c := crowded(free)
				c.args = []string{"--use-vnet", "--fd=%FD", "--br=" + name}
				a := c.do(t)
				requireOneLine(t, a, log.lines(), fmt.Sprint(name, " with ", free, " descriptors: ", a.stderr))
				a.close()
			}
		}
	})
}

func TestCallerClosesWhatTheLogNeeds(t *testing.T) {
	inOwnDev(t, true, func(t *testing.T, log *logSocket) {
		for _, name := range loggedRequests {
			for _, closed := range []string{"0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-", "0<&- 2>&-"} {
				a := call{uid: alice, wrap: []string{"/bin/sh", "-c", `exec "$0" "$@" ` + closed}, args: []string{"--fd=%FD", "--br=" + name}}.do(t)
				lines := log.lines()
				require.Len(t, lines, 1, closed)
				requireOneLine(t, a, lines, closed)
				a.close()
			}
		}
	})
}

func TestCallerLimitsWhatTheLogNeeds(t *testing.T) {
	inOwnDev(t, true, func(t *testing.T, log *logSocket) {
		for _, name := range loggedRequests {
			for _, limit := range []string{"--fsize=0", "--memlock=0", "--sigpending=0", "--nproc=1", "--locks=0", "--nofile=4", "--nofile=8", "--nofile=12"} {
				a := call{uid: alice, wrap: []string{"prlimit", limit, "--"}, args: []string{"--fd=%FD", "--br=" + name}}.do(t)
				requireOneLine(t, a, log.lines(), name+" "+limit+": "+a.stderr)
				a.close()
			}
		}
	})
}

// A user can fill the log as well as anybody.
func TestCallerFillsTheLog(t *testing.T) {
	inOwnDev(t, true, func(t *testing.T, log *logSocket) {
		for _, name := range loggedRequests {
			log.fill(t)
			start := time.Now()
			a := ask(t, name)
			require.Less(t, time.Since(start), 6*time.Second)
			require.Equal(t, 1, a.code, "%s: granted without a line", name)
			require.Empty(t, a.files)
			requireNoPorts(t, "br0")
			for _, l := range log.lines() {
				require.Equal(t, "noise", l)
			}
		}
		granted(t, alice, "guests/"+alicesMAC)
		require.Len(t, log.lines(), 1)
	})
}

// While the helper waits for room in the log it is the caller's process, with his device in it.
func TestCallerTakesTheDescriptorBeforeTheLineIsWritten(t *testing.T) {
	inOwnDev(t, true, func(t *testing.T, log *logSocket) {
		for _, name := range loggedRequests {
			log.fill(t)
			ours, theirs := socketpairAs(t, alice)
			cmd, stdout, stderr := call{uid: alice, args: []string{"--use-vnet", "--fd=%FD", "--br=" + name}}.command(t, theirs)
			require.NoError(t, cmd.Start())
			theirs.Close()
			stolen, tries := "", 0
			require.NoError(t, as(alice, func() error {
				pid, err := unix.PidfdOpen(cmd.Process.Pid, 0)
				if err != nil {
					return err
				}
				defer unix.Close(pid)
				for ended := []unix.PollFd{{Fd: int32(pid), Events: unix.POLLIN}}; ; tries++ {
					if n, _ := unix.Poll(ended, 1); n == 1 {
						return nil
					}
					for fd := 3; fd < 24; fd++ {
						if copied, err := unix.PidfdGetfd(pid, fd, 0); err == nil {
							stolen = fmt.Sprint("descriptor ", fd)
							unix.Close(copied)
						}
						if f, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/%d", cmd.Process.Pid, fd), os.O_RDWR, 0); err == nil {
							stolen = fmt.Sprint("file ", fd)
							f.Close()
						}
					}
					if err := unix.PtraceAttach(cmd.Process.Pid); err == nil {
						_ = unix.PtraceDetach(cmd.Process.Pid)
						stolen = "the process"
					}
				}
			}))
			a := finish(t, cmd, ours, stdout, stderr)
			unix.Close(ours)
			require.Empty(t, stolen)
			require.NotZero(t, tries)
			require.False(t, a.granted(), "without a line")
			log.lines()
		}
	})
}

func TestHostWithoutALogGrantsUnseen(t *testing.T) {
	for name, kmsg := range map[string]uint64{"none": 0, "full": unix.Mkdev(1, 7)} {
		t.Run(name, func(t *testing.T) {
			inOwnDev(t, false, func(t *testing.T, _ *logSocket) {
				if kmsg != 0 {
					require.NoError(t, unix.Mknod("/dev/kmsg", unix.S_IFCHR|0o644, int(kmsg)))
				}
				require.NoError(t, os.RemoveAll(registry.Dir))
				for _, name := range loggedRequests {
					a := ask(t, name)
					require.Equal(t, 1, a.code, "%s: granted without a line", name)
					require.Empty(t, a.files)
					requireNoPorts(t, "br0")
				}
				if kmsg == 0 {
					require.NoDirExists(t, registry.Dir, "something was done before there was a log")
				}
			})
		})
	}
}

// Nobody is there to take the descriptor, or the request is denied.
func TestCallerHasARequestLoggedTwice(t *testing.T) {
	inOwnDev(t, true, func(t *testing.T, log *logSocket) {
		for _, name := range loggedRequests {
			ours, theirs := socketpairAs(t, alice)
			unix.Close(ours)
			a := call{uid: alice, socket: theirs, args: []string{"--fd=%FD", "--br=" + name}}.do(t)
			require.Equal(t, 1, a.code)
			require.LessOrEqual(t, len(log.lines()), 1, name)

			a = askAs(t, stranger, name)
			lines := log.lines()
			require.Len(t, lines, 1, name)
			if name != "br0" {
				require.Equal(t, 1, a.code)
				require.Contains(t, lines[0], ": denied uid=64399")
			}
			a.close()
		}
	})
}

// No room is left for the answer.
func TestCallerBlocksTheAnswer(t *testing.T) {
	inOwnDev(t, true, func(t *testing.T, log *logSocket) {
		for _, name := range loggedRequests {
			ours, theirs := socketpairAs(t, alice)
			require.NoError(t, unix.SetNonblock(ours, true))
			raw, err := theirs.SyscallConn()
			require.NoError(t, err)
			require.NoError(t, raw.Control(func(fd uintptr) {
				for {
					if err = unix.Sendto(int(fd), make([]byte, 4096), unix.MSG_DONTWAIT, nil); err != nil {
						return
					}
				}
			}))
			require.Equal(t, unix.EAGAIN, err)
			start := time.Now()
			a := call{uid: alice, socket: theirs, args: []string{"--fd=%FD", "--br=" + name}}.do(t)
			require.Less(t, time.Since(start), 6*time.Second)
			require.Equal(t, 1, a.code)
			lines := log.lines()
			require.LessOrEqual(t, len(lines), 1)
			for _, l := range lines {
				require.NotContains(t, l, ": granted", "nobody could get it")
			}
			theirs.Close()
			unix.Close(ours)
			requireNoPorts(t, "br0")
		}
	})
}

// blockedPipe is a pipe without room, and one without a reader's end in the child.
func blockedPipe(t testing.TB) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() { r.Close(); w.Close() })
	fd := int(w.Fd()) // which makes it block
	require.NoError(t, unix.SetNonblock(fd, true))
	for {
		if _, err := unix.Write(fd, make([]byte, 4096)); err == unix.EAGAIN {
			break
		} else if err != unix.EINTR {
			require.NoError(t, err)
		}
	}
	for {
		if _, err := unix.Write(fd, []byte{0}); err == unix.EAGAIN {
			break
		}
	}
	require.NoError(t, unix.SetNonblock(fd, false))
	return w
}

func TestCallerKeepsThePrivilegedHelperWaiting(t *testing.T) {
	fabric(t)
	profiles(t, guests)
	nothing := "Uid=64321,64321,64321,64321 CapInh=0000000000000000 CapPrm=0000000000000000 CapEff=0000000000000000 CapAmb=0000000000000000"
	for _, args := range []string{"--fd=%FD --br=nothing", "--fd=%FD --br=guests", "--help", "--fd=%FD --br=guests/" + alicesMAC + " --queues=65", "--fd=77 --br=br0", "--list"} {
		t.Run(args, func(t *testing.T) {
			ours, theirs := socketpairAs(t, alice)
			defer unix.Close(ours)
			defer theirs.Close()
			pipe := blockedPipe(t)
			cmd, _, _ := call{uid: alice, args: strings.Fields(args)}.command(t, theirs)
			cmd.Stdout, cmd.Stderr = pipe, pipe
			start := time.Now()
			require.NoError(t, cmd.Start())
			ended := make(chan struct{})
			go func() { cmd.Wait(); close(ended) }()
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for waiting := true; waiting; {
				select {
				case <-ended:
					waiting = false
				case <-tick.C:
					b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", cmd.Process.Pid))
					f := strings.Fields(string(b))
					if len(f) > 2 && f[0] == fmt.Sprint(unix.SYS_WRITE) && (f[1] == "0x2" || f[1] == "0x1") {
						require.Subset(t, []string{nothing}, credentials(cmd.Process.Pid), "while it waits")
					}
				}
			}
			require.Less(t, time.Since(start), 7*time.Second)
		})
	}
}

// A name and an address of the caller's are no line of the log.
func TestCallerForgesALine(t *testing.T) {
	inOwnDev(t, true, func(t *testing.T, log *logSocket) {
		for _, name := range []string{"x\n<86>qemu-direct-helper[1]: granted uid=64321", "guests\" kind=\"bridge", "guests/52:54:00:00:00:0a\x00", strings.Repeat("x", 5000)} {
			a := call{uid: alice, args: []string{"--fd=%FD", "--br=" + strings.ReplaceAll(name, "\x00", "\\0")}}.do(t)
			require.Equal(t, 1, a.code)
			lines := log.lines()
			require.LessOrEqual(t, len(lines), 1)
			for _, l := range lines {
				require.NotContains(t, strings.TrimSuffix(l, "\n"), "\n")
				require.NotContains(t, l, ": granted")
				require.NotContains(t, l, `kind="bridge"`)
			}
		}
	})
}

// The line also names the caller's program, which he calls what he likes.
func TestCallerForgesALineByHisProgramsName(t *testing.T) {
	inOwnDev(t, true, func(t *testing.T, log *logSocket) {
		dir, err := os.MkdirTemp(filepath.Dir(helper), "x")
		require.NoError(t, err)
		require.NoError(t, os.Chmod(dir, 0o755))
		program := filepath.Join(dir, "x\" reason=\"\nqemu-direct-helper[1]: granted uid=0")
		run(t, "cp", fmt.Sprintf("/proc/%d/exe", os.Getpid()), program)
		cmd := userCommand(t, alice, nil, program, helper, "--fd=3", "--br=nothing")
		cmd.Env = append(os.Environ(), roleVar+"=ask")
		require.NoError(t, cmd.Run())
		lines := log.lines()
		require.Len(t, lines, 1)
		require.Contains(t, lines[0], `/x\x22 reason=\x22\x0aqemu-direct-helper[1]: granted uid=0" profile="nothing"`)
	})
}

// Who is refused has to be told so only if he listens.
func TestCallerDoesNotReadTheRefusal(t *testing.T) {
	for _, args := range []string{"--help", "--fd=%FD --br=nothing", "--fd=77 --br=br0"} {
		ours, theirs := socketpairAs(t, alice)
		cmd, _, _ := call{uid: alice, args: strings.Fields(args)}.command(t, theirs)
		cmd.Stderr = blockedPipe(t)
		start := time.Now()
		_ = cmd.Run()
		require.Less(t, time.Since(start), 4*time.Second, args)
		require.Equal(t, 1, cmd.ProcessState.ExitCode(), args)
		theirs.Close()
		unix.Close(ours)
	}
}

// A limit that would end the helper without a word, or let it wait for ever, is no means against it.
func TestCallerLimitsWhatTheHelperNeeds(t *testing.T) {
	wire(t, "v0", "v1")
	profiles(t, lan)
	for _, limit := range []string{"--fsize=0", "--fsize=63", "--nproc=1", "--nproc=0", "--sigpending=0", "--nofile=8:4096"} {
		t.Run(limit, func(t *testing.T) {
			require.NoError(t, os.RemoveAll(registry.Dir))
			start := time.Now()
			a := call{uid: alice, wrap: []string{"prlimit", limit, "--"}, args: []string{"--use-vnet", "--fd=%FD", "--br=lan"}}.do(t)
			require.Less(t, time.Since(start), 4*time.Second)
			if a.code != 0 { // root of a container may not lift limits
				requireRefused(t, a, errLimits.Error())
			}
		})
	}
}

// Who has too few descriptors for a device changes nothing.
func TestCallerWithoutDescriptorsChangesSomething(t *testing.T) {
	inOwnDev(t, true, func(t *testing.T, log *logSocket) {
		for _, name := range []string{"guests/" + alicesMAC, "taps", "lan/" + alicesMAC} {
			for free := range 20 {
				require.NoError(t, os.RemoveAll(registry.Dir))
				c := crowded(free)
				c.args = []string{"--use-vnet", "--fd=%FD", "--br=" + name}
				a := c.do(t)
				log.lines()
				if a.granted() {
					a.close()
				} else {
					require.NoDirExists(t, registry.Dir, "%s with %d descriptors: %s", name, free, a.stderr)
				}
			}
		}
	})
}
