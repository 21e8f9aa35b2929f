package checks

import (
	"debug/buildinfo"
	"os"
	"syscall"
)

// hooksDir is where libvirt looks for hook programs (SYSCONFDIR of every
// distribution's build; src/util/virhook.c).
const hooksDir = "/etc/libvirt/hooks"

// isHook reports whether a file is libvirt-direct's hook program, by what the Go linker
// wrote into it: it is not run to find out.
func isHook(path string) bool {
	info, err := buildinfo.ReadFile(path)
	return err == nil && info.Path == "libvirt-direct/hooks/qemu"
}

// executable says what libvirt says: a regular file with any x bit.
func executable(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular() && fi.Mode().Perm()&0o111 != 0
}

// rootOwned reports whether nobody but root can write to a file.
func rootOwned(fi os.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && st.Uid == 0 && fi.Mode().Perm()&0o022 == 0
}
