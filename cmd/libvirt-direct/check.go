package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"libvirt-direct/internal/checks"
)

func checkCommand(o *options) *cobra.Command {
	var asJSON *bool
	c := &cobra.Command{
		Use:   "check [--json]",
		Short: "Check that the hook, its configuration and this host are sound",
		Long: `check prints one line for each thing it looks at: "ok", a "note" of what may be meant so, or a
"FAULT" with what to do about it. It exits with 1 if it found a fault. As root it also looks for
rules of nftables, iptables, ebtables and tc that keep guests' frames from passing.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			env := &checks.Env{
				Config: o.config, Libvirt: o.connect, Records: o.records(),
				Stale: func(ctx context.Context) ([]string, error) { return o.collect(ctx, true) },
			}
			var found []checks.Finding
			err := report(o, c, *asJSON, func(ctx context.Context) ([]checks.Finding, error) {
				found = checks.Run(ctx, env)
				return found, nil
			}, printFindings)
			if err == nil && slices.ContainsFunc(found, func(f checks.Finding) bool { return f.Level == checks.Fault }) {
				return errFound
			}
			return err
		},
	}
	asJSON = jsonFlag(c)
	return c
}

func printFindings(w io.Writer, found []checks.Finding) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range found {
		fmt.Fprintf(table, "%s\t%s\t%s\n", f.Level, f.About, f.Text)
	}
	table.Flush()
}
