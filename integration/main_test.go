//go:build integration || vm

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"libvirt-direct/integration/host"
)

func TestMain(m *testing.M) {
	host.MaybeInit()
	code := m.Run()
	if dir, err := programs(); err == nil && os.Getenv(binVariable) == "" {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// binVariable names a directory that holds the programs already.
const binVariable = "LIBVIRT_DIRECT_BIN"

// programs returns the directory with the programs under test, built once.
var programs = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv(binVariable); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.MkdirTemp("", "libvirt-direct-bin-")
	if err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-tags", "integration", "-o", dir,
		"../hooks/qemu", "../cmd/libvirt-direct", "./killhook")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the programs: %w: %s", err, out)
	}
	return dir, nil
})

// program returns one of them: "qemu", "libvirt-direct" or "killhook". It is seen inside
// hosts at the same path.
func program(tb testing.TB, name string) string {
	tb.Helper()
	dir, err := programs()
	if err != nil {
		tb.Fatal(err)
	}
	return filepath.Join(dir, name)
}
