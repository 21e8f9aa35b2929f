// Package client obtains network devices from qemu-direct-helper, from the side of the one who calls it: it makes the
// socket, starts the helper and receives the descriptors. It needs no privilege.
package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// DefaultHelper is where the helper is installed.
const DefaultHelper = "/usr/libexec/qemu-direct-helper"

// Errors matched with errors.Is.
var (
	ErrDenied   = errors.New("access denied")
	ErrNoAnswer = errors.New("the helper sent no descriptor")
)

// Error is a request that the helper did not fulfil.
type Error struct {
	Profile string
	Text    string // the line that the helper wrote
	Err     error
}

func (e *Error) Error() string {
	if e.Text != "" {
		return "network " + e.Profile + ": " + e.Text
	}
	return "network " + e.Profile + ": " + e.Err.Error()
}

// Unwrap is ErrDenied, ErrNoAnswer, the context's error, or what execve(2) or recvmsg(2) said.
func (e *Error) Unwrap() error { return e.Err }

// Request is what the helper is asked for.
type Request struct {
	Helper  string           // program to run; empty for DefaultHelper
	Profile string           // profile or bridge
	MAC     net.HardwareAddr // nil leaves it to the profile
	VNetHdr bool             // frames after a struct virtio_net_hdr, which QEMU always wants
	Queues  int              // descriptors; 0 is 1
}

// waitDelay is how long the helper may linger after the context has ended.
const waitDelay = time.Second

// Open runs the helper and returns one file per queue, close-on-exec and non-blocking as QEMU likes them. The device
// lives until the last copy of the last of them is closed.
func Open(ctx context.Context, r Request) ([]*os.File, error) {
	fail := func(text string, err error) ([]*os.File, error) {
		return nil, &Error{Profile: r.Profile, Text: text, Err: err}
	}
	if r.Helper == "" {
		r.Helper = DefaultHelper
	}
	r.Queues = max(r.Queues, 1)

	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fail("", os.NewSyscallError("socketpair", err))
	}
	ours, theirs := pair[0], os.NewFile(uintptr(pair[1]), "helper")
	defer unix.Close(ours)

	name := r.Profile
	if r.MAC != nil {
		name += "/" + r.MAC.String()
	}
	args := []string{"--br=" + name, "--fd=3"}
	if r.VNetHdr {
		args = append(args, "--use-vnet")
	}
	if r.Queues > 1 {
		args = append(args, "--queues="+strconv.Itoa(r.Queues))
	}
	cmd := exec.CommandContext(ctx, r.Helper, args...)
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.WaitDelay = waitDelay
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return fail("", err)
	}
	// The helper answers before it exits, and what it sent is kept; its end also ends the wait.
	waitErr := cmd.Wait()
	files, err := receive(ours, r.Queues)
	text := strings.TrimSpace(stderr.String())
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case waitErr != nil && strings.Contains(text, "access denied by acl file"):
		err = ErrDenied
	case waitErr != nil:
		err = waitErr
	}
	if err != nil {
		closeAll(files)
		return fail(text, err)
	}
	return files, nil
}

// receive takes the helper's answer: one octet and want descriptors in one message.
func receive(fd, want int) ([]*os.File, error) {
	oob := make([]byte, unix.CmsgSpace(4*want))
	n, oobn, flags, _, err := unix.Recvmsg(fd, make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	if err != nil || n == 0 {
		return nil, ErrNoAnswer
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, ErrNoAnswer
	}
	var files []*os.File
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			// Before NewFile, which otherwise makes no use of the poller.
			_ = unix.SetNonblock(fd, true)
			files = append(files, os.NewFile(uintptr(fd), "tap"))
		}
	}
	if len(files) != want || flags&unix.MSG_CTRUNC != 0 {
		closeAll(files)
		return nil, fmt.Errorf("%w: %d instead of %d", ErrNoAnswer, len(files), want)
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// Device is what a descriptor tells of its device.
type Device struct {
	Name string           // in its network namespace, which need not be the caller's
	MAC  net.HardwareAddr // nil if the descriptor does not tell
}

// Inspect asks the descriptor for its device. The address is the one that the guest has to have, unless it begins with fe or
// is nil: then the guest may choose.
func Inspect(f *os.File) (Device, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return Device{}, err
	}
	var d Device
	var ioErr error
	err = raw.Control(func(fd uintptr) {
		var r struct {
			name [unix.IFNAMSIZ]byte
			data [24]byte
		}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, unix.TUNGETIFF, uintptr(unsafe.Pointer(&r))); errno != 0 {
			ioErr = os.NewSyscallError("TUNGETIFF", errno)
			return
		}
		d.Name = unix.ByteSliceToString(r.name[:])
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, unix.SIOCGIFHWADDR, uintptr(unsafe.Pointer(&r)))
		if errno == unix.ENODEV { // a TAP that was moved to the host's namespace after it was opened
			return
		}
		if errno != 0 {
			ioErr = os.NewSyscallError("SIOCGIFHWADDR", errno)
			return
		}
		d.MAC = append(d.MAC, r.data[2:8]...)
	})
	if err == nil {
		err = ioErr
	}
	return d, err
}
