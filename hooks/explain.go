package hooks

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"libvirt-direct/hooks/plan"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/settings"
	"libvirt-direct/xmlfilter"
)

// Explain writes what we would do for a domain: in all of its life, or in one
// operation. It touches nothing. Its text is for people; it is not a format.
func Explain(w io.Writer, op step.Op, d *xmlfilter.Domain, cfg *config.Config, host plan.Snapshot) error {
	fmt.Fprintf(w, "domain %q\n", d.Name)
	for _, key := range d.Stray {
		fmt.Fprintf(w, "  the metadata has settings for %s, which no NIC has\n", key)
	}
	for i := range d.NICs {
		n := &d.NICs[i]
		fmt.Fprintf(w, "  %s: %s\n", n, plan.Describe(d, cfg, host, n))
	}
	before := d
	changes, rewriteErr := plan.Rewrite(d, cfg, host)
	// What needs rewriting first is planned as it is afterwards.
	planned, planErr := plan.For(step.Prepare, d, cfg, host)
	then := ""
	if errors.Is(planErr, plan.ErrNotRewritten) && rewriteErr == nil && op == "" {
		if after, err := rewritten(d, changes); err == nil {
			d, then = after, ", once rewritten"
			planned, planErr = plan.For(step.Prepare, d, cfg, host)
		}
	}
	for _, o := range []step.Op{"rewrite", step.Prepare, step.Start, step.Started, step.Stopped, step.Release, step.Migrate, step.Restore, step.Reconnect} {
		if op != "" && o != op || op == "" && o == step.Started {
			continue
		}
		var lines []string
		var err error
		switch o {
		case "rewrite":
			lines, err = ExplainChanges(before, changes), rewriteErr
		case step.Migrate, step.Restore:
			if op == "" {
				continue // XML from elsewhere
			}
			var renames []xmlfilter.Change
			renames, _, err = plan.Remap(before, cfg, host, plan.OriginOf(o))
			lines = ExplainChanges(before, renames)
		case step.Prepare, step.Start, step.Reconnect:
			if op == "" && o == step.Reconnect {
				continue
			}
			var steps []step.Step
			steps, err = plan.For(o, d, cfg, host)
			for _, s := range steps {
				lines = append(lines, "NIC "+s.NIC+": "+s.String())
			}
		case step.Stopped, step.Release:
			if err = planErr; err != nil && op == "" {
				continue // said under prepare
			}
			started, startErr := plan.For(step.Start, d, cfg, host)
			if startErr != nil {
				started = nil // said under start
			}
			lines = explainUndo(o, slices.Concat(planned, started))
		}
		if o == "rewrite" {
			fmt.Fprintf(w, "%s:\n", o)
		} else {
			fmt.Fprintf(w, "%s%s:\n", o, then)
		}
		switch {
		case err != nil && op != "":
			return err
		case err != nil:
			fmt.Fprintf(w, "  refused: %s\n", OneLine(err))
		case len(lines) == 0:
			fmt.Fprintln(w, "  nothing")
		}
		for _, l := range lines {
			fmt.Fprintf(w, "  %s\n", l)
		}
	}
	for i := range d.NICs {
		n := &d.NICs[i]
		if s, err := plan.SettingsOf(cfg, host, n); err != nil || n.Settings == nil || !s.Own {
			continue
		}
		fmt.Fprintf(w, "what hook-owned %s loses:\n", n)
		for _, l := range plan.Loses(n) {
			fmt.Fprintf(w, "  %s\n", l)
		}
	}
	return nil
}

// rewritten is the domain as it is after its changes.
func rewritten(d *xmlfilter.Domain, changes []xmlfilter.Change) (*xmlfilter.Domain, error) {
	doc, err := d.Rewrite(changes)
	if err != nil {
		return nil, err
	}
	return xmlfilter.Parse(doc)
}

// ExplainChanges says what each change does, a line for each.
func ExplainChanges(d *xmlfilter.Domain, changes []xmlfilter.Change) []string {
	var lines []string
	for _, c := range changes {
		lines = append(lines, explainChange(d, c))
	}
	return lines
}

func explainChange(d *xmlfilter.Domain, c xmlfilter.Change) string {
	n := &d.NICs[c.NIC]
	var parts []string
	if c.SourceDev != "" {
		parts = append(parts, fmt.Sprintf("<source dev='%s'> becomes '%s'", n.Source.Dev, c.SourceDev))
	}
	if c.SourceBridge != "" {
		parts = append(parts, fmt.Sprintf("<source bridge='%s'> becomes '%s'", n.Source.Bridge, c.SourceBridge))
	}
	if c.SourceMode != "" {
		parts = append(parts, fmt.Sprintf("mode becomes '%s'", c.SourceMode))
	}
	if c.DropVirtualPort {
		parts = append(parts, "<virtualport> goes: the hook associates the port")
	}
	if c.DropVLAN {
		parts = append(parts, "<vlan> goes")
	}
	if c.Ethernet != "" {
		parts = append(parts, fmt.Sprintf("it becomes <interface type='ethernet'> with <target dev='%s' managed='no'/>", c.Ethernet))
	}
	for _, name := range settings.Names(settings.InNIC) {
		if v, ok := c.Settings[name]; ok && v != "" {
			parts = append(parts, fmt.Sprintf("noted: %s='%s'", name, v))
		}
	}
	if c.WasDev != "" {
		parts = append(parts, fmt.Sprintf("the kept original names '%s'", c.WasDev))
	}
	return n.String() + ": " + strings.Join(parts, "; ")
}

// explainUndo says what an operation undoes of what was done, last first.
func explainUndo(op step.Op, steps []step.Step) []string {
	var lines []string
	for i, s := range slices.Backward(steps) {
		text := s.Undoes()
		// What start sets is put back with what prepare has remembered.
		again := slices.ContainsFunc(steps[:i], func(o step.Step) bool { return o.Key() == s.Key() })
		if text != "" && s.Until() == op && !again {
			lines = append(lines, "NIC "+s.NIC+": "+text)
		}
	}
	return lines
}
