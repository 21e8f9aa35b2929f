package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"

	"github.com/spf13/cobra"
)

// jsonFlag gives a command --json.
func jsonFlag(c *cobra.Command) *bool { return c.Flags().Bool("json", false, "print JSON") }

// report finds something out within a command's deadline and prints it, as JSON or else as
// text does. It prints nothing where find fails.
func report[T any](o *options, c *cobra.Command, asJSON bool, find func(context.Context) (T, error), text func(io.Writer, T)) error {
	ctx, cancel := o.deadline(c)
	defer cancel()
	found, err := find(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(c.OutOrStdout(), found)
	}
	var b bytes.Buffer // text need not look after errors
	text(&b, found)
	_, err = c.OutOrStdout().Write(b.Bytes())
	return err
}

// printJSON writes a value as a program, or a person with --json, reads it.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
