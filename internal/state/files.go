package state

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
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
	// Remove removes a file.
	Remove(name string) error
	// SetAside renames a file so that nothing reads it again, and returns its new name.
	SetAside(name string) (string, error)
	// Sweep removes what a process killed in Replace has left.
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
	for _, d := range []string{o.path, filepath.Join(o.path, "domains"), filepath.Join(o.path, "locks")} {
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
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := trusted(f); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	return io.ReadAll(io.LimitReader(f, maxSize+1))
}

func trusted(f *os.File) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
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

// temporary is how files are called while they are written.
const temporary = ".new-*"

func (o osFiles) Replace(name string, data []byte) (err error) {
	file := filepath.Join(o.path, name)
	f, err := os.CreateTemp(filepath.Dir(file), temporary) // made with mode 0600
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

func (o osFiles) Remove(name string) error { return os.Remove(filepath.Join(o.path, name)) }

// Sweep leaves what is younger than any write can take.
func (o osFiles) Sweep() error {
	left, err := filepath.Glob(filepath.Join(o.path, "domains", temporary))
	if err != nil {
		return err
	}
	for _, file := range left {
		if fi, err := os.Lstat(file); err == nil && time.Since(fi.ModTime()) > time.Minute {
			if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
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

func (o osFiles) Lock(ctx context.Context, name string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(o.path, "locks", name), os.O_RDWR|os.O_CREATE|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	// flock(2) takes no deadline; asking again is what is left.
	for wait := time.Millisecond; ; wait = min(2*wait, 20*time.Millisecond) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, err
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ErrLocked
		case <-time.After(wait):
		}
	}
}
