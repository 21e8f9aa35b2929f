//go:build integration

package fault

import "golang.org/x/sys/unix"

// registers are a stopped thread's.
type registers unix.PtraceRegs

// traced is why this machine's programs cannot be traced; "" where they can.
const traced = ""

func (r *registers) call() (nr uint64, args [6]uint64) {
	return r.Orig_rax, [6]uint64{r.Rdi, r.Rsi, r.Rdx, r.R10, r.R8, r.R9}
}

// stack is where the instruction lies, and the stack's end and innermost frame.
func (r *registers) stack() (ip, sp, frame uint64) { return r.Rip, r.Rsp, r.Rbp }

// drop makes the kernel do nothing.
func (r *registers) drop() { r.Orig_rax = ^uint64(0) }

// fail sets what the call returns.
func (r *registers) fail(e unix.Errno) { r.Rax = uint64(-int64(e)) }

var names = map[uint64]string{
	unix.SYS_READ: "read", unix.SYS_WRITE: "write", unix.SYS_CLOSE: "close", unix.SYS_FSTAT: "fstat", unix.SYS_POLL: "poll",
	unix.SYS_MMAP: "mmap", unix.SYS_MUNMAP: "munmap", unix.SYS_RT_SIGACTION: "rt_sigaction", unix.SYS_RT_SIGPROCMASK: "rt_sigprocmask",
	unix.SYS_RT_SIGRETURN: "rt_sigreturn", unix.SYS_IOCTL: "ioctl", unix.SYS_SCHED_YIELD: "sched_yield", unix.SYS_MADVISE: "madvise",
	unix.SYS_NANOSLEEP: "nanosleep", unix.SYS_GETPID: "getpid", unix.SYS_GETPPID: "getppid", unix.SYS_SOCKET: "socket", unix.SYS_CONNECT: "connect",
	unix.SYS_SENDTO: "sendto", unix.SYS_RECVFROM: "recvfrom", unix.SYS_BIND: "bind", unix.SYS_GETSOCKNAME: "getsockname",
	unix.SYS_SETSOCKOPT: "setsockopt", unix.SYS_CLONE: "clone", unix.SYS_EXIT: "exit", unix.SYS_FCNTL: "fcntl", unix.SYS_FSYNC: "fsync",
	unix.SYS_GETEUID: "geteuid", unix.SYS_SIGALTSTACK: "sigaltstack", unix.SYS_PRCTL: "prctl", unix.SYS_ARCH_PRCTL: "arch_prctl",
	unix.SYS_GETTID: "gettid", unix.SYS_FUTEX: "futex", unix.SYS_SCHED_GETAFFINITY: "sched_getaffinity", unix.SYS_GETDENTS64: "getdents64",
	unix.SYS_RESTART_SYSCALL: "restart_syscall", unix.SYS_CLOCK_GETTIME: "clock_gettime", unix.SYS_EXIT_GROUP: "exit_group",
	unix.SYS_EPOLL_CTL: "epoll_ctl", unix.SYS_TGKILL: "tgkill", unix.SYS_OPENAT: "openat", unix.SYS_MKDIRAT: "mkdirat",
	unix.SYS_NEWFSTATAT: "newfstatat", unix.SYS_UNLINKAT: "unlinkat", unix.SYS_RENAMEAT: "renameat", unix.SYS_READLINKAT: "readlinkat",
	unix.SYS_EPOLL_PWAIT: "epoll_pwait", unix.SYS_EVENTFD2: "eventfd2", unix.SYS_EPOLL_CREATE1: "epoll_create1",
	unix.SYS_PRLIMIT64: "prlimit64", unix.SYS_GETRANDOM: "getrandom", unix.SYS_UNAME: "uname",
}
