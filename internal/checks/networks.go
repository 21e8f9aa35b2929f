package checks

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"libvirt-direct/hooks"
)

// networkHook says which of libvirt's running networks hand out devices, and whether the
// hook for networks is there, which keeps them from handing out what a guest has.
func networkHook(_ context.Context, env *Env) []Finding {
	var names []string
	for _, n := range hooks.Pools(env.Records.Libvirt) {
		names = append(names, n.Name)
	}
	if len(names) == 0 {
		return nil
	}
	return []Finding{networkHookIn(hooksDir, isHook, strings.Join(names, ", "))}
}

// networkHookIn is as hookIn, for networks of those names.
func networkHookIn(dir string, hook func(path string) bool, names string) Finding {
	main := filepath.Join(dir, "network")
	installed, _ := filepath.Glob(main + ".d/*") // the pattern is well-formed
	installed = slices.DeleteFunc(append(installed, main), func(path string) bool {
		return !hook(path) || !executable(path)
	})
	if len(installed) > 0 {
		return finding(OK, "networks", "%s hand out devices of this host; %s sees to it", names, installed[0])
	}
	how := "ln -s qemu " + main
	if _, err := os.Lstat(main); err == nil {
		how = "install it as " + main + ".d/50-libvirt-direct"
	}
	return finding(Note, "networks", "%s hand out devices of this host, and our hook for networks is not installed: %s, then reload libvirtd or virtnetworkd", names, how)
}
