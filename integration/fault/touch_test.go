//go:build integration

package fault

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// ofDescriptors are the system calls that name no file: what they work on was opened before,
// or is the process itself.
var ofDescriptors = map[string]bool{
	"read": true, "write": true, "close": true, "fstat": true, "poll": true, "getdents64": true, "fsync": true, "ioctl": true,
	"setsockopt": true, "getsockname": true, "bind": true, "sendto": true, "recvfrom": true, "epoll_ctl": true,
	"clock_gettime": true, "geteuid": true, "getpid": true, "getppid": true, "getrandom": true, "exit_group": true,
}

// touched says what a system call does to which file, "" where it names none. A call that is
// not known here is said as such: it could be of a file.
func (t *tracee) touched(c call) string {
	switch c.Name {
	case "openat":
		how := "read"
		switch flags := c.Args[2]; {
		case flags&unix.O_CREAT != 0:
			how = "create"
		case flags&unix.O_ACCMODE != unix.O_RDONLY:
			how = "write"
		}
		return how + " " + t.text(c.Args[1])
	case "newfstatat", "readlinkat":
		return "look at " + t.text(c.Args[1])
	case "mkdirat":
		return "create " + t.text(c.Args[1])
	case "unlinkat":
		return "remove " + t.text(c.Args[1])
	case "renameat":
		return "rename " + t.text(c.Args[1]) + " to " + t.text(c.Args[3])
	case "socket":
		if c.Args[0] == unix.AF_NETLINK {
			return "ask the kernel"
		}
		return ""
	case "connect":
		return "connect to " + t.text(c.Args[1]+2) // sockaddr_un
	case "fcntl":
		if c.Args[1] == unix.F_OFD_SETLK {
			return "lock"
		}
		return ""
	}
	if ofDescriptors[c.Name] {
		return ""
	}
	return "call " + c.Name
}

// text reads a string of the program's memory.
func (t *tracee) text(at uint64) string {
	var text []byte
	for len(text) < unix.PathMax {
		w, ok := t.words(at, 1)
		if !ok {
			return fmt.Sprintf("%s (cut off at %#x)", text, at)
		}
		b := binary.NativeEndian.AppendUint64(nil, w[0])
		if i := bytes.IndexByte(b, 0); i >= 0 {
			return string(append(text, b[:i]...))
		}
		text, at = append(text, b...), at+8
	}
	return string(text)
}
