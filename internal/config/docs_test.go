package config

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const reference = "../../docs/config.md"

// The reference shows the tested example, and its tables list the keys that exist.
func TestReferenceIsTrue(t *testing.T) {
	doc, err := os.ReadFile(reference)
	require.NoError(t, err)
	example, err := os.ReadFile("testdata/example.toml")
	require.NoError(t, err)
	require.Contains(t, string(doc), "```toml\n"+string(example)+"```")

	var listed []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z]+)` \\|").FindAllStringSubmatch(string(doc), -1) {
		listed = append(listed, m[1])
	}
	for _, m := range regexp.MustCompile("(?m)^## `\\[([a-z]+)").FindAllStringSubmatch(string(doc), -1) {
		listed = append(listed, m[1])
	}
	slices.Sort(listed)
	require.Equal(t, knownKeys(), slices.Compact(listed))
	require.Contains(t, strings.Split(string(doc), "\n")[0], Path)
}
