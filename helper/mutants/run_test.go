//go:build integration

package mutants

import (
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMutants runs for minutes: make mutants. One of them is LONG=1 go test -tags integration -run TestMutants/NAME, which
// leaves out the look at whether the tests pass without any.
func TestMutants(t *testing.T) {
	if os.Getenv("LONG") != "1" {
		t.Skip("LONG=1 runs it")
	}
	require.Zero(t, os.Geteuid(), "the tests need root")
	module := copyModule(t)
	// Once: it is the helper that changes, and the tests build that themselves.
	out, err := in(module, "go", "test", "-c", "-tags", "integration", "-o", "helper/helper.test", "./helper")
	require.NoError(t, err, "%s", out)

	for _, dir := range []string{"integration/killhook", "integration/vm/testvm"} {
		out, err := in(module, "go", "build", "-tags", "vm", "-o", "bin/"+filepath.Base(dir), "./"+dir)
		require.NoError(t, err, "%s", out)
	}

	if !strings.Contains(flag.Lookup("test.run").Value.String(), "/") {
		named := map[bool][]string{} // those for the test machine, and the others
		for _, m := range mutants {
			named[needsMachine(t, m.test)] = append(named[needsMachine(t, m.test)], function(m.test))
		}
		for machine, names := range named {
			slices.Sort(names)
			out, err := runTest(module, machine, "^("+strings.Join(slices.Compact(names), "|")+")$")
			require.NoError(t, err, "without any mutant: %s", out)
		}
	}
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			path := filepath.Join(module, "helper", m.file)
			original, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(path, []byte(strings.Replace(string(original), m.old, m.new, 1)), 0o644))
			defer os.WriteFile(path, original, 0o644)
			f := function(m.test)
			out, err := runTest(module, needsMachine(t, m.test), "^"+f+"$"+strings.TrimPrefix(m.test, f))
			require.Error(t, err, "%s does not notice it: %s", m.test, out)
			require.Contains(t, out, "--- FAIL: "+f, "it fails, and not for the mutant")
			t.Log(out) // for a look at whether it is the right reason
		})
	}
}

// needsMachine reports whether a test runs in the test machine, whose kernel has what this one may lack.
func needsMachine(t *testing.T, test string) bool {
	t.Helper()
	files, err := filepath.Glob("../*_vm_test.go")
	require.NoError(t, err)
	return slices.ContainsFunc(files, func(f string) bool {
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		return strings.Contains(string(b), "\nfunc "+function(test)+"(")
	})
}

// runTest runs tests of the helper's, which build it from the module.
func runTest(module string, machine bool, pattern string) (string, error) {
	if machine {
		return in(module, "go", "test", "-tags", "vm", "-count=1", "-failfast", "-exec", module+"/bin/testvm -cpus 1 -t 20m --", "-run", pattern, "./helper")
	}
	return in(filepath.Join(module, "helper"), "./helper.test", "-test.run", pattern, "-test.failfast", "-test.timeout", "20m")
}

func in(dir string, args ...string) (string, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LONG=") // which is for this test, not for those that it runs
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// copyModule copies what go test needs of the module.
func copyModule(t *testing.T) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "module")
	from := filepath.Join("..", "..")
	require.NoError(t, filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if rel == "bin" || rel == "dist" || rel != "." && strings.HasPrefix(d.Name(), ".") {
				return fs.SkipDir
			}
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		if !d.Type().IsRegular() {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o644)
	}))
	// A kernel that a test downloads is the module's.
	cache, err := filepath.Abs(filepath.Join(from, ".cache"))
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(cache, 0o755))
	require.NoError(t, os.Symlink(cache, filepath.Join(to, ".cache")))
	return to
}
