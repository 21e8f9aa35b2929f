package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
)

// docs/commands.md, from which the manual page is made, has between these lines what
// --help says. go test -run TestReference -update ./cmd/libvirt-direct writes it anew.
const (
	commandsDoc = "../../docs/commands.md"
	begin       = "<!-- what --help says: -->\n"
	end         = "<!-- so far --help -->\n"
)

func TestReferenceSaysWhatHelpSays(t *testing.T) {
	doc, err := os.ReadFile(commandsDoc)
	require.NoError(t, err)
	before, rest, found := strings.Cut(string(doc), begin)
	require.True(t, found)
	_, after, found := strings.Cut(rest, end)
	require.True(t, found)
	root := command()
	addCobras(root)
	var b strings.Builder
	b.WriteString(before + begin + "\n")
	for _, c := range root.Commands() {
		describe(&b, c)
	}
	b.WriteString("## Options of all commands\n\n")
	flagTable(&b, root.PersistentFlags())
	b.WriteString(end + after)
	if *update {
		require.NoError(t, os.WriteFile(commandsDoc, []byte(b.String()), 0o644))
		return
	}
	require.Equal(t, string(doc), b.String(), "go test -run TestReference -update ./cmd/libvirt-direct")
}

// describe writes a command and those below it as Markdown.
func describe(b *strings.Builder, c *cobra.Command) {
	if c.Hidden || c.Name() == "help" {
		return
	}
	if c.Runnable() && !c.HasSubCommands() || c.Name() == "completion" {
		use := strings.TrimPrefix(c.CommandPath(), "libvirt-direct ") + strings.TrimPrefix(c.Use, c.Name())
		if c.Name() == "completion" {
			use = "completion bash|zsh|fish"
		}
		fmt.Fprintf(b, "## libvirt-direct %s\n\n%s.\n\n", escapeMarkdown(use), escapeMarkdown(c.Short))
		if c.Long != "" && c.Name() != "completion" {
			// What is indented in --help is code in Markdown.
			fmt.Fprintf(b, "%s\n\n", strings.ReplaceAll(escapeMarkdown(c.Long), "\n  ", "\n    "))
		}
		if c.Name() == "completion" {
			return
		}
		if c.Example != "" {
			b.WriteString("```sh\n")
			for line := range strings.Lines(c.Example) {
				b.WriteString(strings.TrimPrefix(line, "  "))
			}
			b.WriteString("\n```\n\n")
		}
		flagTable(b, c.NonInheritedFlags())
	}
	for _, sub := range c.Commands() {
		describe(b, sub)
	}
	if c.HasAvailablePersistentFlags() {
		fmt.Fprintf(b, "## Options of all %s commands\n\n", c.Name())
		flagTable(b, c.PersistentFlags())
	}
}

func flagTable(b *strings.Builder, flags *pflag.FlagSet) {
	rows := ""
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		name, usage := pflag.UnquoteUsage(f)
		term := "--" + f.Name
		if name != "" {
			term += " " + name
		}
		by := ""
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0" && f.DefValue != "[]" {
			by = "`" + f.DefValue + "`"
		}
		rows += fmt.Sprintf("| `%s` | %s | %s |\n", term, by, strings.ReplaceAll(escapeMarkdown(usage), "|", `\|`))
	})
	if rows != "" {
		b.WriteString("| option | default | meaning |\n|---|---|---|\n" + rows + "\n")
	}
}

// escapeMarkdown keeps "<ld:nics …>" from being taken for HTML.
func escapeMarkdown(s string) string { return strings.ReplaceAll(s, "<", `\<`) }
