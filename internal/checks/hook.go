package checks

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"libvirt-direct/hooks"
)

// hookProgram checks that the hook is installed, once, and that libvirt runs it.
func hookProgram(context.Context, *Env) []Finding { return hookIn(hooksDir, isHook) }

// hookIn is hookProgram for libvirt's hooks in any folder, where hook tells which programs
// are libvirt-direct's.
func hookIn(dir string, hook func(path string) bool) (found []Finding) {
	main := filepath.Join(dir, "qemu")
	var installed []string
	if hook(main) {
		installed = append(installed, main)
	}
	entries, err := os.ReadDir(main + ".d")
	if errors.Is(err, fs.ErrPermission) {
		return []Finding{finding(Note, "hook", "not looked at: %s needs root", dir)}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		found = append(found, finding(Fault, "hook", "%v; libvirt cannot start its hooks then", err))
	}
	var others []string
	for _, e := range entries {
		path := filepath.Join(main+".d", e.Name())
		switch {
		case !hook(path):
			others = append(others, path)
		case hooks.LeftOver(path):
			found = append(found, finding(Note, "hook", "%s is a package manager's or an editor's copy; it does nothing, remove it", path))
		default:
			installed = append(installed, path)
		}
	}
	_, err = os.Lstat(main) // a link to nothing takes the place as well
	taken := err == nil && !hook(main)
	switch {
	case len(installed) == 0 && taken:
		return append(found, finding(Fault, "hook", "%s is another program's, and ours is not in %s.d: install it as %s.d/50-libvirt-direct", main, main, main))
	case len(installed) == 0:
		return append(found, finding(Fault, "hook", "it is not installed: copy it to %s, mode 755", main))
	case len(installed) > 1:
		found = append(found, finding(Fault, "hook", "it is there more than once, libvirt would run each (%s): remove all but one", strings.Join(installed, ", ")))
	}
	for _, path := range installed {
		found = append(found, hookFile(path))
	}
	if taken && executable(main) {
		found = append(found, finding(Note, "hook", "%s is another program's: libvirt runs it before ours, and no guest starts when it fails", main))
	}
	return append(found, neighbours(others, installed)...)
}

// neighbours tells of other programs in qemu.d. libvirt runs them in the order of their names,
// each with what the one before has printed in the place of a migrating or restored domain's
// XML, and leaves out what is not executable.
func neighbours(others, installed []string) (found []Finding) {
	for _, path := range others {
		fi, err := os.Stat(path)
		order := "after"
		if !slices.ContainsFunc(installed, func(ours string) bool { return filepath.Dir(ours) != filepath.Dir(path) || ours < path }) {
			order = "before"
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
			found = append(found, finding(Note, "hook", "%s is a link to nothing: libvirt does not run it, and says nothing", path))
		case err != nil:
			found = append(found, finding(Note, "hook", "%v", err))
		case fi.IsDir(): // of a script that looks for programs by the guest's name
		case !executable(path):
			found = append(found, finding(Note, "hook", "%s is not executable: libvirt does not run it, and says nothing", path))
		case hooks.LeftOver(path):
			found = append(found, finding(Note, "hook", "%s looks like a copy that a package manager or an editor has left: libvirt runs it like any other, %s ours", path, order))
		default:
			found = append(found, finding(Note, "hook", "%s is another program's: libvirt runs it %s ours, and no guest starts when it fails", path, order))
		}
	}
	return found
}

// hookFile checks the modes of the hook where it is installed.
func hookFile(path string) Finding {
	fi, err := os.Stat(path)
	switch {
	case err != nil:
		return finding(Fault, "hook", "%v", err)
	case !executable(path):
		return finding(Fault, "hook", "%s is not executable, so libvirt does not run it: chmod 755 %s", path, path)
	case !rootOwned(fi):
		return finding(Fault, "hook", "%s can be written by others than root (mode %04o): chown root:root, chmod 755", path, fi.Mode().Perm())
	}
	return finding(OK, "hook", "%s", path)
}
