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
	for _, s := range d.Stray {
		fmt.Fprintf(w, "  %s\n", plan.DescribeStray(d, cfg, s))
	}
	for i := range d.NICs {
		n := &d.NICs[i]
		fmt.Fprintf(w, "  %s: %s\n", n, plan.Describe(d, cfg, host, n))
	}
	e := newExplanation(op, d, cfg, host)
	for i := range e.after.NICs {
		for _, r := range plan.Refusals(host, &e.after.NICs[i]) {
			fmt.Fprintf(w, "  %s: %s\n", &e.after.NICs[i], r)
		}
	}
	ops := []step.Op{op}
	if op == "" { // XML from elsewhere, and a guest that libvirtd finds running, are asked for by name
		ops = []step.Op{opRewrite, step.Prepare, step.Start, step.Stopped, step.Release}
	}
	for _, o := range ops {
		if op == "" && e.planErr != nil && (o == step.Stopped || o == step.Release) {
			continue // said under prepare
		}
		lines, err := e.of(o)
		if err != nil && op != "" {
			fmt.Fprintf(w, "%s:\n", o)
			return err
		}
		if o == opRewrite {
			fmt.Fprintf(w, "%s:\n", o)
		} else {
			fmt.Fprintf(w, "%s%s:\n", o, e.then)
		}
		if err != nil {
			lines = []string{"refused: " + OneLine(err)}
		} else if len(lines) == 0 {
			lines = []string{"nothing"}
		}
		for _, l := range lines {
			fmt.Fprintf(w, "  %s\n", l)
		}
	}
	e.losses(w)
	for _, port := range e.ports() {
		for i, line := range host.Spoofers[port] {
			if i == 0 {
				fmt.Fprintf(w, "at the switch's port of %s:\n", port)
			}
			fmt.Fprintf(w, "  %s\n", line)
		}
	}
	return nil
}

// opRewrite is no operation of libvirt's, but what somebody does before.
const opRewrite step.Op = "rewrite"

// explanation has what the operations of one domain's life have in common.
type explanation struct {
	before, after *xmlfilter.Domain // being rewritten, where that is what it needs
	then          string            // says so
	cfg           *config.Config
	host          plan.Snapshot

	repairs    []string
	changes    []xmlfilter.Change
	rewriteErr error
	planned    []step.Step // by prepare
	planErr    error
}

func newExplanation(op step.Op, d *xmlfilter.Domain, cfg *config.Config, host plan.Snapshot) *explanation {
	e := &explanation{before: d, after: d, cfg: cfg, host: host}
	if e.before, e.repairs, e.rewriteErr = Repair(d, cfg, host.Known); e.rewriteErr == nil {
		e.changes, e.rewriteErr = plan.Rewrite(e.before, cfg, host)
	}
	e.planned, e.planErr = plan.For(step.Prepare, d, cfg, host)
	if !errors.Is(e.planErr, plan.ErrNotRewritten) || e.rewriteErr != nil || op != "" {
		return e
	}
	if after, err := rewritten(e.before, e.changes); err == nil {
		e.after, e.then = after, ", once rewritten"
		e.planned, e.planErr = plan.For(step.Prepare, after, cfg, host)
	}
	return e
}

// of says what one operation does, a line for each thing.
func (e *explanation) of(op step.Op) (lines []string, err error) {
	switch op {
	case opRewrite:
		return append(e.repairs, ExplainChanges(e.before, e.changes)...), e.rewriteErr
	case step.Migrate, step.Restore:
		renames, _, err := plan.Remap(e.before, e.cfg, e.host, plan.OriginOf(op))
		return ExplainChanges(e.before, renames), err
	case step.Prepare, step.Start, step.Reconnect:
		steps, err := plan.For(op, e.after, e.cfg, e.host)
		for _, s := range steps {
			lines = append(lines, "NIC "+s.NIC+": "+s.String())
		}
		return lines, err
	case step.Stopped, step.Release:
		started, err := plan.For(step.Start, e.after, e.cfg, e.host)
		if err != nil {
			started = nil // said under start
		}
		return explainUndo(op, slices.Concat(e.planned, started)), e.planErr
	}
	return nil, nil
}

// ports are those where the domain's NICs are associated by 802.1Qbg.
func (e *explanation) ports() (names []string) {
	started, _ := plan.For(step.Start, e.after, e.cfg, e.host) // why not is said elsewhere
	for _, s := range slices.Concat(e.planned, started) {
		if a, is := s.Kind.(step.Associated); is {
			names = append(names, a.AssociatedAt())
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// losses says what hook-owned NICs cannot have.
func (e *explanation) losses(w io.Writer) {
	for i := range e.after.NICs {
		n := &e.after.NICs[i]
		if s, err := plan.SettingsOf(e.cfg, e.host, n); err != nil || n.Settings == nil || !s.Own {
			continue
		}
		fmt.Fprintf(w, "what hook-owned %s loses:\n", n)
		for _, l := range plan.Loses(n) {
			fmt.Fprintf(w, "  %s\n", l)
		}
	}
}

// Repair returns the domain as rewrite makes it before anything else, and a line for each change:
// settings that belong to no NIC are given to those that they are for. With an error it returns
// the domain as it was.
func Repair(d *xmlfilter.Domain, cfg *config.Config, known plan.Known) (*xmlfilter.Domain, []string, error) {
	to, why, err := plan.Repair(d, cfg, known)
	if err != nil || len(to) == 0 {
		return d, nil, err
	}
	doc, err := d.Reassign(to)
	if err != nil {
		return d, nil, err
	}
	after, err := xmlfilter.Parse(doc)
	if err != nil {
		return d, nil, err
	}
	return after, why, nil
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
	if c.Instance != "" {
		parts = append(parts, "its port gets an identifier of its own")
	}
	for _, name := range settings.Names(settings.InNIC) {
		if v, ok := c.Settings[name]; ok && v != "" {
			parts = append(parts, fmt.Sprintf("noted: %s='%s'", name, v))
		}
	}
	if alias := d.NewAlias(c); alias != "" {
		parts = append(parts, fmt.Sprintf("it gets <alias name='%s'/>, by which its settings name it", alias))
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
