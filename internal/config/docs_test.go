package config

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const reference = "../../docs/config.md"

// allKeys lists the keys of a table and of those below it.
func allKeys(t reflect.Type) []string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	var all []string
	for key, below := range keys(t) {
		all = append(append(all, key), allKeys(below)...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

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
	require.Equal(t, allKeys(reflect.TypeFor[Config]()), slices.Compact(listed))
	require.Contains(t, strings.Split(string(doc), "\n")[0], Path)
}
