package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"libvirt-direct/integration/guest/cpio"
)

// ErrModules is wrapped by the error of ModuleFiles for modprobe output that
// it does not understand.
var ErrModules = errors.New("cannot tell a module's dependencies")

// ModuleFiles returns the named modules and those that they depend on, as
// files for an initramfs in the directory dir. Their names sort in the order in
// which insmod has to load them. What is built into the kernel is left out.
func (k *Kernel) ModuleFiles(ctx context.Context, dir string, names ...string) ([]cpio.File, error) {
	var files []cpio.File
	seen := make(map[string]bool)
	for _, name := range names {
		// Without -C this machine's blacklists and install lines would count.
		out, err := run(ctx, "", "modprobe", "-C", "/dev/null", "-d", k.Root, "-S", k.Version, "--show-depends", name)
		if err != nil {
			return nil, fmt.Errorf("find module %s of %s: %w", name, k.Version, err)
		}
		modules, err := parseDepends(out)
		if err != nil {
			return nil, fmt.Errorf("find module %s of %s: %w", name, k.Version, err)
		}
		for _, m := range modules {
			if seen[m] {
				continue
			}
			seen[m] = true
			data, err := os.ReadFile(m)
			if err == nil {
				data, err = decompress(ctx, data)
			}
			if err != nil {
				return nil, fmt.Errorf("read module %s of %s: %w", name, k.Version, err)
			}
			base, _, _ := strings.Cut(filepath.Base(m), ".")
			files = append(files, cpio.File{
				Name: path.Join(dir, fmt.Sprintf("%03d-%s.ko", len(files), base)), Mode: 0o644, Data: data,
			})
		}
	}
	return files, nil
}

// parseDepends returns the paths that modprobe --show-depends prints: one line
// "insmod PATH [PARAMETERS]" or "builtin NAME" per module.
func parseDepends(out []byte) ([]string, error) {
	var paths []string
	for line := range bytes.Lines(out) {
		verb, rest, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
		switch verb {
		case "", "builtin":
		case "insmod":
			// The path itself may hold spaces; a parameter cannot hold a slash and ".ko".
			end := strings.LastIndex(rest, ".ko")
			if end < 0 {
				return nil, fmt.Errorf("%w: modprobe says %q", ErrModules, rest)
			}
			if i := strings.IndexByte(rest[end:], ' '); i >= 0 {
				rest = rest[:end+i]
			}
			paths = append(paths, rest)
		default:
			return nil, fmt.Errorf("%w: modprobe says %q", ErrModules, verb+" "+rest)
		}
	}
	return paths, nil
}
