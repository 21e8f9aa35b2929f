package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const folder = "../../docs"

// block is a block of commands, and what it is said to print.
type block struct {
	line   int
	words  []string // behind "sh"
	text   string
	output *string // nil: nothing is said
}

func (b block) says(word string) bool { return slices.Contains(b.words, word) }

// blocks returns the commands of a page.
func blocks(page string) (all []block) {
	inside, last := "", -1 // the language of the block; the block whose output may follow
	for i, line := range strings.Split(page, "\n") {
		info, fence := strings.CutPrefix(line, "```")
		switch words := strings.Fields(info); {
		case fence && inside != "":
			inside = ""
		case fence:
			inside = "other"
			if len(words) > 0 && words[0] == "sh" {
				inside = "sh"
				all = append(all, block{line: i + 2, words: words[1:]})
				last = len(all) - 1
			} else if len(words) > 0 && words[0] == "text" && last >= 0 {
				inside = "text"
				all[last].output = new(string)
			}
		case inside == "sh":
			all[last].text += line + "\n"
		case inside == "text":
			*all[last].output += line + "\n"
		case inside == "" && line != "":
			last = -1
		}
	}
	return all
}

// shown reports whether a page's text shows what was printed. Empty lines at the end
// do not count.
func shown(want, got string) bool {
	want, got = strings.TrimRight(want, "\n")+"\n", strings.TrimRight(got, "\n")+"\n"
	var pattern strings.Builder
	for line := range strings.Lines(want) {
		if line == "…\n" {
			pattern.WriteString(`(?:.*\n)*`)
			continue
		}
		parts := strings.Split(strings.TrimRight(line, " \n"), "…")
		for i := range parts {
			parts[i] = regexp.QuoteMeta(parts[i])
		}
		pattern.WriteString(strings.Join(parts, `.*`) + `[ ]*\n`)
	}
	return regexp.MustCompile(`^` + pattern.String() + `$`).MatchString(got)
}

func TestBlocks(t *testing.T) {
	got := blocks("# x\n```sh root fails\na\n```\n\n```text\nout …\n```\n\n```sh\nb\n```\nprose\n```text\nno\n```\n```toml\nx = 1\n```\n")
	out := "out …\n"
	require.Equal(t, []block{{3, []string{"root", "fails"}, "a\n", &out}, {11, []string{}, "b\n", nil}}, got)
	require.True(t, shown("a … c\n…\nend\n", "a b c  \n\nx\nend\n"))
	require.True(t, shown("…\nend\n", "end\n"))
	require.True(t, shown("a\n", "a\n\n"))
	require.False(t, shown("a…\n", "a\nb\n"))
	require.False(t, shown("a.c\n", "abc\n"))
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
