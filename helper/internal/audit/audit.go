// Package audit writes one line to the system log for each grant and each denial.
package audit

import (
	"errors"
	"strconv"

	"golang.org/x/sys/unix"
)

// Where the log is.
const (
	Socket = "/dev/log"  // of syslogd or journald (syslog(3))
	Kernel = "/dev/kmsg" // Documentation/ABI/testing/dev-kmsg
)

const patience = 500_000 // microseconds

// Priorities: facility authpriv (10), severities notice (5) and info (6).
const (
	grant  = 10<<3 | 6
	denial = 10<<3 | 5
)

// Entry is one line; empty fields are left out.
type Entry struct {
	Granted bool
	UID     uint32
	PID     int32  // of the process that made the answer's socket
	Exe     string // of that process
	Name    string // what the caller asked for
	Kind    string
	Lower   string // lower device or bridge
	MAC     string
	Device  string
	Index   int
	Reason  string // of a denial
}

// Line is the text of an entry: "granted" or "denied", then key=value pairs, text in double quotes. Octets of the
// caller's that are not printable ASCII, quotes and backslashes stand as \xHH.
func (e Entry) Line() string {
	b := make([]byte, 0, 256)
	if e.Granted {
		b = append(b, "granted"...)
	} else {
		b = append(b, "denied"...)
	}
	b = append(b, " uid="...)
	b = strconv.AppendUint(b, uint64(e.UID), 10)
	if e.PID > 0 {
		b = append(b, " pid="...)
		b = strconv.AppendInt(b, int64(e.PID), 10)
	}
	b = text(b, "exe", e.Exe)
	b = text(b, "profile", e.Name)
	b = text(b, "kind", e.Kind)
	b = text(b, "lower", e.Lower)
	b = text(b, "mac", e.MAC)
	b = text(b, "device", e.Device)
	if e.Index != 0 {
		b = append(b, " ifindex="...)
		b = strconv.AppendInt(b, int64(e.Index), 10)
	}
	b = text(b, "reason", e.Reason)
	return string(b)
}

func text(b []byte, key, value string) []byte {
	if value == "" {
		return b
	}
	b = append(b, ' ')
	b = append(b, key...)
	b = append(b, '=', '"')
	b = append(b, Quote(value)...)
	return append(b, '"')
}

// Quote makes s fit for a log or a terminal: at most 256 octets of it, each either printable or as \xHH.
func Quote(s string) string {
	const digits = "0123456789abcdef"
	if len(s) > 256 {
		s = s[:256]
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			b = append(b, '\\', 'x', digits[c>>4], digits[c&15])
		} else {
			b = append(b, c)
		}
	}
	return string(b)
}

// Log is an open system log.
type Log struct{ socket, kernel int } // descriptors, -1 for none

// ErrNoLog is a host on which nothing would tell who was given what.
var ErrNoLog = errors.New("no system log: neither /dev/log nor /dev/kmsg takes a line")

// Open opens the log: the one of syslogd or journald, and the kernel's for when that is not there or takes nothing.
func Open() (*Log, error) {
	l := &Log{socket: -1, kernel: -1}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Usec: patience})
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: Socket}); err == nil {
		l.socket = fd
	} else {
		unix.Close(fd)
	}
	fd, err = unix.Open(Kernel, unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err == nil {
		l.kernel = fd
	}
	if l.socket < 0 && l.kernel < 0 {
		return nil, ErrNoLog
	}
	return l, nil
}

// Write writes the entry. It waits for half a second at most, and needs no privilege.
func (l *Log) Write(e Entry) error {
	p := denial
	if e.Granted {
		p = grant
	}
	line := []byte("<" + strconv.Itoa(p) + ">qemu-direct-helper[" + strconv.Itoa(unix.Getpid()) + "]: " + e.Line())
	for _, fd := range [...]int{l.socket, l.kernel} {
		if fd < 0 {
			continue
		}
		if n, err := unix.Write(fd, line); err == nil && n == len(line) {
			return nil
		}
	}
	return ErrNoLog
}
