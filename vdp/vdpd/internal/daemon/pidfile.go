package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
)

// lldpadSocket is the abstract name of lldpad's control socket, per network
// namespace.
const lldpadSocket = "@/com/intel/lldpad"

// ErrRival: another daemon already does vdpd's work.
var ErrRival = errors.New("another VDP daemon is running")

// checkRival refuses to start where lldpad runs, or systemd would start it, or
// another vdpd does.
func checkRival(pidFile string) error {
	// Connecting does not wake lldpad: only a datagram would.
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: lldpadSocket, Net: "unixgram"})
	if err == nil {
		c.Close()
		return fmt.Errorf("%w: lldpad (or its systemd socket) is active: systemctl disable --now lldpad.socket lldpad.service", ErrRival)
	}
	pid, err := readPid(pidFile)
	if err != nil || pid == os.Getpid() {
		return err
	}
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // left over from a crash
	}
	if name := strings.TrimSpace(string(comm)); err == nil && (name == "lldpad" || name == "vdpd") {
		return fmt.Errorf("%w: %s, process %d according to %s", ErrRival, name, pid, pidFile)
	}
	return nil
}

// readPid returns 0 for a file that does not exist or holds no number.
func readPid(path string) (int, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.Trim(string(b), "\x00\n\r\t "))
	if err != nil || pid < 0 {
		return 0, nil
	}
	return pid, nil
}

// writePid lets libvirt find us. The newline ends the number for libvirt,
// which reads ten octets and does not terminate them.
func writePid(path string) error {
	if err := os.WriteFile(path, fmt.Appendf(nil, "%d\n", os.Getpid()), 0o644); err != nil {
		return fmt.Errorf("pid file for libvirt: %w", err)
	}
	return nil
}

func removePid(path string) error {
	if pid, err := readPid(path); err != nil || pid != os.Getpid() {
		return err
	}
	return os.Remove(path)
}
