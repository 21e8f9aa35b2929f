package main

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// needed is what vdpd does all its life: it opens packet sockets when an
// uplink's interface appears, and sends rtnetlink messages to other processes.
const needed = 1<<unix.CAP_NET_RAW | 1<<unix.CAP_NET_ADMIN

// dropPrivileges gives up all capabilities but those needed, on every thread
// and for good. Files stay within reach as far as their owner, root, has it.
func dropPrivileges() error {
	all := func(what string, trap, a1, a2, a3, a4 uintptr) error {
		_, _, errno := syscall.AllThreadsSyscall6(trap, a1, a2, a3, a4, 0, 0)
		if errno == unix.ENOTSUP {
			return errors.New("drop capabilities: vdpd must be built with CGO_ENABLED=0")
		}
		if errno != 0 {
			return fmt.Errorf("%s: %w", what, errno)
		}
		return nil
	}
	if err := all("set no_new_privs", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0); err != nil {
		return err
	}
	if err := all("clear ambient capabilities", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0); err != nil {
		return err
	}
	for c := uintptr(0); ; c++ {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // past the kernel's last
		}
		if err != nil {
			return fmt.Errorf("read bounding set: %w", err)
		}
		if has == 0 || needed>>c&1 != 0 {
			continue
		}
		// Without CAP_SETPCAP the set stays; nothing can be gained from it,
		// for there is no_new_privs and no program is executed.
		if err := all("drop from the bounding set", unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0, 0); err != nil && !errors.Is(err, unix.EPERM) {
			return err
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	permitted := data[0].Permitted & needed
	data = [2]unix.CapUserData{{Effective: permitted, Permitted: permitted}}
	return all("drop capabilities", unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0, 0)
}
