package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"libvirt-direct/hooks"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/libvirtd"
	"libvirt-direct/xmlfilter"
)

func rewriteCommand(o *options) *cobra.Command {
	var name string
	var dry, undo bool
	c := &cobra.Command{
		Use:   "rewrite [--undo] [--domain NAME [--dry-run]] [< domain.xml]",
		Short: "Rewrite a domain's NICs into what libvirt takes on this host",
		Long: `rewrite turns what libvirt refuses into what it takes: a VLAN on a macvtap becomes a VLAN
sub-interface, an uplink's name this host's device, a hook-owned NIC type='ethernet'. Without
--domain it reads a domain's XML and prints the whole of it, changed or not. With --domain it
defines that domain anew. What it changes it keeps in the metadata, so that --undo restores it.`,
		Example: "  libvirt-direct rewrite --domain vm1 --dry-run\n  libvirt-direct rewrite < vm1.xml | virsh define /dev/stdin",
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := o.deadline(c)
			defer cancel()
			do := func(d *xmlfilter.Domain, doc []byte) ([]byte, []string, error) {
				if undo {
					return o.undone(d)
				}
				return o.rewritten(ctx, d)
			}
			if name != "" {
				return o.rewriteDefined(ctx, c, name, dry, do)
			}
			if dry {
				return usageError{errors.New("--dry-run goes with --domain: without it nothing is defined anyway")}
			}
			d, doc, err := readDomain(c)
			if err != nil {
				return err
			}
			out, _, err := do(d, doc)
			if err != nil {
				return err
			}
			_, err = c.OutOrStdout().Write(out)
			return err
		},
	}
	c.Flags().StringVar(&name, "domain", "", "rewrite the definition of the domain `NAME` through libvirt")
	c.Flags().BoolVar(&dry, "dry-run", false, "only say what would change")
	c.Flags().BoolVar(&undo, "undo", false, "put back what an earlier rewrite changed")
	return c
}

// rewritten returns a domain's XML rewritten for this host, and what was changed.
func (o *options) rewritten(ctx context.Context, d *xmlfilter.Domain) ([]byte, []string, error) {
	v, err := o.survey(ctx, d)
	if err != nil {
		return nil, nil, err
	}
	changes, err := hooks.Rewrite(d, v.cfg, v.host, true)
	if err != nil {
		return nil, nil, err
	}
	out, err := d.Rewrite(changes)
	return out, hooks.ExplainChanges(d, changes), err
}

// undone returns a domain's XML as it was before. A domain that asks to be rewritten
// as soon as it is defined stops asking, or the agent would do it again.
func (o *options) undone(d *xmlfilter.Domain) ([]byte, []string, error) {
	out, err := d.Undo()
	if err != nil {
		return nil, nil, err
	}
	cfg, err := config.Load(o.config)
	if err != nil {
		return nil, nil, err
	}
	back, err := xmlfilter.Parse(out)
	if err != nil {
		return nil, nil, err
	}
	if back.Wish == "yes" || back.Wish == "" && cfg.Watch.Wants(d.Name) {
		out, err = back.SetRewrite("no")
	}
	return out, []string{"put back what was before rewrite"}, err
}

func (o *options) rewriteDefined(ctx context.Context, c *cobra.Command, name string, dry bool,
	do func(*xmlfilter.Domain, []byte) ([]byte, []string, error),
) error {
	conn, err := libvirtd.Dial(ctx, o.connect)
	if err != nil {
		return err
	}
	defer conn.Close()
	dom, err := conn.Lookup(ctx, name)
	if err != nil {
		return err
	}
	notes, err := redefine(ctx, conn, dom, dry, do)
	if err != nil {
		return err
	}
	w := c.OutOrStdout()
	if len(notes) == 0 {
		fmt.Fprintf(w, "domain %q: nothing to change\n", name)
	}
	for _, n := range notes {
		fmt.Fprintf(w, "domain %q: %s\n", name, n)
	}
	if dry && len(notes) > 0 {
		fmt.Fprintln(w, "nothing was done (--dry-run)")
	}
	return nil
}

// redefine defines a domain anew if do changes its XML, and returns what it changed.
func redefine(ctx context.Context, conn *libvirtd.Conn, dom libvirtd.Domain, dry bool,
	do func(*xmlfilter.Domain, []byte) ([]byte, []string, error),
) ([]string, error) {
	text, err := conn.XML(ctx, dom)
	if err != nil {
		return nil, err
	}
	doc := []byte(text)
	d, err := xmlfilter.Parse(doc)
	if err != nil {
		return nil, err
	}
	out, notes, err := do(d, doc)
	if err != nil || bytes.Equal(out, doc) {
		return nil, err
	}
	if dry {
		return slices.Clip(notes), nil
	}
	return notes, conn.Define(ctx, string(out))
}
