package checks

import (
	"bufio"
	"context"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// drivers checks that the drivers for macvtap and VLAN are there, built in or as a
// module: rtnetlink loads them when they are first asked for.
func drivers(context.Context, *Env) (found []Finding) {
	for _, d := range []struct {
		module, sys, without string
		level                Level // without it
	}{
		{"macvtap", "/sys/class/macvtap", "no direct NIC can start", Fault},
		{"8021q", "/proc/net/vlan", "no VLAN sub-interface can be made", Note},
	} {
		loaded := false
		for _, p := range []string{d.sys, "/sys/module/" + d.module} {
			if _, err := os.Stat(p); err == nil {
				loaded = true
			}
		}
		switch {
		case loaded:
			found = append(found, finding(OK, "driver", "%s is there", d.module))
		case inModules(d.module):
			found = append(found, finding(OK, "driver", "%s is loaded when it is needed", d.module))
		default:
			found = append(found, finding(d.level, "driver", "this kernel has no %s: %s", d.module, d.without))
		}
	}
	return found
}

// inModules looks a module up in the running kernel's lists.
func inModules(module string) bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	for _, list := range []string{"modules.dep", "modules.builtin"} {
		if listed(filepath.Join("/lib/modules", unix.ByteSliceToString(u.Release[:]), list), module) {
			return true
		}
	}
	return false
}

// listed reports whether a list of modules, by their files, has one.
func listed(list, module string) bool {
	f, err := os.Open(list)
	if err != nil {
		return false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if path, _, _ := strings.Cut(lines.Text(), ":"); strings.HasPrefix(filepath.Base(path), module+".ko") {
			return true
		}
	}
	return false
}
