// Package audit writes one line to the system log for each grant and each denial.
package audit

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// Socket is where syslogd or journald listens (syslog(3)).
const Socket = "/dev/log"

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

// Log sends the entry to Socket. It waits for at most a second. A host without a log gets none: whether somebody may
// use a network does not hang on that.
func Log(e Entry) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 1})
	if unix.Connect(fd, &unix.SockaddrUnix{Name: Socket}) != nil {
		return
	}
	p := denial
	if e.Granted {
		p = grant
	}
	line := "<" + strconv.Itoa(p) + ">qemu-direct-helper[" + strconv.Itoa(unix.Getpid()) + "]: " + e.Line()
	_, _ = unix.Write(fd, []byte(line))
}
