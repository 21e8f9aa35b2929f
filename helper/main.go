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
	"syscall"

	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/audit"
	"libvirt-direct/helper/internal/cmdline"
	"libvirt-direct/helper/internal/fdpass"
	"libvirt-direct/helper/internal/policy"
	"libvirt-direct/helper/internal/privilege"
)

const program = "qemu-direct-helper"

func init() {
	// What is effective, the file system uid and the network namespace are a thread's own.
	runtime.LockOSThread()
}

func main() {
	// With everything that execve(2) gave.
	err := endBySignals()
	if err == nil {
		err = cleanEnvironment()
	}
	if err == nil {
		err = raiseLimits()
	}
	if err == nil {
		err = arm()
	}
	if err == nil {
		err = privilege.Reduce()
	}
	if err != nil {
		end(err)
	}
	req, err := cmdline.Parse(os.Args[min(1, len(os.Args)):])
	if err != nil {
		fail(err)
	}
	s := session{request: req, caller: caller()}
	if s.home, s.netns, err = surroundings(); err != nil {
		fail(err)
	}
	if req.List {
		s.list()
		unix.Exit(0)
	}
	if s.peer, err = fdpass.Check(req.FD, s.caller.UID); err != nil {
		fail(errors.New("--fd=" + strconv.Itoa(req.FD) + ": " + err.Error()))
	}
	// Before anything is changed: no grant without its line.
	log, err := audit.Open()
	if err != nil {
		fail(err)
	}
	var d device
	refused := reserve(req.Queues)
	if refused == nil {
		d, refused = s.grant()
	}
	// Nothing from here on needs a privilege, and some of it waits.
	if err := privilege.Drop(); err != nil {
		fail(err)
	}
	if refused == nil && d.last != nil {
		refused = d.last()
	}
	if err := log.Write(s.entry(d, refused)); err != nil && refused == nil {
		fail(err)
	}
	if refused != nil {
		fail(s.explain(refused))
	}
	if err := fdpass.Send(req.FD, d.fds); err != nil {
		fail(errors.New("failed to write fd to unix socket: " + err.Error()))
	}
	unix.Exit(0)
}

// fail gives up every privilege and ends the program.
func fail(err error) {
	_ = privilege.Drop() // what cannot be dropped ends in a moment
	end(err)
}

// end ends the program with the one line that says why.
func end(err error) {
	say(program + ": " + err.Error() + "\n")
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
	}{{unix.RLIMIT_FSIZE, 1 << 20}, {unix.RLIMIT_NPROC, 0}, {unix.RLIMIT_SIGPENDING, 64}} {
		lim := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
		if err := unix.Setrlimit(r.resource, &lim); err == nil {
			continue
		}
		if err := unix.Getrlimit(r.resource, &lim); err != nil || lim.Cur < r.need {
			return errLimits // root of a container may not lift limits
		}
	}
	// A call with too few descriptors is refused, before anything is changed or with all of it undone.
	const descriptors = 4096
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err == nil && lim.Cur < descriptors {
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: descriptors, Max: max(lim.Max, descriptors)})
	}
	return nil
}

// reserve makes sure that there are descriptors enough for a device of so many queues.
func reserve(queues int) error {
	const own = 16 // log, netlink, claims, parameters
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	for range own + queues {
		fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return err
		}
		fds = append(fds, fd)
	}
	return nil
}

// Errors of the surroundings.
var (
	errNamespace = errors.New("the network namespace belongs to another user namespace")
	errLimits    = errors.New("a resource limit is too low (ulimit -f, -i)")
)

// surroundings opens the network namespace and returns its inode number too. It refuses one that is not the host's, or the
// container's, to configure.
func surroundings() (int, uint64, error) {
	net, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, 0, errors.New("/proc is needed: " + err.Error())
	}
	owner, err := unix.IoctlRetInt(net, unix.NS_GET_USERNS)
	if err != nil {
		return -1, 0, errNamespace
	}
	defer unix.Close(owner)
	var self, theirs, ours unix.Stat_t
	if unix.Fstat(net, &self) != nil || unix.Fstat(owner, &theirs) != nil {
		return -1, 0, errNamespace
	}
	if err := unix.Stat("/proc/thread-self/ns/user", &ours); err != nil || ours.Ino != theirs.Ino || ours.Dev != theirs.Dev {
		return -1, 0, errNamespace
	}
	return net, self.Ino, nil
}

// entry is the outcome as far as it got.
func (s *session) entry(d device, err error) audit.Entry {
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
	if s.peer.PID > 0 { // as the caller: /proc tells him what it tells us
		b := make([]byte, 256)
		if n, err := unix.Readlink("/proc/"+strconv.Itoa(int(s.peer.PID))+"/exe", b); err == nil {
			e.Exe = string(b[:n])
		}
	}
	return e
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
