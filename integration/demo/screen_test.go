package main

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestScreenStaysWithinColumns(t *testing.T) {
	var b strings.Builder
	s := &screen{w: &b}
	s.hook(strings.Repeat("prepare ", 40))
	s.typed("demo", strings.Repeat("virsh ", 40))
	s.output("    deep: " + strings.Repeat("word ", 50) + "\n\n")
	s.say("%s", strings.Repeat("für ", 60))
	for line := range strings.Lines(b.String()) {
		require.LessOrEqual(t, utf8.RuneCountInString(strings.TrimSuffix(line, "\n")), columns, line)
		require.Equal(t, strings.TrimRight(line, " \n")+"\n", line)
	}
	require.NotContains(t, b.String(), "\x1b")
}

func TestScreenKeepsIndentation(t *testing.T) {
	var b strings.Builder
	s := &screen{w: &b}
	s.quote("    <a>\n      <b/>\n    </a>")
	s.hook("made it")
	require.Equal(t, "      <a>\n        <b/>\n      </a>\n  the hook: made it\n", b.String())
}

func TestColourOnlyWhereAsked(t *testing.T) {
	var b strings.Builder
	s := &screen{w: &b, colour: true}
	s.ok("so")
	require.Equal(t, "\x1b[32m  ok: \x1b[0mso\n", b.String())
}

func TestMessage(t *testing.T) {
	m, ok := message("PRIORITY=6\nMESSAGE=prepare \"g\": made x\nSYSLOG_IDENTIFIER=libvirt-direct\n")
	require.True(t, ok)
	require.Equal(t, `prepare "g": made x`, m)
	_, ok = message("MESSAGE_ID=1\n")
	require.False(t, ok)
}
