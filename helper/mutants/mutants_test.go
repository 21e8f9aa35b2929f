package mutants

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each mutant is one change of the code as it is, and names a test that exists.
func TestTable(t *testing.T) {
	var tests strings.Builder
	files, err := filepath.Glob("../*_test.go")
	require.NoError(t, err)
	for _, f := range files {
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		tests.Write(b)
	}
	names := map[string]bool{}
	for _, m := range mutants {
		require.False(t, names[m.name], "%s: twice", m.name)
		names[m.name] = true
		b, err := os.ReadFile(filepath.Join("..", m.file))
		require.NoError(t, err, m.name)
		require.Equal(t, 1, strings.Count(string(b), m.old), "%s: how often %q is in %s", m.name, m.old, m.file)
		require.NotEqual(t, m.old, m.new, m.name)
		require.Regexp(t, regexp.MustCompile(`(?m)^func `+function(m.test)+`\(t \*testing\.T\)`), tests.String(), m.name)
	}
}

// function is the test of which a mutant may name a subtest.
func function(test string) string {
	name, _, _ := strings.Cut(test, "/")
	return name
}
