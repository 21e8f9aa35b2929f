// Package logging sends one line per event to the system's log: the journal's socket
// when there is one, else syslog, else standard error.
package logging

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"log/syslog"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"
)

// New returns a logger that writes under a program's name. Attributes become fields
// of the journal: "domain" is LIBVIRT_DIRECT_DOMAIN. Elsewhere only the message is
// written, so it says everything. stderr takes what no log takes.
func New(program string, stderr io.Writer) *slog.Logger {
	return slog.New(&handler{program: program, stderr: stderr})
}

type handler struct {
	program string
	stderr  io.Writer
	attrs   []slog.Attr
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
	if journal.Enabled() {
		fields := map[string]string{"SYSLOG_IDENTIFIER": h.program}
		add := func(a slog.Attr) bool {
			fields["LIBVIRT_DIRECT_"+strings.ToUpper(strings.ReplaceAll(a.Key, "-", "_"))] = a.Value.String()
			return true
		}
		for _, a := range h.attrs {
			add(a)
		}
		r.Attrs(add)
		if journal.Send(msg, priority(r.Level), fields) == nil {
			return nil
		}
	}
	if w, err := syslog.New(syslog.LOG_DAEMON|severity(r.Level), h.program); err == nil {
		defer w.Close()
		if _, err := w.Write([]byte(msg)); err == nil {
			return nil
		}
	}
	_, err := fmt.Fprintf(h.stderr, "%s: %s\n", h.program, msg)
	return err
}

func priority(l slog.Level) journal.Priority { return journal.Priority(severity(l)) }

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
