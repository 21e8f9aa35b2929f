// Package cpio writes the "newc" archives that the kernel unpacks as its
// initial RAM file system, as described in the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst.
package cpio

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path"
	"strings"
)

// ErrFile is wrapped by the error of a File that an archive cannot hold.
var ErrFile = errors.New("not a file for an initramfs")

// A File is one entry of an archive: a regular file, a directory or, with
// fs.ModeSymlink, a symbolic link whose target is Data.
type File struct {
	// Name is the path below the archive's root, without a leading slash,
	// in the form that fs.ValidPath accepts.
	Name string
	// Mode holds the permission bits and the type.
	Mode fs.FileMode
	Data []byte
}

// trailer is the name of the entry that ends an archive.
const trailer = "TRAILER!!!"

// Types of c_mode, from stat(2)'s numbering, which the format borrows.
const (
	typeDir     = 0o040000
	typeRegular = 0o100000
	typeSymlink = 0o120000
)

// Write writes files to w as one archive, owned by root and dated at the
// epoch: the same files always make the same bytes. A directory that is not
// listed before the first file in it is added with mode 0755. A file that an
// archive cannot hold is reported, wrapping ErrFile, before anything is written.
func Write(w io.Writer, files []File) error {
	for _, f := range files {
		if err := f.check(); err != nil {
			return err
		}
	}
	a := archive{w: bufio.NewWriter(w), dirs: map[string]bool{".": true}}
	for _, f := range files {
		a.parents(path.Dir(f.Name))
		if f.Mode.IsDir() {
			a.dirs[f.Name] = true
		}
		a.entry(f.Name, f.mode(), f.Data)
	}
	a.entry(trailer, 0, nil)
	if err := a.w.Flush(); err != nil {
		return fmt.Errorf("write cpio archive: %w", err)
	}
	return nil
}

func (f File) check() error {
	switch {
	case !fs.ValidPath(f.Name) || f.Name == "." || f.Name == trailer || strings.ContainsRune(f.Name, 0):
		return fmt.Errorf("%w: name %q", ErrFile, f.Name)
	case f.mode() == 0:
		return fmt.Errorf("%w: %s is of type %s", ErrFile, f.Name, f.Mode.Type())
	case f.Mode.IsDir() && len(f.Data) > 0:
		return fmt.Errorf("%w: directory %s has data", ErrFile, f.Name)
	case int64(len(f.Data)) > math.MaxUint32:
		return fmt.Errorf("%w: %s has 4 GiB or more", ErrFile, f.Name)
	}
	return nil
}

func (f File) mode() uint32 {
	perm := uint32(f.Mode.Perm())
	switch f.Mode.Type() {
	case 0:
		return typeRegular | perm
	case fs.ModeDir:
		return typeDir | perm
	case fs.ModeSymlink:
		return typeSymlink | perm
	}
	return 0
}

// archive leaves write errors to bufio.Writer, which keeps the first.
type archive struct {
	w    *bufio.Writer
	ino  uint32
	dirs map[string]bool
}

func (a *archive) parents(dir string) {
	if a.dirs[dir] {
		return
	}
	a.parents(path.Dir(dir))
	a.dirs[dir] = true
	a.entry(dir, typeDir|0o755, nil)
}

func (a *archive) entry(name string, mode uint32, data []byte) {
	a.ino++
	n, _ := fmt.Fprintf(a.w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.ino, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
	a.pad(n)
	a.w.Write(data)
	a.pad(len(data))
}

// pad aligns what follows n octets to four.
func (a *archive) pad(n int) {
	a.w.Write(make([]byte, -n&3))
}
