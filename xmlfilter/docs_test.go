package xmlfilter

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The reference lists the words that exist, and its example is understood.
func TestReferenceIsTrue(t *testing.T) {
	raw, err := os.ReadFile("../docs/metadata.md")
	require.NoError(t, err)
	doc := string(raw)
	_, table, ok := strings.Cut(doc, "\n## `<nic>`")
	require.True(t, ok)
	table, _, _ = strings.Cut(table, "\n## ")
	var listed []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z]+)` \\|").FindAllStringSubmatch(table, -1) {
		listed = append(listed, m[1])
	}
	want := WordNames()
	slices.Sort(want)
	slices.Sort(listed)
	require.Equal(t, want, listed)

	_, example, ok := strings.Cut(doc, "```xml\n")
	require.True(t, ok)
	example, _, _ = strings.Cut(example, "```")
	d, err := Parse([]byte("<domain>" + example + "<devices><interface type='direct'><mac address='52:54:00:00:00:01'/></interface></devices></domain>"))
	require.NoError(t, err)
	require.Equal(t, 100, d.NICs[0].Words.VLAN)
	require.Equal(t, "yes", d.Wish)
}
