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
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check [--json]",
		Short: "Check that the hook, its configuration and this host are sound",
		Long: `check prints one line for each thing it looks at: "ok", a "note" of what may be meant so, or a
"FAULT" with what to do about it. It exits with 1 if it found a fault.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := o.deadline(cmd)
			defer cancel()
			found := checks.Run(ctx, &checks.Env{
				Config: o.config, Libvirt: o.connect, Records: o.records(),
				Stale: func(ctx context.Context) ([]string, error) { return o.collect(ctx, true) },
			})
			w := cmd.OutOrStdout()
			if asJSON {
				if err := printJSON(w, found); err != nil {
					return err
				}
			} else if err := printFindings(w, found); err != nil {
				return err
			}
			if slices.ContainsFunc(found, func(f checks.Finding) bool { return f.Level == checks.Fault }) {
				return errFound
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printFindings(w io.Writer, found []checks.Finding) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range found {
		fmt.Fprintf(table, "%s\t%s\t%s\n", f.Level, f.About, f.Text)
	}
	return table.Flush()
}
