package main

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The reference lists the options that there are.
func TestOptionsAreDocumented(t *testing.T) {
	var help bytes.Buffer
	if err := run(t.Context(), []string{"-h"}, &help); !errors.Is(err, flag.ErrHelp) {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("../../docs/802.1Qbg.md")
	require.NoError(t, err)
	_, table, found := strings.Cut(string(doc), "\n## Options\n")
	require.True(t, found)
	table, _, _ = strings.Cut(table, "\n## ")
	names := func(pattern, text string) (all []string) {
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
			all = append(all, m[1])
		}
		return all
	}
	require.ElementsMatch(t, names(`(?m)^  -([a-z-]+)`, help.String()), names("(?m)^\\| `-([a-z-]+)", table))
}
