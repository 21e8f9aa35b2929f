package journal

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"libvirt-direct/internal/poll"

	"golang.org/x/sys/unix"
)

// Files is what a journal directory lies on: the host's file system, or one in memory
// for tests that fail, stop or lose it. Names are relative to the directory, with
// slashes. Errors match those of package fs.
type Files interface {
	// Make makes the directory and the folders in it, where they are missing.
	Make() error
	// List returns the names of the files in a folder, sorted.
	List(folder string) ([]string, error)
	// Read returns a file's content; ErrUntrusted for one that others could have written.
	Read(name string) ([]byte, error)
	// Replace writes a file as a whole: a reader sees the old text or the new one. It
	// returns when the change is on the storage.
	Replace(name string, data []byte) error
	// Touch makes an empty file, and the folders that lead to it.
	Touch(name string) error
	// Remove removes a file, and the folders that Touch made for it once they are empty.
	Remove(name string) error
	// SetAside renames a file so that nothing reads it again, and returns its new name.
	SetAside(name string) (string, error)
	// Sweep removes what a process that was killed or failed in Replace, Touch or Remove has
	// left.
	Sweep() error
	// Lock takes an exclusive lock by name, waiting until ctx ends; then the error
	// matches ErrLocked. It is dropped when the process dies.
	Lock(ctx context.Context, name string) (unlock func(), err error)
}

// ErrUntrusted: a file is not ours to trust: another owner's, writable by others, or no
// regular file.
var ErrUntrusted = errors.New("not to be trusted")

// osFiles are files below a folder of the host.
type osFiles struct{ path string }

var _ Files = osFiles{}

func (o osFiles) Make() error {
	for _, d := range []string{o.path, filepath.Join(o.path, "domains"), filepath.Join(o.path, hints)} {
		if err := os.Mkdir(d, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

func (o osFiles) List(folder string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(o.path, folder))
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

func (o osFiles) Read(name string) ([]byte, error) {
	f, err := os.OpenFile(filepath.Join(o.path, name), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("%w: a symbolic link", ErrUntrusted)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil { // which says nothing of the file
		return nil, err
	}
	if err := trusted(fi); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	return io.ReadAll(io.LimitReader(f, maxSize+1))
}

func trusted(fi fs.FileInfo) error {
	st, ok := fi.Sys().(*syscall.Stat_t)
	switch {
	case !fi.Mode().IsRegular():
		return errors.New("not a regular file")
	case ok && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("owned by uid %d", st.Uid)
	case fi.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("writable by others (mode %04o)", fi.Mode().Perm())
	}
	return nil
}

// Replace writes to one name that belongs to the file, so that a process that is killed
// leaves one file more at most. Its caller has the file's lock.
func (o osFiles) Replace(name string, data []byte) (err error) {
	file := filepath.Join(o.path, name)
	f, err := os.OpenFile(file+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err = os.Rename(f.Name(), file); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

func (o osFiles) Touch(name string) error {
	file := filepath.Join(o.path, name)
	for range 10 { // a folder can go between the two, with another's file that was in it
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return err
		}
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
		if err == nil {
			return f.Close()
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return &fs.PathError{Op: "create", Path: file, Err: fs.ErrNotExist}
}

func (o osFiles) Remove(name string) error {
	if err := os.Remove(filepath.Join(o.path, name)); err != nil {
		return err
	}
	for dir := filepath.Dir(name); strings.Contains(dir, "/"); dir = filepath.Dir(dir) {
		if os.Remove(filepath.Join(o.path, dir)) != nil { // it is not empty
			break
		}
	}
	return nil
}

// Sweep leaves what is younger than any write can take. Earlier releases drew the names
// of such files, and had a file for each lock.
func (o osFiles) Sweep() error {
	var left []string
	for _, pattern := range []string{"domains/.new-*", "domains/*.new"} {
		found, err := filepath.Glob(filepath.Join(o.path, pattern))
		if err != nil {
			return err
		}
		left = append(left, found...)
	}
	for _, file := range left {
		if fi, err := os.Lstat(file); err == nil && time.Since(fi.ModTime()) > time.Minute {
			if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	if err := o.sweepFolders(); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(o.path, "locks"))
}

// sweepFolders removes the folders of hints that are empty. Touch makes one again that goes
// while it is at work.
func (o osFiles) sweepFolders() error {
	var folders []string
	top := filepath.Join(o.path, hints)
	err := filepath.WalkDir(top, func(name string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && name != top {
			folders = append(folders, name)
		}
		return ignoreGone(err)
	})
	for _, name := range slices.Backward(folders) { // what lies in another comes before it
		if rmErr := syscall.Rmdir(name); ignoreGone(rmErr) != nil && !errors.Is(rmErr, syscall.ENOTEMPTY) {
			err = errors.Join(err, &fs.PathError{Op: "rmdir", Path: name, Err: rmErr})
		}
	}
	return err
}

func (o osFiles) SetAside(name string) (string, error) {
	dir, err := os.MkdirTemp(o.path, "corrupt-")
	if err != nil {
		return "", err
	}
	aside := filepath.Join(dir, filepath.Base(name))
	if err := os.Rename(filepath.Join(o.path, name), aside); err != nil {
		os.Remove(dir)
		return "", err
	}
	return aside, nil
}

// Lock takes one octet of one file, at a place that the name chooses: there is nothing to
// sweep, and nobody can make a file by a name. The lock is the open file's (fcntl(2),
// "open file description locks").
func (o osFiles) Lock(ctx context.Context, name string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(o.path, "lock"), os.O_RDWR|os.O_CREATE|syscall.O_CLOEXEC|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(name))
	at := unix.Flock_t{Type: unix.F_WRLCK, Start: int64(binary.BigEndian.Uint64(sum[:]) >> 2), Len: 1}
	// Waiting in the kernel takes no deadline; asking again is what is left.
	err = poll.Backoff(ctx, time.Millisecond, 20*time.Millisecond, func() (bool, error) {
		err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &at)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EINTR) {
			return false, nil
		}
		return true, err
	})
	if err == nil {
		return func() { f.Close() }, nil
	}
	f.Close()
	if errors.Is(err, poll.ErrGaveUp) {
		err = ErrLocked
	}
	return nil, err
}
