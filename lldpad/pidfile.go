package lldpad

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// pidFile is where libvirt looks for lldpad. vdpd, in its place, has it too.
const pidFile = "/run/lldpad.pid"

// nobody says that no lldpad listens: with an error that matches ErrStalePid too where the pid
// file leads libvirt to somebody else. What cannot be read says nothing; the file may be
// another mount namespace's (trap 17).
func nobody(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return ErrNoDaemon
	}
	pid, err := strconv.Atoi(strings.Trim(string(b), "\x00\n\r\t "))
	if err != nil || pid <= 0 {
		return ErrNoDaemon
	}
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil && !os.IsNotExist(err) {
		return ErrNoDaemon
	}
	program, _, _ := bytes.Cut(args, []byte{0})
	switch name := filepath.Base(string(program)); {
	case len(program) == 0: // or waits for its parent, or is the kernel's
		return fmt.Errorf("%w; %w: process %d is gone", ErrNoDaemon, ErrStalePid, pid)
	case name != "lldpad" && name != "vdpd":
		return fmt.Errorf("%w; %w: process %d is %s", ErrNoDaemon, ErrStalePid, pid, name)
	}
	return ErrNoDaemon
}
