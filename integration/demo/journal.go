package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"libvirt-direct/integration/host"
)

// A journal stands in systemd-journald's place inside a host, so that what the hook
// logs can be shown.
type journal struct{ socket int }

// newJournal listens where journald would (sd_journal_send(3), native protocol:
// https://systemd.io/JOURNAL_NATIVE_PROTOCOL).
func newJournal(p *host.Peer) (*journal, error) {
	path := p.Path("/run/systemd/journal/socket")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(s, &unix.SockaddrUnix{Name: path}); err != nil {
		unix.Close(s)
		return nil, fmt.Errorf("listen for the hook's log on %s: %w", path, err)
	}
	return &journal{s}, nil
}

func (j *journal) close() { unix.Close(j.socket) }

// lines returns the messages that came since the last call. A message is there as
// soon as its sender has ended.
func (j *journal) lines() ([]string, error) {
	var lines []string
	buf := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(j.socket, buf, 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return lines, nil
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return nil, fmt.Errorf("read the hook's log: %w", err)
		default:
			if m, ok := message(string(buf[:n])); ok {
				lines = append(lines, m)
			}
		}
	}
}

// message returns an entry's MESSAGE field, if it is on one line, as the hook's is.
func message(entry string) (string, bool) {
	for line := range strings.Lines(entry) {
		if m, ok := strings.CutPrefix(line, "MESSAGE="); ok {
			return strings.TrimSuffix(m, "\n"), true
		}
	}
	return "", false
}
