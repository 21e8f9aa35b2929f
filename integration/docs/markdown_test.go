package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const folder = "../../docs"

func TestBlocks(t *testing.T) {
	got := Blocks("# x\n```sh root fails\na\n```\n\n```text\nout …\n```\n\n```sh\nb\n```\nprose\n```text\nno\n```\n```toml\nx = 1\n```\n")
	out := "out …\n"
	require.Equal(t, []Block{{3, []string{"root", "fails"}, "a\n", &out}, {11, []string{}, "b\n", nil}}, got)
	require.True(t, Shown("a … c\n…\nend\n", "a b c  \n\nx\nend\n"))
	require.True(t, Shown("…\nend\n", "end\n"))
	require.True(t, Shown("a  b\n", "a b\n\n"))
	require.False(t, Shown("a…\n", "a\nb\n"))
	require.False(t, Shown("a.c\n", "abc\n"))
}

// Links between the documents lead somewhere.
func TestLinks(t *testing.T) {
	pages, err := filepath.Glob(folder + "/*.md")
	require.NoError(t, err)
	anchor := func(file string) (all []string) {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(text), -1) {
			// As GitHub makes them.
			name := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
			all = append(all, strings.ReplaceAll(name, " ", "-"))
		}
		return all
	}
	for _, page := range append(pages, "../../README.md") {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, m := range regexp.MustCompile(`\]\(([^) ]+)\)`).FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			file, name, _ := strings.Cut(m[1], "#")
			target := page
			if file != "" {
				target = filepath.Join(filepath.Dir(page), file)
				require.FileExists(t, target, "%s: %s", page, m[1])
			}
			if name != "" {
				require.Contains(t, anchor(target), name, "%s: %s", page, m[1])
			}
		}
	}
}
