package main

import (
	"fmt"
	"regexp"
	"strings"
)

// section is what stands below a heading of the second level.
type section struct{ title, text string }

// split takes a document apart, below its title, and puts what a manual page cannot
// show into words that it can. Code blocks stay as they are.
func split(doc string) (intro string, sections []section) {
	at := &intro
	code := false
	var table []string
	flush := func() {
		*at += definitions(table)
		table = nil
	}
	for line := range strings.Lines(doc) {
		text := strings.TrimRight(line, "\n")
		fence := strings.HasPrefix(strings.TrimSpace(text), "```")
		if !code && !fence && strings.HasPrefix(text, "|") {
			table = append(table, text)
			continue
		}
		flush()
		title, isSection := strings.CutPrefix(text, "## ")
		switch {
		case fence:
			code = !code
			if code { // the info string is for those who run it
				text = text[:strings.Index(text, "```")+3]
			}
			*at += text + "\n"
		case code || strings.HasPrefix(text, "    "):
			*at += line
		case strings.HasPrefix(text, "<!--") || strings.HasPrefix(text, "# "):
		case isSection:
			sections = append(sections, section{title: strings.Trim(title, "`")})
			at = &sections[len(sections)-1].text
		default:
			// What are headings of the third level below a section is one of the second in a page.
			if h, is := strings.CutPrefix(text, "### "); is {
				text = "## " + h
			}
			*at += links(text) + "\n"
		}
	}
	flush()
	return intro, sections
}

var link = regexp.MustCompile(`\[([^]]*)\]\(([^)]*)\)`)

// links leaves the words of links between documents; SEE ALSO has the pages.
func links(text string) string {
	return link.ReplaceAllStringFunc(text, func(s string) string {
		m := link.FindStringSubmatch(s)
		if strings.Contains(m[2], "://") {
			return s
		}
		return m[1]
	})
}

// definitions turns a table into a list of definitions: in 80 columns few tables can
// be read. Columns are told by their headings: "values" and "default" are said beside the
// term, the last one is the text, and others are said in it with their heading.
func definitions(table []string) string {
	if len(table) < 3 {
		return ""
	}
	head := cells(table[0])
	before := ""
	var b strings.Builder
	for _, row := range table[2:] {
		c := cells(row)
		for len(c) < len(head) {
			c = append(c, "")
		}
		term, text := c[0], []string{}
		switch {
		case term == "": // as above
			term = before
		case !strings.ContainsAny(term, "*`"):
			term = "**" + term + "**"
		}
		before = term
		for i := 1; i < len(head); i++ {
			switch {
			case c[i] == "":
			case head[i] == "values":
				term += " " + c[i]
			case head[i] == "default" && c[i] == "required":
				term += " (required)"
			case head[i] == "default":
				term += " (default: " + c[i] + ")"
			case head[i] == "meaning" || head[i] == "means" || len(head) == 2 || head[i] == "":
				text = append(text, c[i])
			default:
				text = append(text, head[i]+": "+c[i])
			}
		}
		body := strings.Join(text, "; ")
		if code := strings.Trim(body, "`"); len(code) > 66 && "`"+code+"`" == body { // a command that must not be broken
			fmt.Fprintf(&b, "%s\n\n```\n%s\n```\n\n", term, code)
		} else {
			fmt.Fprintf(&b, "%s\n:   %s\n\n", term, body)
		}
	}
	return b.String()
}

// cells are those of a table's row, without the markup of links.
func cells(row string) []string {
	row = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(row), "|"), "|")
	var all []string
	for c := range strings.SplitSeq(strings.ReplaceAll(row, `\|`, "\x00"), "|") {
		all = append(all, links(strings.ReplaceAll(strings.TrimSpace(c), "\x00", "|")))
	}
	return all
}
