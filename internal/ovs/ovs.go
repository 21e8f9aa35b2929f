// Package ovs attaches guests' ports to Open vSwitch: over its database's socket, each
// change in one transaction, and with the switch's own word that it has been made.
//
// Names of tables, columns and keys are those of ovs-vswitchd.conf.db(5); the protocol
// is RFC 7047. A database that is restarted meanwhile is waited for.
package ovs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"libvirt-direct/internal/poll"
)

// Socket is where ovsdb-server listens, unless a Place says otherwise.
const Socket = runDir + "/" + socketName

// database is the one of ovs-vswitchd.
const database = "Open_vSwitch"

// OwnerKey is the key in external_ids of Port, QoS, Queue and Mirror under which it
// stands whose they are: a domain's UUID, for instance.
const OwnerKey = "libvirt-direct"

// portKey says beside it, in QoS, Queue and Mirror, to which port they belong.
const portKey = OwnerKey + "-port"

// Errors that callers tell apart with errors.Is.
var (
	// ErrUnreachable: ovsdb-server does not run, or went away and did not come back.
	ErrUnreachable = errors.New("Open vSwitch's database cannot be reached: systemctl start openvswitch-switch, or set socket in [ovs] of config.toml")
	// ErrNoAnswer: the deadline has passed.
	ErrNoAnswer = errors.New("Open vSwitch has not answered in time")
	// ErrRefused: the database refuses a transaction, and nothing was changed.
	ErrRefused = errors.New("Open vSwitch's database refuses it")
	// ErrReply: an answer that cannot be read.
	ErrReply = errors.New("Open vSwitch's database has given an answer that cannot be understood")
	// ErrNoBridge: there is no such bridge.
	ErrNoBridge = errors.New("no such Open vSwitch bridge")
	// ErrNoPort: there is no such port.
	ErrNoPort = errors.New("no such Open vSwitch port")
	// ErrTaken: a port of that name is there, and it is somebody else's.
	ErrTaken = errors.New("an Open vSwitch port of that name is there, and not ours")
	// ErrInterface: ovs-vswitchd could not make the interface.
	ErrInterface = errors.New("ovs-vswitchd could not make the interface")
	// ErrSwitch: ovs-vswitchd has not taken a change up within the deadline.
	ErrSwitch = errors.New("ovs-vswitchd has not taken it up: is it running?")
	// ErrNotInstalled: ovn-controller has not installed the port's flows within the
	// deadline.
	ErrNotInstalled = errors.New("ovn-controller has not bound the port: is there a logical port of that name?")
)

// OpError is an operation that the database refuses. It matches ErrRefused.
type OpError struct {
	Op      int    // position in the transaction
	Err     string // as in RFC 7047: "constraint violation", "timed out" …
	Details string
}

func (e *OpError) Error() string { return fmt.Sprintf("%v: %s: %s", ErrRefused, e.Err, e.Details) }

// Is reports whether target is ErrRefused.
func (e *OpError) Is(target error) bool { return target == ErrRefused }

// timedOut reports whether a wait operation has given up.
func timedOut(err error) bool {
	var e *OpError
	return errors.As(err, &e) && e.Err == "timed out"
}

// DB is the database of one switch. It connects when it is first used, and is for one
// goroutine at a time.
type DB struct {
	place   Place
	unknown error // why the place is not known
	s       *session
}

// Open names a database by its socket. Nothing is connected.
func Open(socket string) *DB { return At(Place{Socket: socket}) }

// At names the database at a place. Nothing is connected.
func At(p Place) *DB { return &DB{place: p} }

// Nowhere is a database of which it is not known where it is: whatever is asked of it
// fails with that error.
func Nowhere(err error) *DB { return &DB{unknown: err} }

// Place is where the database is, or why that is not known.
func (db *DB) Place() (Place, error) { return db.place, db.unknown }

// Close ends the connection, if there is one. The DB can still be used.
func (db *DB) Close() {
	if db.s != nil {
		db.s.close()
		db.s = nil
	}
}

// absence is how long a database may be away: a restart takes about a second.
const absence = 3 * time.Second

// do runs f, again as long as the database goes away under it: what f does must bear
// having been done already.
func (db *DB) do(ctx context.Context, f func(*session) error) error {
	var (
		since time.Time
		away  error
	)
	err := poll.Backoff(ctx, 5*time.Millisecond, 200*time.Millisecond, func() (bool, error) {
		err := db.once(ctx, f)
		if !errors.Is(err, ErrUnreachable) {
			return true, err
		}
		db.Close()
		away = err
		if since.IsZero() {
			since = time.Now()
		}
		if time.Since(since) > absence || db.none() {
			return false, err
		}
		return false, nil
	})
	if errors.Is(err, poll.ErrGaveUp) {
		err = away
	}
	if errors.Is(err, ErrUnreachable) {
		return fmt.Errorf("%w%s", err, db.hint())
	}
	return err
}

// hint says what is known of where the database is instead.
func (db *DB) hint() string {
	text := ""
	if from := db.place.From; from != "" {
		text = "; " + from + " says that it is there"
	}
	if found := Elsewhere(db.place); len(found) > 0 {
		text += "; there is a socket at " + strings.Join(found, " and ")
	}
	return text
}

// none reports whether there is not even a directory for the socket, which a database
// that is restarted leaves: then nothing is to be waited for.
func (db *DB) none() bool {
	_, err := os.Stat(filepath.Dir(db.place.Socket))
	return errors.Is(err, fs.ErrNotExist)
}

func (db *DB) once(ctx context.Context, f func(*session) error) error {
	if db.unknown != nil {
		return db.unknown
	}
	if db.s == nil {
		s, err := dial(ctx, db.place.Socket)
		if err != nil {
			return err
		}
		db.s = s
	}
	err := f(db.s)
	if db.s.spent {
		db.Close()
	}
	return err
}
