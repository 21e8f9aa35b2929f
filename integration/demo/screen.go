package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// columns is what a newcomer's terminal has.
const columns = 100

// A screen tells a story to a person: numbered steps with the time since the
// beginning, commands as typed with what they print, and what was found true.
type screen struct {
	w      io.Writer
	colour bool
	begin  time.Time
	steps  int
}

func newScreen(f *os.File) *screen {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return &screen{w: f, colour: err == nil && os.Getenv("NO_COLOR") == "", begin: time.Now()}
}

// ECMA-48 SGR parameters.
const (
	bold   = "1"
	green  = "32"
	yellow = "33"
	cyan   = "36"
)

func (s *screen) paint(parameter, text string) string {
	if !s.colour || parameter == "" || text == "" {
		return text
	}
	return "\x1b[" + parameter + "m" + text + "\x1b[0m"
}

// block writes text wrapped at the screen's width: head before its first line, and
// blanks of the same width before the others.
func (s *screen) block(head, headColour, text, colour string) {
	blank := strings.Repeat(" ", utf8.RuneCountInString(head))
	head = s.paint(headColour, head)
	for _, line := range wrap(text, columns-len(blank)) {
		fmt.Fprintln(s.w, head+s.paint(colour, line))
		head = blank
	}
}

func (s *screen) title(text string) { fmt.Fprintln(s.w, s.paint(bold, text)) }

// step begins a part of the story.
func (s *screen) step(text string) {
	s.steps++
	text = fmt.Sprintf("[%5.1f s] %d. %s", time.Since(s.begin).Seconds(), s.steps, text)
	fmt.Fprintf(s.w, "\n%s\n", s.paint(bold, text))
}

// say explains something.
func (s *screen) say(format string, args ...any) { s.block("  ", "", fmt.Sprintf(format, args...), "") }

// typed shows a command before it runs.
func (s *screen) typed(where, command string) { s.block("  "+where+"# ", "", command, cyan) }

// output shows what a command printed, or a part of a file.
func (s *screen) output(text string) {
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \r\n")
		rest := strings.TrimLeft(line, " \t")
		if rest != "" {
			s.block("      "+strings.Repeat(" ", len(line)-len(rest)), "", rest, "")
		}
	}
}

// quote shows a part of a file that is indented for where it stands in it.
func (s *screen) quote(text string) {
	rest := strings.TrimLeft(text, " ")
	indent := text[:len(text)-len(rest)]
	s.output(strings.ReplaceAll("\n"+text, "\n"+indent, "\n"))
}

// hook shows a line that the hook wrote to the log.
func (s *screen) hook(text string) { s.block("  the hook: ", yellow, text, yellow) }

// ok shows what was checked and found true.
func (s *screen) ok(format string, args ...any) {
	s.block("  ok: ", green, fmt.Sprintf(format, args...), "")
}

// wrap breaks text between words into lines of at most width characters. A longer
// word has a line of its own.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width:
			lines = append(lines, line)
			line = word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}
