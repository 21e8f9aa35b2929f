// Package trusted reads files whose content decides over privilege: only root can have written them.
package trusted

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// MaxSize is the largest file that is read, in octets.
const MaxSize = 256 << 10

// Causes wrapped by Error, to be matched with errors.Is together with the errno of a failed system call.
var (
	ErrUntrusted = errors.New("can be changed by others than root; make it root's, not writable for group and others, and no symbolic link")
	ErrTooLarge  = errors.New("larger than 256 KiB")
	ErrPath      = errors.New("not an absolute, clean path")
)

// Error says which file could not be read.
type Error struct {
	Path string
	Err  error
}

func (e *Error) Error() string { return e.Path + ": " + e.Err.Error() }

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Err }

// Read returns the content of the regular file at path. Every directory on the way and the file itself have to belong
// to root and be writable by root alone (a sticky directory counts as such), and none may be a symbolic link: this is
// checked on the open descriptors, so that no rename can slip something else in. Permission to read is that of the
// thread's file system uid. It never blocks on a FIFO or a device.
func Read(path string) ([]byte, error) {
	fd, err := open(path, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, &Error{path, err}
	}
	defer unix.Close(fd)
	b, err := readAll(fd)
	if err != nil {
		return nil, &Error{path, err}
	}
	return b, nil
}

func open(path string, flags int) (int, error) {
	if len(path) < 2 || path[0] != '/' || len(path) >= unix.PathMax || strings.IndexByte(path, 0) >= 0 {
		return -1, ErrPath
	}
	dir, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer func() { unix.Close(dir) }()
	rest := path[1:]
	for {
		name, more, found := strings.Cut(rest, "/")
		if name == "" || name == "." || name == ".." {
			return -1, ErrPath
		}
		if !found {
			break
		}
		next, err := unix.Openat(dir, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, notLink(err)
		}
		unix.Close(dir)
		dir = next
		if err := check(dir, unix.S_IFDIR); err != nil {
			return -1, err
		}
		rest = more
	}
	fd, err := unix.Openat(dir, rest, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return -1, notLink(err)
	}
	if err := check(fd, unix.S_IFREG); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// notLink tells a symbolic link, which O_NOFOLLOW reports as ELOOP (ENOTDIR with O_PATH and O_DIRECTORY), apart.
func notLink(err error) error {
	if err == unix.ELOOP || err == unix.ENOTDIR {
		return ErrUntrusted
	}
	return err
}

func check(fd int, kind uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != kind || st.Uid != 0 {
		return ErrUntrusted
	}
	sticky := kind == unix.S_IFDIR && st.Mode&unix.S_ISVTX != 0
	if st.Mode&0o022 != 0 && !sticky {
		return ErrUntrusted
	}
	return nil
}

func readAll(fd int) ([]byte, error) {
	b := make([]byte, 0, 4096)
	for {
		if len(b) == cap(b) {
			if cap(b) > MaxSize {
				return nil, ErrTooLarge
			}
			b = append(b, 0)[:len(b)]
		}
		n, err := unix.Read(fd, b[len(b):cap(b)])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			if len(b) > MaxSize {
				return nil, ErrTooLarge
			}
			return b, nil
		}
		b = b[:len(b)+n]
	}
}
