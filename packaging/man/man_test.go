package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var date = time.Date(2026, 3, 4, 0, 0, 0, 0, time.UTC)

// written returns a folder with the pages.
func written(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, write("../../docs", dir, date))
	return dir
}

// plain is a page's text, without markup and line breaks, and its headings.
func plain(t *testing.T, file string) (text string, headings []string) {
	t.Helper()
	roff, err := os.ReadFile(file)
	require.NoError(t, err)
	text = regexp.MustCompile(`\\f[A-Z]|\\&`).ReplaceAllString(string(roff), "")
	text = strings.NewReplacer(`\-`, "-", `\\`, `\`, `\[la]`, "<", `\[ra]`, ">", `\(aq`, "'").Replace(text)
	for _, m := range regexp.MustCompile(`(?m)^\.SH (.+)$`).FindAllStringSubmatch(text, -1) {
		headings = append(headings, m[1])
	}
	text = regexp.MustCompile(`(?m)^\.[A-Z]+ ?`).ReplaceAllString(text, "")
	return strings.Join(strings.Fields(text), " "), headings
}

// Every section, and the first cell of every table's row, of each document is in one
// of its pages: options, keys, words, states.
func TestPagesHaveWhatTheDocumentsHave(t *testing.T) {
	dir := written(t)
	texts, headings := map[string]string{}, map[string][]string{}
	for _, p := range pages() {
		text, titles := plain(t, filepath.Join(dir, p.file()))
		texts[p.doc] += text + " "
		headings[p.doc] = append(append(headings[p.doc], titles...), p.only...) // the first of these is called DESCRIPTION
	}
	markup := strings.NewReplacer("`", "", "**", "", `\<`, "<")
	for doc, text := range texts {
		source, err := os.ReadFile(filepath.Join("../../docs", doc))
		require.NoError(t, err)
		code, found := false, 0
		for line := range strings.Lines(string(source)) {
			if strings.HasPrefix(line, "```") {
				code = !code
			}
			if code {
				continue
			}
			if title, is := strings.CutPrefix(line, "## "); is {
				require.Contains(t, headings[doc], markup.Replace(strings.TrimSpace(title)), doc)
			}
			if strings.HasPrefix(line, "| ") && !strings.HasPrefix(line, "|--") {
				if term := markup.Replace(cells(line)[0]); term != "" && !isHeading(source, line) {
					found++
					require.Contains(t, text, term, "%s: %s", doc, line)
				}
			}
		}
		require.NotZero(t, found, doc)
	}
}

// isHeading reports whether a row is its table's first.
func isHeading(doc []byte, row string) bool { return strings.Contains(string(doc), row+"|---") }

// man-db, groff and mandoc have nothing to say of the pages, and whatis(1) can be made of them.
func TestPagesAreClean(t *testing.T) {
	for _, tool := range []string{"man", "lexgrog", "mandoc"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	dir := written(t)
	for _, p := range pages() {
		t.Run(p.file(), func(t *testing.T) {
			file := filepath.Join(dir, p.file())
			// As lintian does it.
			cmd := exec.CommandContext(t.Context(), "man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", file)
			cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MANROFFSEQ=", "MANWIDTH=80")
			var stderr strings.Builder
			cmd.Stderr = &stderr
			require.NoError(t, cmd.Run(), stderr.String())
			require.Empty(t, stderr.String())

			out, err := exec.CommandContext(t.Context(), "mandoc", "-T", "lint", "-W", "warning", file).CombinedOutput()
			require.NoError(t, err, "%s", out)

			out, err = exec.CommandContext(t.Context(), "lexgrog", file).CombinedOutput()
			require.NoError(t, err, "%s", out)
			require.Equal(t, file+`: "`+p.name+" - "+p.about+"\"\n", string(out))
		})
	}
}

func TestPagesAreReproducible(t *testing.T) {
	a, b := written(t), written(t)
	for _, p := range pages() {
		x, err := os.ReadFile(filepath.Join(a, p.file()))
		require.NoError(t, err)
		y, err := os.ReadFile(filepath.Join(b, p.file()))
		require.NoError(t, err)
		require.Equal(t, string(x), string(y))
		require.Contains(t, string(x), `"2026-03-04"`)
	}
	at, err := released("1767225600", date)
	require.NoError(t, err)
	require.Equal(t, "2026-01-01", at.Format(time.DateOnly))
	_, err = released("soon", date)
	require.Error(t, err)
}

func TestMarkdown(t *testing.T) {
	intro, sections := split("# Title\n<!-- no -->\nSee [the *other*](other.md#x) and [there](https://a.b/c).\n\n" +
		"## `A`\n\n```sh vm\n| not | a table |\n# comment\n```\n\n### B\n\n| key | values | default | meaning |\n|---|---|---|---|\n" +
		"| `k` | `a` \\| `b` | required | is [it](x.md) |\n| | `c` | 3 | more |\n")
	require.Equal(t, "See the *other* and [there](https://a.b/c).\n\n", intro)
	require.Equal(t, []section{{"A", "\n```\n| not | a table |\n# comment\n```\n\n## B\n\n" +
		"`k` `a` | `b` (required)\n:   is it\n\n`k` `c` (default: 3)\n:   more\n\n"}}, sections)
}

func FuzzSplit(f *testing.F) {
	f.Add("## A\n|a|b|\n|-|-|\n| | x |\n```\n")
	f.Add("| a |\n|---|\n|||||\n[x](y)")
	f.Fuzz(func(_ *testing.T, doc string) { split(doc) })
}
