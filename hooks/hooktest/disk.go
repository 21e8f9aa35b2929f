package hooktest

import (
	"context"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"testing/fstest"
	"time"

	"libvirt-direct/internal/journal"
)

// Stored is what lies on a disk, and who holds which lock.
type Stored struct {
	Files map[string][]byte
	Locks map[string]*Disk
}

// Disk is one process's connection to Stored: what the journal lies on, in memory. A
// process that is killed holds no locks any more.
type Disk struct {
	*Stored
	Gate Gate
}

var _ journal.Files = (*Disk)(nil)

// NewDisk is an empty disk.
func NewDisk() *Disk {
	return &Disk{Stored: &Stored{Files: map[string][]byte{}, Locks: map[string]*Disk{}}}
}

// With is another process's connection to the same disk.
func (d *Disk) With(g Gate) *Disk { return &Disk{Stored: d.Stored, Gate: g} }

// Lose empties the disk, as when /run is mounted anew. Locks stay: they are the processes'.
func (d *Stored) Lose() { clear(d.Files) }

// LetGo drops a process's locks.
func (d *Disk) LetGo() {
	for name, holder := range d.Locks {
		if holder == d {
			delete(d.Locks, name)
		}
	}
}

func (d *Disk) at(p Point) error {
	if d.Gate == nil {
		return nil
	}
	return d.Gate(p)
}

func (d *Disk) change(op, name string, do func() error) error {
	if err := d.at(Point{Op: op, What: name, Change: true}); err != nil {
		return err
	}
	err := do()
	_ = d.at(Point{Op: op, What: name, Change: true, After: true})
	return err
}

// Make is journal.Files.Make; folders need not be made.
func (d *Disk) Make() error { return nil }

// List is journal.Files.List.
func (d *Disk) List(folder string) ([]string, error) {
	if err := d.at(Point{Op: "list", What: folder}); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for name := range d.Files {
		if in, ok := strings.CutPrefix(name, folder+"/"); ok {
			first, _, _ := strings.Cut(in, "/")
			seen[first] = true
		}
	}
	return slices.Sorted(maps.Keys(seen)), nil
}

// Read is journal.Files.Read.
func (d *Disk) Read(name string) ([]byte, error) {
	if err := d.at(Point{Op: "read", What: name}); err != nil {
		return nil, err
	}
	data, there := d.Files[name]
	if !there {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return slices.Clone(data), nil
}

// Replace is journal.Files.Replace.
func (d *Disk) Replace(name string, data []byte) error {
	return d.change("write", name, func() error {
		d.Files[name] = slices.Clone(data)
		return nil
	})
}

// Touch is journal.Files.Touch.
func (d *Disk) Touch(name string) error {
	return d.change("touch", name, func() error {
		if _, there := d.Files[name]; !there {
			d.Files[name] = nil
		}
		return nil
	})
}

// Remove is journal.Files.Remove.
func (d *Disk) Remove(name string) error {
	return d.change("unlink", name, func() error {
		if _, there := d.Files[name]; !there {
			return &fs.PathError{Op: "unlink", Path: name, Err: fs.ErrNotExist}
		}
		delete(d.Files, name)
		return nil
	})
}

// SetAside is journal.Files.SetAside.
func (d *Disk) SetAside(name string) (string, error) {
	aside := "corrupt/" + path.Base(name)
	return aside, d.change("set aside", name, func() error {
		d.Files[aside] = d.Files[name]
		delete(d.Files, name)
		return nil
	})
}

// Sweep is journal.Files.Sweep; nothing is ever half written here.
func (d *Disk) Sweep() error { return nil }

// Lock is journal.Files.Lock.
func (d *Disk) Lock(ctx context.Context, name string) (unlock func(), err error) {
	for {
		if err := d.at(Point{Op: "lock", What: name}); err != nil {
			return nil, err
		}
		if d.Locks[name] == nil {
			d.Locks[name] = d
			return func() {
				if d.Locks[name] == d {
					delete(d.Locks, name)
				}
			}, nil
		}
		select {
		case <-ctx.Done():
			_ = d.at(Point{Op: "give up lock", What: name})
			return nil, journal.ErrLocked
		case <-time.After(200 * time.Microsecond):
		}
	}
}

// Folder is a folder of files in memory, as libvirt keeps its state in one.
type Folder map[string][]byte

// LibvirtState is one process's way to libvirt's state.
type LibvirtState struct {
	Folder
	Gate Gate
}

// Open is fs.FS.Open.
func (s LibvirtState) Open(name string) (fs.File, error) {
	if s.Gate != nil {
		if err := s.Gate(Point{Op: "open", What: name}); err != nil {
			return nil, err
		}
	}
	m := fstest.MapFS{}
	for name, data := range s.Folder {
		m[name] = &fstest.MapFile{Data: data}
	}
	return m.Open(name)
}

func (s LibvirtState) change(op, name string, do func() error) error {
	if s.Gate == nil {
		return do()
	}
	if err := s.Gate(Point{Op: op, What: name, Change: true}); err != nil {
		return err
	}
	err := do()
	_ = s.Gate(Point{Op: op, What: name, Change: true, After: true})
	return err
}

// Rename gives a file a name that no other has.
func (s LibvirtState) Rename(from, to string) error {
	return s.change("rename libvirt's", from, func() error {
		if err := s.link(from, to); err != nil {
			return err
		}
		delete(s.Folder, from)
		return nil
	})
}

// Link gives a file a second name, that no other has.
func (s LibvirtState) Link(from, to string) error {
	return s.change("link libvirt's", from, func() error { return s.link(from, to) })
}

func (s LibvirtState) link(from, to string) error {
	data, there := s.Folder[from]
	if !there {
		return &fs.PathError{Op: "link", Path: from, Err: fs.ErrNotExist}
	}
	if _, there := s.Folder[to]; there {
		return &fs.PathError{Op: "link", Path: to, Err: fs.ErrExist}
	}
	s.Folder[to] = data
	return nil
}

// Remove removes a file.
func (s LibvirtState) Remove(name string) error {
	return s.change("unlink libvirt's", name, func() error {
		if _, there := s.Folder[name]; !there {
			return &fs.PathError{Op: "unlink", Path: name, Err: fs.ErrNotExist}
		}
		delete(s.Folder, name)
		return nil
	})
}
