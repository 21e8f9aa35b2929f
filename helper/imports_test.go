//go:build !vm

// The test machine has no Go.

package main

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What the setuid program links of the standard library. Each package here has been looked at for what it does at
// start and what it takes from the environment.
var allowed = []string{
	"bytes", "cmp", "encoding/binary", "errors", "io", "io/fs", "iter", "math", "math/bits", "os", "path", "reflect", "runtime",
	"slices", "sort", "strconv", "strings", "sync", "sync/atomic", "syscall", "time", "unicode", "unicode/utf8", "unsafe",
	"golang.org/x/sys/unix",
}

func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{.ImportPath}} {{len .CgoFiles}}", ".").Output()
	require.NoError(t, err)
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		path := f[0]
		require.Equal(t, "0", f[1], "%s uses cgo", path)
		if strings.HasPrefix(path, "internal/") || strings.HasPrefix(path, "libvirt-direct/helper") {
			continue
		}
		require.True(t, slices.Contains(allowed, path), "the setuid program links %s", path)
	}
	// encoding/binary comes with x/sys/unix; the helper's own packages have no use for it, nor for much else.
	out, err = exec.Command("go", "list", "-f", `{{join .Imports "\n"}}`, ".", "./internal/...").Output()
	require.NoError(t, err)
	for path := range strings.FieldsSeq(string(out)) {
		switch path {
		case "errors", "os", "runtime", "slices", "strconv", "strings", "sync/atomic", "syscall", "time", "unsafe", "golang.org/x/sys/unix",
			"libvirt-direct/helper/devgroup", "libvirt-direct/helper/tapname":
		default:
			require.True(t, strings.HasPrefix(path, "libvirt-direct/helper/internal/"), "a package of the helper's imports %s", path)
		}
	}
}

func TestStaticAndSmall(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "helper")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, ".")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	checkStatic(t, bin)
}

func checkStatic(t *testing.T, bin string) {
	t.Helper()
	st, err := os.Stat(bin)
	require.NoError(t, err)
	require.Less(t, st.Size(), int64(2<<20))
	f, err := elf.Open(bin)
	require.NoError(t, err)
	defer f.Close()
	for _, p := range f.Progs {
		require.NotEqual(t, elf.PT_INTERP, p.Type, "needs a dynamic linker")
	}
	libs, err := f.ImportedLibraries()
	require.NoError(t, err)
	require.Empty(t, libs)
}
