package docs

import (
	"regexp"
	"slices"
	"strings"
)

// Block is a block of commands, and what it is said to print.
type Block struct {
	Line   int
	Words  []string // behind "sh"
	Text   string
	Output *string // nil: nothing is said
}

// Says reports whether a word stands behind "sh".
func (b Block) Says(word string) bool { return slices.Contains(b.Words, word) }

// Blocks returns the commands of a page.
func Blocks(page string) (all []Block) {
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
				all = append(all, Block{Line: i + 2, Words: words[1:]})
				last = len(all) - 1
			} else if len(words) > 0 && words[0] == "text" && last >= 0 {
				inside = "text"
				all[last].Output = new(string)
			}
		case inside == "sh":
			all[last].Text += line + "\n"
		case inside == "text":
			*all[last].Output += line + "\n"
		case inside == "" && line != "":
			last = -1
		}
	}
	return all
}

// Shown reports whether a page's text shows what was printed. How wide blanks are, as
// between columns, and empty lines at the end do not count.
func Shown(want, got string) bool {
	blanks := regexp.MustCompile(`[ \t]+`)
	plain := func(s string) string { return strings.TrimRight(blanks.ReplaceAllString(s, " "), "\n ") + "\n" }
	want, got = plain(want), plain(got)
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
