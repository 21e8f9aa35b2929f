// Package journal keeps the journal: what was done on this host for which domain, so
// that it can be undone by the next hook operation on that domain, or by gc, after
// whatever killed the process that did it.
//
// A directory (normally /run/libvirt-direct, so that it dies with the devices it
// describes) holds one file per domain. Files are written whole to a temporary
// name, fsynced and renamed, so that a reader sees the old text or the new one. The
// package knows nothing of what the steps mean.
package journal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultDir is where the journal lies.
const DefaultDir = "/run/libvirt-direct"

// Version is the format of the files, of what stands in Entry.Step too: a step that the
// release before would not undo takes a new version, and a case in migrate. A file of
// an older version is migrated when it is read; one of a newer version is refused and
// left alone, for the release that understands it.
const Version = 3

// maxSize bounds a journal file; a domain with 64 NICs stays below 64 KiB.
const maxSize = 1 << 20

// Errors that callers tell apart with errors.Is.
var (
	// ErrCorrupt: a journal file is damaged, or not ours to trust (another owner,
	// writable by others).
	ErrCorrupt = errors.New("journal file cannot be trusted")
	// ErrRead: a journal file could not be read. What it holds stays held.
	ErrRead = errors.New("journal file could not be read")
	// ErrNewer: a journal file is of a newer format, as after a downgrade.
	ErrNewer = errors.New("journal file is a newer release's")
	// ErrLocked: a lock was not to be had within the deadline.
	ErrLocked = errors.New("still locked by another process")
	// ErrBadUUID: a domain's UUID is none.
	ErrBadUUID = errors.New("not a UUID")
)

// Phase is how far a step has come.
type Phase string

const (
	// Planned: its resource is claimed, and nothing was done.
	Planned Phase = "planned"
	// Intended: the step is about to act; it may have acted, or not.
	Intended Phase = "intended"
	// Done: the step has acted.
	Done Phase = "done"
)

// Entry is one step in the journal, and so a claim to what it is about.
type Entry struct {
	// Resource is what is claimed, "vf/0000:03:00.0/3": a kind, and what tells one of
	// that kind from the others on this host.
	Resource string `json:"resource"`
	// Shared: others may claim it as well.
	Shared bool `json:"shared,omitempty"`
	// Gen orders the claims to what is not shared: the highest holds it.
	Gen   int   `json:"gen,omitempty"`
	Phase Phase `json:"phase"`
	// Expires is when a reservation ends, in CLOCK_BOOTTIME; 0 for a claim that stays.
	// Only a planned entry has it.
	Expires time.Duration `json:"expires,omitempty"`
	// Step is the caller's JSON.
	Step json.RawMessage `json:"step"`
	// Error says why it could not be undone yet.
	Error string `json:"error,omitempty"`
}

// Journal is what is held for one domain.
type Journal struct {
	Version int       `json:"version"`
	UUID    string    `json:"uuid"`
	Name    string    `json:"name"`
	Since   time.Time `json:"since"`
	// Serial grows with each change, over the end of a journal as well.
	Serial int64 `json:"serial"`
	// Started: the domain's start hook has run and its stopped hook has not, or it was
	// found running: what it claims and nothing shows it to have it does not have.
	Started bool    `json:"started,omitempty"`
	Entries []Entry `json:"entries"`

	// hinted are the resources that may have a hint of it; true where this process has
	// seen to that.
	hinted map[string]bool
}

// Dir is a journal directory. The zero value is not usable; see Open.
type Dir struct {
	path  string // for messages
	files Files
	// Clock is CLOCK_BOOTTIME.
	Clock func() time.Duration

	patience time.Duration // how long each lock is waited for, 0 for as long as ctx lasts
}

// Open prepares the directory: it and its parts are made with mode 0700 where they
// are missing.
func Open(path string) (*Dir, error) {
	d := Existing(path)
	return d, d.Make()
}

// Existing names a journal directory without making it: to look, not to write.
func Existing(path string) *Dir { return On(path, osFiles{path}) }

// On is a journal directory on other files than the host's. path is for messages.
func On(path string, files Files) *Dir { return &Dir{path: path, files: files, Clock: bootTime} }

// Patient is the same directory, each of whose locks is waited for no longer than that.
func (d *Dir) Patient(each time.Duration) *Dir {
	patient := *d
	patient.patience = each
	return &patient
}

func bootTime() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // Linux has it since 2.6.39
	return time.Duration(ts.Nano())
}

// Make makes the directory where it is missing, and whatever an older release has not
// made in it.
func (d *Dir) Make() error {
	if err := d.files.Make(); err != nil {
		return failed("", err)
	}
	return d.index()
}

// New is a journal for a domain that has none.
func (d *Dir) New(uuid, name string) *Journal {
	return &Journal{UUID: uuid, Name: name, Since: time.Now().UTC().Truncate(time.Second), Serial: int64(d.Clock())}
}

// failed says that the journal's files could not be worked with.
func failed(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("journal: %s%w", what, err)
}

// Path returns the directory.
func (d *Dir) Path() string { return d.path }

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// IsUUID reports whether s is a UUID as libvirt writes it.
func IsUUID(s string) bool { return uuidForm.MatchString(s) }

// file is a domain's file.
func file(uuid string) (string, error) {
	if !uuidForm.MatchString(uuid) {
		return "", fmt.Errorf("journal: %w: %q", ErrBadUUID, uuid)
	}
	return "domains/" + uuid + ".json", nil
}

// Load returns a domain's journal, or nil when there is none. A file that cannot be
// trusted is an error matching ErrCorrupt; SetAside takes it out of the way. One of a
// newer format is an error matching ErrNewer, and to be left where it is, as one that
// cannot be read, ErrRead.
func (d *Dir) Load(uuid string) (*Journal, error) {
	name, err := file(uuid)
	if err != nil {
		return nil, err
	}
	data, err := d.files.Read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	full := filepath.Join(d.path, name)
	if errors.Is(err, ErrUntrusted) {
		return nil, fmt.Errorf("%w: %s: %w", ErrCorrupt, full, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrRead, full, err)
	}
	j, err := decode(data, Version, migrate)
	if errors.Is(err, ErrNewer) {
		return nil, fmt.Errorf("%w; install that again, or stop the domain's guest and remove %s", err, full)
	}
	if err == nil && j.UUID != uuid {
		err = fmt.Errorf("it is about domain %q", j.UUID)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrCorrupt, full, err)
	}
	j.hinted = map[string]bool{}
	for _, e := range j.Entries {
		j.hinted[e.Resource] = false
	}
	return j, nil
}

// decode reads a journal that may be of an older format than the current one.
func decode(data []byte, current int, migrate func(version int, text []byte) ([]byte, error)) (*Journal, error) {
	if len(data) > maxSize {
		return nil, fmt.Errorf("larger than %d bytes", maxSize)
	}
	var form struct {
		Version int `json:"version"`
	}
	// Whatever else a newer format says, it says its version in this way.
	if err := json.Unmarshal(data, &form); err != nil {
		return nil, err
	}
	if form.Version > current {
		return nil, fmt.Errorf("%w: format %d, and this release reads up to %d", ErrNewer, form.Version, current)
	}
	for v := form.Version; v < current; v++ {
		var err error
		if data, err = migrate(v, data); err != nil {
			return nil, err
		}
	}
	var j Journal
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&j); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("text behind the end")
	}
	if j.Version != current {
		return nil, fmt.Errorf("version %d, want %d", j.Version, current)
	}
	if !uuidForm.MatchString(j.UUID) {
		return nil, ErrBadUUID
	}
	for _, e := range j.Entries {
		switch {
		case e.Phase != Planned && e.Phase != Intended && e.Phase != Done:
			return nil, fmt.Errorf("phase %q", e.Phase)
		case e.Expires < 0 || e.Expires != 0 && e.Phase != Planned:
			return nil, errors.New("an end of what is no reservation")
		case e.Gen < 0:
			return nil, fmt.Errorf("generation %d", e.Gen)
		case !validResource(e.Resource):
			return nil, fmt.Errorf("%w: %q", ErrBadResource, e.Resource)
		}
		if len(e.Step) == 0 || bytes.Equal(e.Step, []byte("null")) {
			return nil, errors.New("an entry without step")
		}
	}
	return &j, nil
}

// Save writes a domain's journal, or removes it when it has no entries. It returns
// when the change is on the storage.
func (d *Dir) Save(j *Journal) error {
	name, err := file(j.UUID)
	if err != nil {
		return err
	}
	j.Serial++
	if len(j.Entries) == 0 {
		if err := d.files.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return failed("", err)
		}
		return d.unhint(j)
	}
	j.Version = Version
	data, err := json.MarshalIndent(j, "", " ")
	if err != nil {
		return failed("", err)
	}
	if err := d.hint(j); err != nil {
		return err
	}
	if err := d.files.Replace(name, append(data, '\n')); err != nil {
		return failed("", err)
	}
	return d.unhint(j)
}

// Forget removes a domain's journal, readable or not, without undoing anything, and its
// hints.
func (d *Dir) Forget(uuid string) error {
	name, err := file(uuid)
	if err != nil {
		return err
	}
	if err := d.files.Remove(name); ignoreGone(err) != nil {
		return failed("", err)
	}
	all, err := d.hintsBelow("")
	errs := []error{err}
	for _, h := range all {
		if h.UUID == uuid {
			errs = append(errs, d.RemoveHint(h))
		}
	}
	return errors.Join(errs...)
}

// Domains lists the UUIDs of the domains that have a journal, sorted.
func (d *Dir) Domains() ([]string, error) {
	names, err := d.files.List("domains")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, failed("", err)
	}
	var uuids []string
	for _, n := range names {
		if u, ok := strings.CutSuffix(n, ".json"); ok && uuidForm.MatchString(u) {
			uuids = append(uuids, u)
		}
	}
	slices.Sort(uuids)
	return uuids, nil
}

// Sweep removes temporary files that a process killed while it wrote has left, once
// they are older than any write can take.
func (d *Dir) Sweep() error { return failed("", d.files.Sweep()) }

// SetAside renames a domain's journal so that nothing reads it again, and returns
// the new name, for a person to look at.
func (d *Dir) SetAside(uuid string) (string, error) {
	name, err := file(uuid)
	if err != nil {
		return "", err
	}
	aside, err := d.files.SetAside(name)
	return aside, failed("", err)
}

// Lock takes an exclusive lock by name, waiting until ctx ends, or patience; then the error
// matches ErrLocked. The kernel drops the lock when the process dies. The returned
// function gives the lock back.
func (d *Dir) Lock(ctx context.Context, name string) (unlock func(), err error) {
	if d.patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.patience)
		defer cancel()
	}
	unlock, err = d.files.Lock(ctx, name)
	return unlock, failed("lock "+name+": ", err)
}
