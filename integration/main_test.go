//go:build integration || vm

package integration

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
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
	return dir, hosttest.Build(dir, map[string]string{
		"qemu-hook": "hooks/qemu", "libvirt-direct": "cmd/libvirt-direct", "killhook": "integration/killhook",
	})
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
