//go:build integration

package fault

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// errnos are what each system call can fail with where the hook makes it. EMFILE, ENFILE
// and ENOMEM are the host's state and not the hook's; EROFS and EIO are a /run or /sys that
// has gone bad. ENOENT is only where another process can have removed the file, or its
// folder, meanwhile.
//
// What is not there: EINTR and EAGAIN of what waits for nobody, EPIPE of standard error,
// which ends a program by its signal.
//
// A call that cannot fail has an empty list, and is a place to be killed at all the same.
func errnos(c call) ([]unix.Errno, error) {
	creates := c.Args[2]&unix.O_CREAT != 0
	switch c.Name {
	case "openat":
		e := []unix.Errno{unix.ENOENT, unix.EACCES, unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EIO}
		if creates {
			e = append(e, unix.ENOSPC, unix.EROFS)
		}
		if strings.HasPrefix(c.Site, "journal.osFiles.Read ") { // a journal goes only under the lock that is held
			e = e[1:]
		}
		return e, nil
	case "read", "getdents64", "readlinkat":
		return []unix.Errno{unix.EIO, unix.ENOMEM}, nil
	case "write":
		if c.Args[0] <= 2 { // a pipe
			return []unix.Errno{unix.EIO}, nil
		}
		return []unix.Errno{unix.ENOSPC, unix.EIO, unix.EACCES}, nil
	case "fsync":
		return []unix.Errno{unix.ENOSPC, unix.EIO, unix.EROFS}, nil
	case "renameat":
		return []unix.Errno{unix.ENOSPC, unix.EIO, unix.EROFS, unix.EACCES}, nil
	case "unlinkat":
		return []unix.Errno{unix.EIO, unix.EROFS, unix.EBUSY}, nil
	case "mkdirat":
		return []unix.Errno{unix.ENOSPC, unix.EIO, unix.EROFS, unix.EACCES}, nil
	case "fstat", "newfstatat":
		return []unix.Errno{unix.EIO, unix.ENOMEM, unix.EACCES}, nil
	case "close":
		return []unix.Errno{unix.EIO, unix.ENOSPC}, nil
	case "socket":
		return []unix.Errno{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.EACCES}, nil
	case "bind", "getsockname":
		return []unix.Errno{unix.ENOMEM, unix.ENOBUFS}, nil
	case "setsockopt":
		return []unix.Errno{unix.ENOPROTOOPT, unix.ENOMEM}, nil
	case "connect":
		return []unix.Errno{unix.ECONNREFUSED, unix.EACCES, unix.EAGAIN}, nil
	case "sendto":
		return []unix.Errno{unix.ENOBUFS, unix.EINTR, unix.ENOMEM}, nil
	case "recvfrom":
		e := []unix.Errno{unix.ENOBUFS, unix.EINTR, unix.ENOMEM}
		if c.Args[3]&unix.MSG_DONTWAIT != 0 {
			e = append(e, unix.EAGAIN)
		} // else it goes to the poller, which the kernel tells once of an answer
		return e, nil
	case "poll":
		return []unix.Errno{unix.EINTR, unix.ENOMEM}, nil
	case "fcntl":
		if c.Args[1] == unix.F_OFD_SETLK {
			return []unix.Errno{unix.ENOLCK, unix.EAGAIN, unix.EACCES, unix.EINTR, unix.ENOMEM}, nil
		}
		return nil, nil // F_GETFL and F_SETFL of a descriptor that is open
	case "ioctl":
		return []unix.Errno{unix.EPERM, unix.ENOTTY, unix.ENOMEM}, nil
	case "epoll_ctl":
		return []unix.Errno{unix.ENOMEM, unix.ENOSPC}, nil
	case "clock_gettime", "geteuid", "getpid", "getppid", "exit_group":
		return nil, nil
	case "getrandom":
		return nil, nil // crypto/rand ends the program where it fails; it does not, once seeded
	}
	return nil, fmt.Errorf("which errors has %s, at %s?", c.Name, c.Site)
}

// skipped are the system calls of the Go runtime for itself, whether it makes them on its
// own stacks or in the middle of one of our functions (to start a thread, to grow the heap).
// Most cannot fail, and where one does, the runtime ends the program with status 2 before
// any code of ours could see it. What our code asks for through package os or the poller
// (openat, epoll_ctl) is not among them, though calls of the same name may be.
var skipped = map[string]string{
	"arch_prctl":        "threads: their own memory",
	"clone":             "threads; there is no going on without",
	"clock_gettime":     "time, where the vDSO has no clock",
	"close":             "the file with the size of huge pages, at the beginning",
	"epoll_create1":     "the poller's beginning; there is no going on without",
	"epoll_ctl":         "the poller's beginning; likewise",
	"eventfd2":          "the poller's beginning; likewise",
	"epoll_pwait":       "the poller",
	"exit":              "threads: their end",
	"exit_group":        "the end",
	"fcntl":             "whether descriptors 0 to 2 are open, at the beginning",
	"futex":             "threads: waiting for each other",
	"getpid":            "threads: pre-emption",
	"getrandom":         "seeds, at the beginning",
	"gettid":            "threads",
	"madvise":           "memory: advice",
	"mmap":              "memory; there is no going on without",
	"munmap":            "memory",
	"nanosleep":         "threads: the scheduler's own",
	"openat":            "the size of huge pages, at the beginning",
	"prctl":             "memory: names of mappings",
	"prlimit64":         "package os: the limit of open files, at the beginning",
	"read":              "the poller being woken; the size of huge pages",
	"restart_syscall":   "a call that a stop has interrupted",
	"rt_sigaction":      "signals",
	"rt_sigprocmask":    "signals",
	"rt_sigreturn":      "signals",
	"sched_getaffinity": "the number of processors",
	"sched_yield":       "threads",
	"sigaltstack":       "signals",
	"tgkill":            "threads: pre-emption",
	"uname":             "package poll: the kernel's release",
	"write":             "the poller waking",
}

func callName(nr uint64) string {
	if name, ok := names[nr]; ok {
		return name
	}
	return fmt.Sprint("system call ", nr)
}

// A fault is what is done to one call.
type fault struct {
	Call  call
	Errno unix.Errno // 0: the program is killed
	// Stays: all later calls of that name fail as well, until the program ends.
	Stays bool
}

// stays reports whether an error is one that, once there, stays for a while: a file system
// that is full or has gone bad, a limit.
func stays(e unix.Errno) bool {
	return slices.Contains([]unix.Errno{unix.ENOSPC, unix.EROFS, unix.EMFILE, unix.ENOBUFS, unix.EIO}, e)
}

func (f fault) String() string {
	what := "killed"
	if f.Errno != 0 {
		what = unix.ErrnoName(f.Errno)
	}
	if f.Stays {
		what += " from now on"
	}
	innermost, _, _ := strings.Cut(f.Call.Site, " < ")
	return fmt.Sprintf("%s at %s #%d of %s", what, f.Call.Name, f.Call.Nth, innermost)
}

// faults are all that is done to the calls of one run: at each site's first, second and
// last call each error, once and from then on, and a kill.
func faults(calls []call) (all []fault, sites int, err error) {
	last := map[string]int{}
	for _, c := range calls {
		if c.Runtime == "" {
			last[c.key()] = c.Nth
		}
	}
	for _, c := range calls {
		if c.Runtime != "" || c.Nth > 2 && c.Nth != last[c.key()] {
			continue
		}
		e, err := errnos(c)
		if err != nil {
			return nil, 0, err
		}
		for _, errno := range append(slices.Clone(e), 0) {
			all = append(all, fault{c, errno, false})
			if stays(errno) {
				all = append(all, fault{c, errno, true})
			}
		}
	}
	return all, len(last), nil
}
