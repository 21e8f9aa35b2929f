package checks

import (
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// hookAge checks that a daemon was started after the hook was installed: libvirt looks for
// hooks once, when it starts or is reloaded.
func hookAge(d daemon) []Finding {
	if installed := firstHook(); installed.After(d.started) {
		return []Finding{finding(Note, d.name, "it was started at %s, before its first hook was installed at %s; unless it was reloaded since: systemctl reload %s",
			d.started.Format(time.DateTime), installed.Format(time.DateTime), d.name)}
	}
	return []Finding{finding(OK, d.name, "it was started after the hook was installed")}
}

// firstHook returns when the oldest of the executable qemu hooks got there.
func firstHook() time.Time {
	files, _ := filepath.Glob(filepath.Join(hooksDir, "qemu.d", "*")) // the pattern is well-formed
	first := time.Time{}
	for _, f := range append(files, filepath.Join(hooksDir, "qemu")) {
		if fi, err := os.Stat(f); err == nil && executable(f) {
			if st, ok := fi.Sys().(*syscall.Stat_t); ok {
				at := time.Unix(st.Ctim.Unix())
				if first.IsZero() || at.Before(first) {
					first = at
				}
			}
		}
	}
	return first
}
