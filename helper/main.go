// Nothing here runs in parallel: the runtime need not read the cgroup files and the mount table to count processors.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

package main

import (
	"errors"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/audit"
	"libvirt-direct/helper/internal/cmdline"
	"libvirt-direct/helper/internal/fdpass"
	"libvirt-direct/helper/internal/policy"
	"libvirt-direct/helper/internal/privilege"
)

const program = "qemu-direct-helper"

// deadline is how long a call may take. QEMU's main loop stands still meanwhile.
const deadline = 5 * time.Second

func init() {
	// What is effective, the file system uid and the network namespace are a thread's own.
	runtime.LockOSThread()
}

func main() {
	if err := cleanEnvironment(); err != nil {
		fail(err)
	}
	if err := raiseLimits(); err != nil {
		fail(err)
	}
	if err := privilege.Reduce(); err != nil {
		fail(err)
	}
	req, err := cmdline.Parse(os.Args[min(1, len(os.Args)):])
	if err != nil {
		fail(err)
	}
	if err := checkSurroundings(); err != nil {
		fail(err)
	}
	s := session{request: req, caller: caller()}
	if req.List {
		s.list()
		unix.Exit(0)
	}
	if s.peer, err = fdpass.Check(req.FD, s.caller.UID); err != nil {
		fail(errors.New("--fd=" + strconv.Itoa(req.FD) + ": " + err.Error()))
	}
	var once atomic.Bool // set by whoever decides over the exit status
	time.AfterFunc(deadline, func() {
		if once.CompareAndSwap(false, true) {
			fail(errors.New("took longer than 5 s, given up"))
		}
	})

	d, err := s.grant()
	s.audit(d, err)
	if err != nil {
		fail(s.explain(err))
	}
	if err := privilege.Drop(); err != nil {
		fail(err)
	}
	if !once.CompareAndSwap(false, true) {
		select {} // the deadline is ending the process
	}
	if err := fdpass.Send(req.FD, d.fds); err != nil {
		fail(errors.New("failed to write fd to unix socket: " + err.Error()))
	}
	unix.Exit(0)
}

// fail prints the one line that QEMU's user, or libvirt's, gets to see.
func fail(err error) {
	_, _ = unix.Write(2, []byte(program+": "+err.Error()+"\n"))
	unix.Exit(1)
}

func caller() policy.Caller {
	c := policy.Caller{UID: uint32(unix.Getuid()), GID: uint32(unix.Getgid())}
	groups, err := unix.Getgroups()
	if err != nil {
		return c // without its groups the caller is allowed less
	}
	for _, g := range groups {
		c.Groups = append(c.Groups, uint32(g))
	}
	return c
}

// secureTraceback is what the runtime puts into the environment of every setuid program.
const secureTraceback = "GOTRACEBACK=none"

// cleanEnvironment forgets the caller's environment. The Go runtime has then already acted on what it found in it, so
// where that was something for the runtime, the program starts again without.
func cleanEnvironment() error {
	env := syscall.Environ()
	syscall.Clearenv()
	unix.Umask(0o077)
	for _, e := range env {
		if strings.HasPrefix(e, "GO") && e != secureTraceback {
			return syscall.Exec("/proc/self/exe", os.Args, nil)
		}
	}
	return unix.Chdir("/")
}

// raiseLimits lifts those of the caller's limits that would end the program without a word: the file size, whose signal
// kills; the number of threads; and that of queued signals, without which the runtime waits for ever when it makes a
// system call on all threads.
func raiseLimits() error {
	if unix.Geteuid() != 0 {
		return nil // privilege.Reduce says what is the matter
	}
	for _, r := range [...]struct {
		resource int
		need     uint64
	}{{unix.RLIMIT_FSIZE, 1 << 20}, {unix.RLIMIT_NPROC, 0}, {unix.RLIMIT_SIGPENDING, 64}, {unix.RLIMIT_NOFILE, 16}} {
		var lim unix.Rlimit
		if err := unix.Getrlimit(r.resource, &lim); err != nil {
			return err
		}
		if r.resource == unix.RLIMIT_NOFILE && lim.Cur >= r.need {
			continue
		}
		lim = unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
		if r.resource == unix.RLIMIT_NOFILE {
			lim = unix.Rlimit{Cur: r.need, Max: r.need}
		}
		if err := unix.Setrlimit(r.resource, &lim); err == nil {
			continue
		}
		if err := unix.Getrlimit(r.resource, &lim); err != nil || lim.Cur < r.need {
			return errLimits // root of a container may not lift limits
		}
	}
	return nil
}

// Errors of the surroundings.
var (
	errNamespace = errors.New("the network namespace belongs to another user namespace")
	errLimits    = errors.New("a resource limit is too low (ulimit -f, -i, -n)")
)

// checkSurroundings refuses a network namespace that is not the host's, or the container's, to configure.
func checkSurroundings() error {
	net, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return errors.New("/proc is needed: " + err.Error())
	}
	defer unix.Close(net)
	owner, err := unix.IoctlRetInt(net, unix.NS_GET_USERNS)
	if err != nil {
		return errNamespace
	}
	defer unix.Close(owner)
	var theirs, ours unix.Stat_t
	if err := unix.Fstat(owner, &theirs); err != nil {
		return errNamespace
	}
	if err := unix.Stat("/proc/thread-self/ns/user", &ours); err != nil || ours.Ino != theirs.Ino || ours.Dev != theirs.Dev {
		return errNamespace
	}
	return nil
}

// audit logs the outcome as far as it got.
func (s *session) audit(d device, err error) {
	e := audit.Entry{
		Granted: err == nil, UID: s.caller.UID, PID: s.peer.PID, Name: s.request.Name,
		Kind: d.kind.String(), Lower: d.link, Device: d.name, Index: d.index,
	}
	if d.kind == 0 {
		e.Kind = ""
	}
	if d.hasMAC {
		e.MAC = d.mac.String()
	} else if s.request.HasMAC {
		e.MAC = s.request.MAC.String()
	}
	if err != nil {
		e.Reason = err.Error()
	}
	var exe string
	if s.peer.PID > 0 {
		// As the caller: /proc tells him what it tells us.
		_ = privilege.AsCaller(func() {
			b := make([]byte, 256)
			if n, err := unix.Readlink("/proc/"+strconv.Itoa(int(s.peer.PID))+"/exe", b); err == nil {
				exe = string(b[:n])
			}
		})
	}
	e.Exe = exe
	audit.Log(e)
}

// explain turns an error into the line for the user.
func (s *session) explain(err error) error {
	var denied *deniedError
	if errors.As(err, &denied) {
		// Scripts look for these words of qemu-bridge-helper's.
		return errors.New("access denied by acl file: " + s.request.Name + ": " + denied.err.Error())
	}
	return errors.New(s.request.Name + ": " + err.Error())
}
