package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"libvirt-direct/hooks"
	"libvirt-direct/hooks/plan"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/libvirtd"
	"libvirt-direct/xmlfilter"
)

func rewriteCommand(o *options) *cobra.Command {
	var name string
	var dry, undo bool
	var said []string
	c := &cobra.Command{
		Use:   "rewrite [--undo] [--settings OLD=NEW]... [--domain NAME [--dry-run]] [< domain.xml]",
		Short: "Rewrite a domain's NICs into what libvirt takes on this host",
		Long: `rewrite turns what libvirt refuses into what it takes: a VLAN on a macvtap becomes a VLAN
sub-interface, an uplink's name this host's device, a hook-owned NIC type='ethernet'. Without
--domain it reads a domain's XML and prints the whole of it, changed or not. With --domain it
defines that domain anew. What it changes it keeps in the metadata, so that --undo restores it.

Of a clone it gives the settings to the NICs that have new MACs, and devices of their own. Where
it is not clear for which NIC settings are, it says between which; --settings OLD=NEW tells it.`,
		Example: "  libvirt-direct rewrite --domain vm1 --dry-run\n  libvirt-direct rewrite < vm1.xml | virsh define /dev/stdin\n" +
			"  libvirt-direct rewrite --domain vm2 --settings 52:54:00:00:00:01=52:54:00:00:00:02",
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			named := c.Flags().Changed("domain")
			var d *xmlfilter.Domain
			switch {
			case named && name == "":
				return usageError{errors.New("--domain wants a name")}
			case dry && !named:
				return usageError{errors.New("--dry-run goes with --domain: without it nothing is defined anyway")}
			case !named:
				var err error
				if d, err = readDomain(c); err != nil {
					return err
				}
			}
			ctx, cancel := o.deadline(c)
			defer cancel()
			whose, err := saidSettings(said)
			if err != nil {
				return usageError{err}
			}
			then := o.rewritten
			if undo {
				then = o.undone
			}
			do := o.repaired(whose, then)
			if named {
				return o.rewriteDefined(ctx, c, name, dry, do)
			}
			out, _, err := do(ctx, o.records(), d)
			if err != nil {
				return err
			}
			_, err = c.OutOrStdout().Write(out)
			return err
		},
	}
	c.Flags().StringVar(&name, "domain", "", "rewrite the definition of the domain `NAME` through libvirt")
	// As in complete, it cannot fail.
	_ = c.RegisterFlagCompletionFunc("domain", o.domainNames)
	c.Flags().BoolVar(&dry, "dry-run", false, "only say what would change")
	c.Flags().BoolVar(&undo, "undo", false, "put back what an earlier rewrite changed")
	c.Flags().StringArrayVar(&said, "settings", nil, "`OLD=NEW` gives the settings of OLD, a MAC or alias that no NIC has any more, to the NIC NEW; OLD= drops them; may be repeated")
	return c
}

// completionTime is how long a shell waits at most for libvirt, after a Tab.
const completionTime = 2 * time.Second

// domainNames offers libvirt's domains for a flag's value.
func (o *options) domainNames(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(c.Context(), completionTime)
	defer cancel()
	conn, err := libvirtd.Dial(ctx, o.connect)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	defer conn.Close()
	domains, err := conn.Domains(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, d := range domains {
		names = append(names, d.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// saidSettings reads what --settings says: OLD=NEW, each a MAC or an alias.
func saidSettings(said []string) (map[string]string, error) {
	whose := map[string]string{}
	for _, text := range said {
		from, to, ok := strings.Cut(text, "=")
		if from = xmlfilter.NormalKey(from); !ok || from == "" {
			return nil, fmt.Errorf("--settings %q: want OLD=NEW, MACs or aliases, or OLD= to drop them", text)
		}
		if _, twice := whose[from]; twice {
			return nil, fmt.Errorf("--settings %q: the settings of %s are for another NIC already", text, from)
		}
		whose[from] = xmlfilter.NormalKey(to)
	}
	return whose, nil
}

// repaired gives settings that belong to no NIC to the NICs that they are for, before
// something else is done.
func (o *options) repaired(whose map[string]string, then change) change {
	return func(ctx context.Context, rec hooks.Records, d *xmlfilter.Domain) ([]byte, []string, error) {
		if len(d.Stray) == 0 && len(whose) == 0 {
			return then(ctx, rec, d)
		}
		cfg, err := config.Load(o.config)
		if err != nil {
			return nil, nil, err
		}
		known := rec.Known()
		known.Said = whose
		d, notes, err := hooks.Repair(d, cfg, known)
		if err != nil {
			return nil, nil, err
		}
		out, more, err := then(ctx, rec, d)
		return out, append(notes, more...), err
	}
}

// rewritten returns a domain's XML rewritten for this host, and what was changed.
func (o *options) rewritten(ctx context.Context, rec hooks.Records, d *xmlfilter.Domain) ([]byte, []string, error) {
	v, err := o.survey(ctx, rec, d)
	if err != nil {
		return nil, nil, err
	}
	changes, err := plan.Rewrite(d, v.cfg, v.host)
	if err != nil {
		return nil, nil, err
	}
	out, err := d.Rewrite(changes)
	return out, hooks.ExplainChanges(d, changes), err
}

// undone returns a domain's XML as it was before. A domain that asks to be rewritten
// as soon as it is defined stops asking, or the agent would do it again.
func (o *options) undone(_ context.Context, _ hooks.Records, d *xmlfilter.Domain) ([]byte, []string, error) {
	out, err := d.Undo()
	if err != nil {
		return nil, nil, err
	}
	var notes []string
	for i := range d.NICs {
		if n := &d.NICs[i]; n.Settings != nil && n.Settings.Was != nil {
			notes = append(notes, n.String()+": put back what was before rewrite")
		}
	}
	cfg, err := config.Load(o.config)
	if err != nil {
		return nil, nil, err
	}
	back, err := xmlfilter.Parse(out)
	if err == nil && back.Wish == "" {
		err = cfg.WatchFault()
	}
	if err != nil {
		return nil, nil, err
	}
	if back.Wish == "yes" || back.Wish == "" && cfg.Watch.Wants(d.Name) {
		out, err = back.SetRewrite("no")
		notes = append(notes, "noted: rewrite='no', or `libvirt-direct watch` would rewrite it again")
	}
	return out, notes, err
}

// A change is what rewrite, or its undoing, makes of a domain: its XML, the same
// bytes where nothing changes, and a line for each thing changed.
type change func(context.Context, hooks.Records, *xmlfilter.Domain) (doc []byte, notes []string, err error)

func (o *options) rewriteDefined(ctx context.Context, c *cobra.Command, name string, dry bool, do change) error {
	conn, err := libvirtd.Dial(ctx, o.connect)
	if err != nil {
		return err
	}
	defer conn.Close()
	dom, err := conn.Lookup(ctx, name)
	if err != nil {
		return err
	}
	switch persistent, err := conn.Persistent(ctx, dom); {
	case err != nil:
		return err
	case !persistent:
		return fmt.Errorf("domain %q is transient, it has no definition to rewrite; rewrite its XML before it is created: libvirt-direct rewrite < domain.xml", name)
	}
	notes, err := o.redefine(ctx, conn, dom, dry, do)
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
	if len(notes) == 0 {
		return nil
	}
	if dry {
		fmt.Fprintln(w, "nothing was done (--dry-run)")
		return nil
	}
	if running, err := conn.Active(ctx, dom.UUID); err == nil && running {
		fmt.Fprintf(w, "domain %q is running: it changes with its next start\n", name)
	}
	return nil
}

// redefine defines a domain anew if do changes its XML, and returns what it changed.
func (o *options) redefine(ctx context.Context, conn *libvirtd.Conn, dom libvirtd.Domain, dry bool, do change) ([]string, error) {
	text, err := conn.XML(ctx, dom)
	if err != nil {
		return nil, err
	}
	doc := []byte(text)
	d, err := xmlfilter.Parse(doc)
	if err != nil {
		return nil, err
	}
	rec := o.records()
	if rec.Others, err = otherDefinitions(ctx, conn, dom); err != nil {
		return nil, err
	}
	rec.Named = namedElsewhere(rec.Others)
	out, notes, err := do(ctx, rec, d)
	if err != nil || bytes.Equal(out, doc) {
		return nil, err
	}
	if dry {
		return notes, nil
	}
	if err := conn.Define(ctx, string(out)); err != nil {
		return nil, fmt.Errorf("define domain %q: %w", dom.Name, err)
	}
	return notes, nil
}

// otherDefinitions reads the definitions of other domains, whether they run or not.
func otherDefinitions(ctx context.Context, conn *libvirtd.Conn, but libvirtd.Domain) ([]*xmlfilter.Domain, error) {
	domains, err := conn.Domains(ctx)
	if err != nil {
		return nil, err
	}
	var others []*xmlfilter.Domain
	for _, dom := range domains {
		if dom.UUID == but.UUID {
			continue
		}
		text, err := conn.XML(ctx, dom)
		if err != nil {
			continue // it was undefined just now
		}
		d, err := xmlfilter.Parse([]byte(text))
		if d == nil {
			return nil, fmt.Errorf("domain %q: %w", dom.Name, err)
		}
		others = append(others, d)
	}
	return others, nil
}

// namedElsewhere lists the virtual functions, by network device or PCI address, that
// definitions of other domains name: two that were rewritten for the same one could not run at
// the same time.
func namedElsewhere(others []*xmlfilter.Domain) (named []string) {
	for _, d := range others {
		for i := range d.NICs {
			switch n := &d.NICs[i]; {
			case n.Type == "direct" && n.Source.Mode == "passthrough":
				named = append(named, n.Source.Dev)
			case n.Type == "hostdev":
				named = append(named, n.Source.PCI)
			}
		}
	}
	return named
}
