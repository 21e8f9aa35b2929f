package checks

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"libvirt-direct/hooks"
	"libvirt-direct/internal/libvirtd"
)

// daemon is one of libvirt's that runs.
type daemon struct {
	name    string
	pid     int
	started time.Time
}

// libvirtDaemons checks that libvirt answers, and what is to be asked of each of its
// daemons.
func libvirtDaemons(ctx context.Context, env *Env) (found []Finding) {
	conn, err := libvirtd.Dial(ctx, env.Libvirt)
	if err != nil {
		found = append(found, finding(Note, "libvirt", "%s", hooks.OneLine(err)))
	} else {
		found = append(found, finding(OK, "libvirt", "%s answers", env.Libvirt))
		if version, err := conn.Version(ctx); err == nil {
			found = append(found, hookFolder(hooksDir, version, isHook)...)
		}
		conn.Close()
	}
	for _, name := range []string{"libvirtd", "virtqemud"} {
		d, running := daemonCalled(name)
		if !running {
			continue
		}
		for _, look := range daemonChecks() {
			found = append(found, look(d)...)
		}
	}
	return found
}

// firstWithFolder is the libvirt that runs what is in qemu.d, 6.5.0.
const firstWithFolder = 6_005_000

// hookFolder says that a libvirt runs the one file alone, where the hook is not that.
func hookFolder(dir string, version uint64, hook func(path string) bool) []Finding {
	main := filepath.Join(dir, "qemu")
	beside, _ := filepath.Glob(main + ".d/*") // the pattern is well-formed
	i := slices.IndexFunc(beside, hook)
	if version >= firstWithFolder || i < 0 || hook(main) {
		return nil
	}
	return []Finding{finding(Fault, "libvirt", "libvirt %d.%d.%d runs no programs in %s.d, which 6.5.0 is the first to do, and %[4]s is another program: let that end with: exec %[5]s \"$@\"",
		version/1_000_000, version/1000%1000, version%1000, main, beside[i])}
}

// daemonCalled finds a daemon by its pid file.
func daemonCalled(name string) (d daemon, running bool) {
	text, err := os.ReadFile("/run/" + name + ".pid")
	if err != nil {
		return d, false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return d, false
	}
	started, err := processStart(pid)
	return daemon{name, pid, started}, err == nil // else it is not running any more
}

// processStart returns when a process was started: field 22 of /proc/PID/stat, in
// clock ticks since boot (proc(5)).
func processStart(pid int) (time.Time, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return time.Time{}, err
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return time.Time{}, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	ticks, err := strconv.ParseInt(fields[19], 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return time.Time{}, err
	}
	boot := time.Now().Add(-time.Duration(now.Nano()))
	const hertz = 100 // USER_HZ, the same on all of Go's Linux architectures
	return boot.Add(time.Duration(ticks) * time.Second / hertz), nil
}
