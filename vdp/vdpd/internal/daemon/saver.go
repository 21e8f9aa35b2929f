package daemon

import (
	"bufio"
	"log/slog"
	"os"
	"sync"
	"time"

	"libvirt-direct/vdp"
)

const (
	// saveRetry is how long after a failure it is tried again.
	saveRetry = 10 * time.Second
	// minDead is how many records that no longer count a state file may have
	// even if it is short.
	minDead = 256
)

// A saver keeps the state file up to date. A disk may take longer than the
// switch waits for an acknowledgement: set, gone and info only take note of a
// change, and run, in a goroutine of its own, writes what is new since it was
// last there. A nil saver saves nothing.
type saver struct {
	log  *slog.Logger
	file stateFile

	mu    sync.Mutex
	infos map[string]uplinkInfo
	vsis  map[savedKey]change
	wake  chan struct{}
	done  chan struct{}
}

// A savedKey names a VSI of an uplink; without an id, what is saved of the uplink
// itself.
type savedKey struct {
	uplink string
	id     vdp.ID
}

// A change of a VSI that run has not seen. Later ones replace it, so that there
// are never more than VSIs that are kept and VSIs in the file.
type change struct {
	kept  kept
	gone  bool
	isNew bool // run does not know the VSI: if it goes, there was nothing
}

// newSaver returns a saver for a file that is to have s, until that changes.
func newSaver(path string, last state, log *slog.Logger) *saver {
	s := &saver{
		log: log, file: stateFile{path: path, live: make(map[savedKey][]byte)},
		infos: make(map[string]uplinkInfo), vsis: make(map[savedKey]change),
		wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	for name, u := range last {
		s.infos[name] = u.uplinkInfo
		for id, k := range u.vsis {
			s.vsis[savedKey{name, id}] = change{kept: k}
		}
	}
	return s
}

// info takes note of what is saved of an uplink.
func (s *saver) info(uplink string, i uplinkInfo) {
	if s == nil {
		return
	}
	s.mu.Lock()
	s.infos[uplink] = i
	s.mu.Unlock()
	s.signal()
}

// set takes note of a VSI. Known says that it was set before, or in the file.
func (s *saver) set(uplink string, k kept, known bool) {
	if s == nil {
		return
	}
	key := savedKey{uplink, k.VSI.ID}
	s.mu.Lock()
	c, waits := s.vsis[key]
	s.vsis[key] = change{kept: k, isNew: c.isNew || !waits && !known}
	s.mu.Unlock()
	s.signal()
}

// gone takes note that a VSI, which was set or in the file, is kept no longer.
func (s *saver) gone(uplink string, id vdp.ID) {
	if s == nil {
		return
	}
	key := savedKey{uplink, id}
	s.mu.Lock()
	if s.vsis[key].isNew {
		delete(s.vsis, key)
	} else {
		s.vsis[key] = change{gone: true}
	}
	s.mu.Unlock()
	s.signal()
}

func (s *saver) signal() {
	select {
	case s.wake <- struct{}{}:
	default: // run is going to look anyway
	}
}

// run writes the file anew and then keeps it until close.
func (s *saver) run() {
	defer close(s.done)
	retry := time.NewTimer(0)
	defer retry.Stop()
	failing := false
	for more := true; more; {
		select {
		case _, more = <-s.wake:
		case <-retry.C:
		}
		err := s.file.save(s.take())
		switch {
		case err != nil && !failing:
			s.log.Error("state not saved: a restart will not know the current VSIs", "err", err)
		case err == nil && failing:
			s.log.Info("state saved again")
		}
		if failing = err != nil; failing {
			retry.Reset(saveRetry)
		}
	}
	if err := s.file.close(); err != nil {
		s.log.Warn("state file not closed", "err", err)
	}
}

// close saves what is new and ends run. No change may come any more.
func (s *saver) close() {
	close(s.wake)
	<-s.done
}

// take returns the changes since it was last called.
func (s *saver) take() []record {
	s.mu.Lock()
	infos, vsis := s.infos, s.vsis
	s.infos, s.vsis = make(map[string]uplinkInfo), make(map[savedKey]change)
	s.mu.Unlock()
	records := make([]record, 0, len(infos)+len(vsis))
	for name, i := range infos {
		records = append(records, record{Uplink: name, Info: &i})
	}
	for key, c := range vsis {
		r := record{Uplink: key.uplink}
		if c.gone {
			r.Gone = &key.id
		} else {
			r.Set = &c.kept
		}
		records = append(records, r)
	}
	return records
}

// A stateFile is the file as a saver writes it: changes are appended, until
// half of it no longer counts. What counts is in memory as it is in the file, so
// that writing it anew costs little more than a copy.
type stateFile struct {
	path  string
	live  map[savedKey][]byte // lines
	f     *os.File            // nil if the file has to be written anew
	lines int                 // in the file, after the first
}

// save writes changes. What it could not write is in the next file that it can.
func (f *stateFile) save(records []record) error {
	var b []byte
	for i := range records {
		r := &records[i]
		line, err := appendLine(nil, r)
		if err != nil {
			return err
		}
		b = append(b, line...)
		if r.Gone != nil {
			delete(f.live, r.key())
		} else {
			f.live[r.key()] = line
		}
	}
	f.lines += len(records)
	if f.f == nil || f.replaced() || f.lines-len(f.live) > max(len(f.live), minDead) {
		return f.rewrite()
	}
	if len(b) == 0 {
		return nil
	}
	_, err := f.f.Write(b)
	if err == nil {
		err = f.f.Sync()
	}
	if err != nil {
		// The file may end in half a line now, behind which nothing must come.
		return f.rewrite()
	}
	return nil
}

// replaced reports whether the path leads to another file than is open.
func (f *stateFile) replaced() bool {
	mine, err := f.f.Stat()
	if err != nil {
		return true
	}
	there, err := os.Lstat(f.path)
	return err != nil || !os.SameFile(mine, there)
}

// rewrite replaces the file in one step: a crash leaves the old or the new one.
func (f *stateFile) rewrite() error {
	f.close()
	next := f.path + ".new"
	file, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	err = f.writeTo(file)
	if err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = os.Rename(next, f.path)
	}
	if err != nil {
		file.Close()
		os.Remove(next)
		return err
	}
	f.f, f.lines = file, len(f.live)
	return nil
}

func (f *stateFile) writeTo(file *os.File) error {
	header, err := appendLine(nil, stateHeader{stateVersion})
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(file, 64<<10)
	_, _ = w.Write(header)
	for _, line := range f.live {
		_, _ = w.Write(line)
	}
	return w.Flush() // has the first error
}

func (f *stateFile) close() (err error) {
	if f.f != nil {
		err = f.f.Close()
		f.f = nil
	}
	return err
}
