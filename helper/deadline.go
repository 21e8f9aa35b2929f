package main

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// deadline is how long a call may take. QEMU's main loop stands still meanwhile.
const deadline = 5 * time.Second

// arm has the kernel kill the process when the time is up, wherever it then is: what waits has a shorter limit of its
// own, and a line that says so. A timer of Go's would need threads and descriptors, which the caller may have limited.
func arm() error {
	event := struct {
		value  uint64 // struct sigevent (sigevent(3type))
		signo  int32
		notify int32 // SIGEV_SIGNAL is 0
		_      [48]byte
	}{signo: int32(unix.SIGKILL)}
	var timer int32
	if _, _, errno := unix.Syscall(unix.SYS_TIMER_CREATE, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&event)), uintptr(unsafe.Pointer(&timer))); errno != 0 {
		return errno
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(deadline))}
	if _, _, errno := unix.Syscall6(unix.SYS_TIMER_SETTIME, uintptr(timer), 0, uintptr(unsafe.Pointer(&spec)), 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// endBySignals has the signals by which Go's runtime would tell what it was doing end the process instead: the caller may
// send them, and not read what is told.
func endBySignals() error {
	var end [4]uint64 // struct sigaction with SIG_DFL, as the kernel has it
	for _, s := range [...]unix.Signal{
		unix.SIGQUIT, unix.SIGILL, unix.SIGTRAP, unix.SIGABRT, unix.SIGBUS, unix.SIGFPE, unix.SIGSEGV, unix.SIGSTKFLT, unix.SIGSYS,
	} {
		if _, _, errno := unix.Syscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&end)), 0, 8, 0, 0); errno != 0 {
			return errno
		}
	}
	return nil
}

// say writes the one line that QEMU's user, or libvirt's, gets to see. It does not wait for somebody who does not read.
func say(line string) {
	room := []unix.PollFd{{Fd: 2, Events: unix.POLLOUT}}
	if n, err := unix.Poll(room, 0); err == nil && n == 1 && room[0].Revents&unix.POLLOUT != 0 {
		_, _ = unix.Write(2, []byte(line)) // a pipe that has room takes PIPE_BUF octets at once
	}
}
