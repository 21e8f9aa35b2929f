//go:build integration || vm

package integration

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"libvirt-direct/hooks"
	"libvirt-direct/integration/host"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/state"
	"libvirt-direct/xmlfilter"
)

// insideVariable makes the test program, run inside a host, do one thing that has to
// be done there, instead of the tests.
const insideVariable = "LIBVIRT_DIRECT_TEST_INSIDE"

func TestMain(m *testing.M) {
	host.MaybeInit()
	if what := os.Getenv(insideVariable); what != "" {
		if err := inside(what, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, hooks.OneLine(err))
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	if dir, err := programs(); err == nil && os.Getenv(binVariable) == "" {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

func inside(what string, args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	kernel, err := link.Open()
	if err != nil {
		return err
	}
	defer kernel.Close()
	switch what {
	case "rewrite": // standard input, as at define time
		return rewriteInside(ctx, kernel)
	case "gc": // the arguments are the UUIDs of the domains that run
		dir, err := state.Open(state.DefaultDir)
		if err != nil {
			return err
		}
		gc := hooks.Collector{Kernel: kernel, Dir: dir, Alive: func(_ context.Context, uuid, _ string) (bool, error) {
			return slices.Contains(args, uuid), nil
		}}
		done, err := gc.Run(ctx)
		fmt.Println(strings.Join(done, "\n"))
		return err
	}
	return fmt.Errorf("%s: unknown", what)
}

func rewriteInside(ctx context.Context, kernel hooks.Kernel) error {
	doc, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	d, err := xmlfilter.Parse(doc)
	if err != nil {
		return err
	}
	cfg, err := config.Load(config.Path)
	if err != nil {
		return err
	}
	survey, err := hooks.Survey(ctx, kernel, cfg, d)
	if err != nil {
		return err
	}
	changes, err := hooks.Rewrite(d, cfg, survey, true)
	if err != nil {
		return err
	}
	out, err := d.Rewrite(changes)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(out)
	return err
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
	build := exec.Command("go", "build", "-tags", "integration", "-o", dir, "../hooks/qemu", "./killhook")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the hook: %w: %s", err, out)
	}
	return dir, nil
})

// program returns one of them: "qemu" or "killhook".
func program(tb testing.TB, name string) string {
	tb.Helper()
	dir, err := programs()
	if err != nil {
		tb.Fatal(err)
	}
	return filepath.Join(dir, name)
}
