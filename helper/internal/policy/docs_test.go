package policy

import (
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The reference's tables list the keys that the parser knows, with their defaults, and what it shows as the file, or
// as a command that writes the file, is one.
func TestReferenceIsTrue(t *testing.T) {
	b, err := os.ReadFile("../../../docs/helper.md")
	require.NoError(t, err)
	doc := string(b)
	require.Contains(t, doc, Path)

	source, err := os.ReadFile("parse.go")
	require.NoError(t, err)
	_, set, found := strings.Cut(string(source), "func (p *parser) set(")
	require.True(t, found)
	set, _, _ = strings.Cut(set, "\n}\n")
	known := []string{"passthrough", "ovs-socket"}
	for _, m := range regexp.MustCompile(`(?m)^\tcase "([a-z-]+)":$`).FindAllStringSubmatch(set, -1) {
		known = append(known, m[1])
	}
	defaults := map[string]string{}
	var listed []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| (.*?) \\| (.*?) \\|").FindAllStringSubmatch(doc, -1) {
		listed = append(listed, m[1])
		defaults[m[1]] = m[3]
		if limit, ok := map[string]int{"max-per-user": LimitPerUser, "max": LimitMax, "queues": LimitQueues}[m[1]]; ok {
			require.Equal(t, "1–"+strconv.Itoa(limit), m[2], m[1])
		}
	}
	slices.Sort(known)
	slices.Sort(listed)
	require.Equal(t, known, slices.Compact(listed)) // bridge is in two tables

	c, err := Parse([]byte("[m]\nkind = macvtap\nlower = e\n[b]\nkind = bridge\nbridge = b\n"))
	require.NoError(t, err)
	m, br := c.Profile("m"), c.Profile("b")
	word := func(yes bool) string { return map[bool]string{true: "`yes`", false: "`no`"}[yes] }
	require.Equal(t, strconv.Itoa(m.MaxPerUser), defaults["max-per-user"])
	require.Equal(t, strconv.Itoa(m.Max), defaults["max"])
	require.Equal(t, strconv.Itoa(m.Queues), defaults["queues"])
	require.Equal(t, "`"+m.Mode.String()+"`", defaults["mode"])
	require.Equal(t, word(m.Visible), defaults["visible"])
	require.Equal(t, word(br.Isolated), defaults["isolated"])
	require.Equal(t, word(br.Learning), defaults["learning"])
	require.Equal(t, word(m.AntiSpoof)+" for macvtap, "+word(br.AntiSpoof)+" for bridge and ovs", defaults["anti-spoof"])
	require.Equal(t, Isolated, m.Device)
	require.Equal(t, Plain, br.Device)
	require.Equal(t, "`isolated` where anti-spoof is on and it is possible, otherwise `tap` or `macvtap`", defaults["device"])

	example := regexp.MustCompile("(?s)```ini\n(.*?)```").FindStringSubmatch(doc)
	require.NotNil(t, example)
	c, err = Parse([]byte(example[1]))
	require.NoError(t, err)
	require.Len(t, c.Profiles, 5)
	for i := range c.Profiles {
		require.NotEmpty(t, c.Profiles[i].Allow, "the example is of use to somebody")
	}
	first := regexp.MustCompile(`printf '(.*)' \| sudo tee `).FindStringSubmatch(doc)
	require.NotNil(t, first)
	_, err = Parse([]byte(strings.ReplaceAll(first[1], `\n`, "\n")))
	require.NoError(t, err)
}
