package packaging

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// For every file that a package installs, the manual says what a guest without settings sees
// of it. The packages' files are those with which the packages themselves are compared.
func TestManualListsEachFile(t *testing.T) {
	lists, err := filepath.Glob("testdata/*.files")
	require.NoError(t, err)
	require.Len(t, lists, 6)
	var installed []string
	for _, list := range lists {
		text, err := os.ReadFile(list)
		require.NoError(t, err)
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			i := slices.IndexFunc(f, func(s string) bool { return strings.HasPrefix(s, "/") })
			require.Positive(t, i, line)
			if strings.HasPrefix(f[0], "d") {
				continue
			}
			file := f[i]
			if unit, is := strings.CutPrefix(file, "/usr/lib/systemd/system/"); is { // Debian 12 has units in /lib
				file = "/lib/systemd/system/" + unit
			}
			installed = append(installed, file)
		}
	}
	manual, err := os.ReadFile("../docs/install.md")
	require.NoError(t, err)
	_, table, found := strings.Cut(string(manual), "\n| File |")
	require.True(t, found)
	table, _, _ = strings.Cut(table, "\n\n")
	var listed []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(/[^`]+)` \\|").FindAllStringSubmatch(table, -1) {
		listed = append(listed, m[1])
	}
	slices.Sort(installed)
	slices.Sort(listed)
	require.Equal(t, slices.Compact(installed), listed)
	requireTests(t, table)
}

// requireTests holds that the tests that the manual names are there.
func requireTests(t *testing.T, table string) {
	t.Helper()
	var all strings.Builder
	for _, pattern := range []string{"../hooks/*_test.go", "../internal/*/*_test.go", "../integration/*_test.go", "../integration/*/*_test.go", "*/*_test.go"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, f := range files {
			text, err := os.ReadFile(f)
			require.NoError(t, err)
			all.Write(text)
		}
	}
	named := regexp.MustCompile("`(Test[A-Za-z]+)`").FindAllStringSubmatch(table, -1)
	require.NotEmpty(t, named)
	for _, m := range named {
		require.True(t, strings.Contains(all.String(), "func "+m[1]+"("), "no test is called %s", m[1])
	}
}
