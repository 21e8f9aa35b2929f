// Package logging sends one line per event to the system's log: the journal's socket
// when there is one, else syslog, else standard error. It never waits for a log.
package logging

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"log/syslog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// New returns a logger that writes under a program's name. Attributes become fields
// of the journal: "domain" is LIBVIRT_DIRECT_DOMAIN. Elsewhere only the message is
// written, so it says everything. stderr takes what no log takes.
//
// A log that nobody reads delays nothing: a line that it does not take at once is not
// in it, and the next one that it takes says how many are missing.
func New(program string, stderr io.Writer) *slog.Logger {
	return slog.New(&handler{
		program: program,
		journal: "/run/systemd/journal/socket",
		syslog:  []string{"/dev/log", "/var/run/syslog", "/var/run/log"},
		stderr:  stderr,
		missing: &atomic.Int64{},
	})
}

type handler struct {
	program string
	journal string   // the journal's socket
	syslog  []string // where syslog's may be
	stderr  io.Writer
	attrs   []slog.Attr
	missing *atomic.Int64 // lines that a log did not take since it took one
}

func (h *handler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.attrs = append(append([]slog.Attr(nil), h.attrs...), attrs...)
	return &c
}

// WithGroup keeps the handler: the journal's fields are flat.
func (h *handler) WithGroup(string) slog.Handler { return h }

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	msg := strings.ReplaceAll(r.Message, "\n", "; ")
	logged, missing := msg, h.missing.Load()
	if missing > 0 {
		logged += fmt.Sprintf(" (lines missing before this one, because the log was full: %d)", missing)
	}
	err := h.log(r, logged)
	if err == nil {
		h.missing.Add(-missing)
		return nil
	}
	if errors.Is(err, unix.EAGAIN) {
		h.missing.Add(1)
	}
	_, err = fmt.Fprintf(h.stderr, "%s: %s\n", h.program, msg)
	return err
}

// log writes a line to the first log that takes it. The error matches EAGAIN where one
// is there and full.
func (h *handler) log(r slog.Record, msg string) error {
	errJournal := send(h.journal, unix.SOCK_DGRAM, h.journalEntry(r, msg))
	if errJournal == nil {
		return nil
	}
	errs := []error{errJournal}
	// As RFC 3164 has it for a host's own programs: without the host's name.
	line := fmt.Appendf(nil, "<%d>%s %s[%d]: %s\n", syslog.LOG_DAEMON|severity(r.Level), time.Now().Format(time.Stamp), h.program, os.Getpid(), msg)
	for _, kind := range []int{unix.SOCK_DGRAM, unix.SOCK_STREAM} {
		for _, path := range h.syslog {
			err := send(path, kind, line)
			if err == nil {
				return nil
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// journalEntry is a record in the journal's native protocol
// (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/).
func (h *handler) journalEntry(r slog.Record, msg string) []byte {
	var b []byte
	field := func(name, value string) {
		if !strings.Contains(value, "\n") {
			b = fmt.Appendf(b, "%s=%s\n", name, value)
			return
		}
		b = binary.LittleEndian.AppendUint64(append(b, name+"\n"...), uint64(len(value)))
		b = append(b, value+"\n"...)
	}
	field("MESSAGE", msg)
	field("PRIORITY", fmt.Sprint(int(severity(r.Level))))
	field("SYSLOG_IDENTIFIER", h.program)
	attr := func(a slog.Attr) bool {
		field("LIBVIRT_DIRECT_"+strings.ToUpper(strings.ReplaceAll(a.Key, "-", "_")), a.Value.String())
		return true
	}
	for _, a := range h.attrs {
		attr(a)
	}
	r.Attrs(attr)
	return b
}

// send gives a message to who listens at a socket, if it is taken at once; EAGAIN if
// not.
func send(path string, kind int, b []byte) error {
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return err
	}
	return unix.Send(fd, b, unix.MSG_NOSIGNAL)
}

// severity is the level as RFC 5424's numbers, which the journal shares.
func severity(l slog.Level) syslog.Priority {
	switch {
	case l >= slog.LevelError:
		return syslog.LOG_ERR
	case l >= slog.LevelWarn:
		return syslog.LOG_WARNING
	default:
		return syslog.LOG_INFO
	}
}
