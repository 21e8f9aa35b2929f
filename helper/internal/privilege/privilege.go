// Package privilege takes a setuid-root process down to what it needs, in steps that cannot be taken back.
//
//	start    what execve(2) gave: every capability, on every thread
//	Reduce   all threads: permitted {CAP_NET_ADMIN, CAP_SYS_ADMIN}, effective and inheritable empty
//	With     the calling thread: one of the two effective, for the system calls of one function literal
//	Drop     all threads: no capability, and the caller's user id for good
//
// Each call of With stands around system calls and nothing else; TestOnePlaceForEachRight lists them.
//
// Between Reduce and Drop the effective user id stays 0, without any capability over files: it opens what belongs to
// root (the configuration, the macvtap's node, which has mode 0600), and nothing else that is closed to the caller.
package privilege

import (
	"errors"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Reasons for which the process cannot work, matched with errors.Is.
var (
	ErrNoNewPrivs = errors.New("no_new_privs is set, so the setuid bit does nothing (QEMU -sandbox?); start QEMU with `libvirt-direct run` or pass it a descriptor")
	ErrNotSetuid  = errors.New("not installed setuid root, or called in a user namespace without the host's root")
	ErrRemain     = errors.New("privileges remain after they were dropped")
)

// Caps is a set of capabilities, one bit each (capabilities(7)).
type Caps uint64

// The capabilities that are used.
const (
	NetAdmin Caps = 1 << unix.CAP_NET_ADMIN // rtnetlink, TUNSETIFF, /proc/sys/net
	SysAdmin Caps = 1 << unix.CAP_SYS_ADMIN // unshare(CLONE_NEWNET)
)

// Reduce leaves the process with NetAdmin and SysAdmin permitted and nothing effective. It has to run before anything
// of the caller's is looked at.
func Reduce() error {
	if unix.Geteuid() != 0 {
		if n, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err == nil && n == 1 {
			return ErrNoNewPrivs
		}
		return ErrNotSetuid
	}
	if gid := unix.Getgid(); unix.Getegid() != gid { // somebody set the setgid bit too
		if err := syscall.Setresgid(gid, gid, gid); err != nil {
			return err
		}
	}
	return allThreads(NetAdmin|SysAdmin, 0)
}

// With runs f with c effective on the calling thread, which has to be locked to its goroutine.
func With(c Caps, f func() error) error {
	if err := thread(NetAdmin|SysAdmin, c); err != nil {
		return err
	}
	err := f()
	if e := thread(NetAdmin|SysAdmin, 0); e != nil {
		return e
	}
	return err
}

// Drop gives up everything on all threads, for good.
func Drop() error {
	uid := unix.Getuid()
	if uid == 0 {
		return allThreads(0, 0)
	}
	// Leaving user id 0 entirely takes the capabilities along (capabilities(7), "Effect of user ID changes").
	if err := syscall.Setresuid(uid, uid, uid); err != nil {
		return err
	}
	r, e, s := unix.Getresuid()
	if r != uid || e != uid || s != uid {
		return ErrRemain
	}
	left, err := permitted()
	if err != nil {
		return err
	}
	if left != 0 { // SECBIT_NO_SETUID_FIXUP was inherited
		return allThreads(0, 0)
	}
	return nil
}

// AsCaller runs f with the caller's file system user id on the calling thread, so that f opens what the caller may
// open. Group ids are the caller's all the time.
func AsCaller(f func()) error {
	if err := setFSUID(unix.Getuid()); err != nil {
		return err
	}
	f()
	return setFSUID(unix.Geteuid())
}

// setFSUID makes up for setfsuid(2), which does not tell whether it did anything.
func setFSUID(uid int) error {
	_, _ = unix.SetfsuidRetUid(uid)
	if now, _ := unix.SetfsuidRetUid(-1); now != uid {
		return ErrRemain
	}
	return nil
}

// sets makes the arguments of capset(2); pid 0 in the header means the calling thread.
func sets(p, e Caps) (unix.CapUserHeader, [2]unix.CapUserData) {
	var d [2]unix.CapUserData
	for i := range d {
		d[i].Permitted = uint32(p >> (32 * i))
		d[i].Effective = uint32(e >> (32 * i))
	}
	return unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, d
}

func thread(p, e Caps) error {
	h, d := sets(p, e)
	return unix.Capset(&h, &d[0])
}

func allThreads(p, e Caps) error {
	h, d := sets(p, e)
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&h)), uintptr(unsafe.Pointer(&d[0])), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func permitted() (Caps, error) {
	h, d := sets(0, 0)
	if err := unix.Capget(&h, &d[0]); err != nil {
		return 0, err
	}
	return Caps(d[0].Permitted) | Caps(d[1].Permitted)<<32, nil
}
