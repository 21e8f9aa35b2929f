// Package fdpass checks the socket that the caller names, and sends descriptors over it.
package fdpass

import (
	"errors"

	"golang.org/x/sys/unix"
)

// ErrSocket is a descriptor that the answer must not be sent on. One error covers all causes, so that the helper is no
// means to learn about other processes' descriptors.
var ErrSocket = errors.New("not a connected unix stream socket of the caller's")

// ErrFull is a socket that the answer would not get through.
var ErrFull = errors.New("the other end is closed, or reads nothing")

// Peer is the process that made the socket, as SO_PEERCRED tells: QEMU, libvirt's session daemon or the launcher.
type Peer struct{ PID int32 }

// Check makes sure that fd is a connected unix stream socket made by uid, with room for the answer.
func Check(fd int, uid uint32) (Peer, error) {
	for _, want := range [...][2]int{{unix.SO_DOMAIN, unix.AF_UNIX}, {unix.SO_TYPE, unix.SOCK_STREAM}, {unix.SO_ACCEPTCONN, 0}} {
		v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, want[0])
		if err != nil || v != want[1] {
			return Peer{}, ErrSocket
		}
	}
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || cred.Uid != uid || cred.Pid < 0 {
		return Peer{}, ErrSocket
	}
	if _, err := unix.Getpeername(fd); err != nil {
		return Peer{}, ErrSocket
	}
	room := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	if n, err := unix.Poll(room, 0); err != nil || n != 1 || room[0].Revents != unix.POLLOUT {
		return Peer{}, ErrFull
	}
	return Peer{PID: cred.Pid}, nil
}

// Send sends one octet, NUL, and fds in one message. It does not wait for room in the socket's buffer.
func Send(fd int, fds []int) error {
	oob := unix.UnixRights(fds...)
	for {
		err := unix.Sendmsg(fd, []byte{0}, oob, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		if err != unix.EINTR {
			return err
		}
	}
}
