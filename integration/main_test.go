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
	"libvirt-direct/integration/vm"
)

func TestMain(m *testing.M) {
	host.MaybeInit()
	code := m.Run()
	if dir, err := programs(); err == nil && !inMachine() {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// programs returns the directory with the programs under test. They are built once,
// but not in the test machine, where that takes minutes: there they lie in bin/.
var programs = sync.OnceValues(func() (string, error) {
	if inMachine() {
		return filepath.Abs("../bin")
	}
	dir, err := os.MkdirTemp("", "libvirt-direct-bin-")
	if err != nil {
		return "", err
	}
	for name, source := range map[string]string{
		"qemu-hook": "../hooks/qemu", "libvirt-direct": "../cmd/libvirt-direct", "killhook": "./killhook",
	} {
		build := exec.Command("go", "build", "-tags", "integration", "-o", filepath.Join(dir, name), source)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %w: %s", name, err, out)
		}
	}
	return dir, nil
})

func inMachine() bool { return os.Getenv(vm.Variable) != "" }

// program returns one of them: "qemu-hook", "libvirt-direct" or "killhook". It is seen inside
// hosts at the same path.
func program(tb testing.TB, name string) string {
	tb.Helper()
	dir, err := programs()
	if err != nil {
		tb.Fatal(err)
	}
	return filepath.Join(dir, name)
}
