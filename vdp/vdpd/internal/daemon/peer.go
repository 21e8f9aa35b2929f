package daemon

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"libvirt-direct/vdp/control"
)

// allowed checks who is at the other end, and returns its process id. The socket's mode lets no other in;
// this holds where the mode was changed, or the socket is not yet chmodded.
func (s *controlSocket) allowed(c *net.UnixConn) (pid int32, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var (
		cred   *unix.Ucred
		groups []uint32
	)
	cerr := raw.Control(func(fd uintptr) {
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			groups, err = peerGroups(int(fd))
		}
	})
	if err := cmp.Or(cerr, err); err != nil {
		return 0, err
	}
	if cred.Uid == 0 || s.gid >= 0 && slices.Contains(append(groups, cred.Gid), uint32(s.gid)) {
		return cred.Pid, nil
	}
	return cred.Pid, fmt.Errorf("process %d of user %d: %w", cred.Pid, cred.Uid, control.ErrPermission)
}

// peerGroups returns the supplementary groups that the peer of a unix socket
// had when it connected (SO_PEERGROUPS, Linux 4.13), which x/sys does not read.
func peerGroups(fd int) ([]uint32, error) {
	for n := 64; ; {
		groups := make([]uint32, n)
		size := uint32(4 * n)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == unix.ERANGE && int(size/4) > n:
			n = int(size / 4)
		case errno != 0:
			return nil, errno
		default:
			return groups[:size/4], nil
		}
	}
}
