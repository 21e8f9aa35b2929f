package hooks

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"libvirt-direct/internal/config"
	setting "libvirt-direct/internal/settings"
	"libvirt-direct/xmlfilter"
)

// Explain writes what we would do for a domain: in all of its life, or in one
// operation. It touches nothing. Its text is for people; it is not a format.
func Explain(w io.Writer, op Op, d *xmlfilter.Domain, cfg *config.Config, host Host) error {
	fmt.Fprintf(w, "domain %q\n", d.Name)
	for _, key := range d.Stray {
		fmt.Fprintf(w, "  the metadata has settings for %s, which no NIC has\n", key)
	}
	for i := range d.NICs {
		n := &d.NICs[i]
		fmt.Fprintf(w, "  %s: %s\n", n, describe(d, cfg, host, n))
	}
	before := d
	changes, rewriteErr := Rewrite(d, cfg, host, true)
	// What needs rewriting first is planned as it is afterwards.
	planned, planErr := Plan(Prepare, d, cfg, host)
	then := ""
	if errors.Is(planErr, ErrNotRewritten) && rewriteErr == nil && op == "" {
		if after, err := rewritten(d, changes); err == nil {
			d, then = after, ", once rewritten"
			planned, planErr = Plan(Prepare, d, cfg, host)
		}
	}
	for _, o := range []Op{"rewrite", Prepare, Start, Started, Stopped, Release, Migrate, Restore, Reconnect} {
		if op != "" && o != op || op == "" && o == Started {
			continue
		}
		var lines []string
		var err error
		switch o {
		case "rewrite", Migrate, Restore:
			if op == "" && o != "rewrite" {
				continue // the same as rewrite, for XML from elsewhere
			}
			lines, err = ExplainChanges(before, changes), rewriteErr
		case Prepare, Start, Reconnect:
			if op == "" && o == Reconnect {
				continue
			}
			var steps []Step
			steps, err = Plan(o, d, cfg, host)
			for _, s := range steps {
				lines = append(lines, "NIC "+s.NIC+": "+s.String())
			}
		case Stopped, Release:
			if err = planErr; err != nil && op == "" {
				continue // said under prepare
			}
			lines = explainUndo(o, planned)
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
		if s, err := settingsOf(cfg, host, n); err != nil || n.Settings == nil || !s.own {
			continue
		}
		fmt.Fprintf(w, "what hook-owned %s loses:\n", n)
		for _, l := range Loses(n) {
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

func describe(d *xmlfilter.Domain, cfg *config.Config, host Host, n *xmlfilter.NIC) string {
	if !ours(n) {
		return fmt.Sprintf("type='%s', not ours", n.Type)
	}
	s, err := settingsOf(cfg, host, n)
	if err != nil {
		return err.Error()
	}
	text := fmt.Sprintf("type='%s', ", n.Type)
	switch {
	case s.own && (onOVS(n) || wasOnOVS(n) != nil):
		text += "hook-owned: the hook makes its tap and its Open vSwitch port"
	case s.own:
		text += "hook-owned: the hook makes its macvtap"
	case onOVS(n):
		text += "assisted: libvirt makes its Open vSwitch port"
	case n.Type == "direct":
		text += "assisted: libvirt makes its macvtap"
	case n.Type == "hostdev":
		text += "assisted: libvirt gives the guest the virtual function"
	case n.Type == "network" && s.choosesNothing():
		text += "assisted: libvirt chooses and makes its device"
	case onBridge(n) && s.choosesNothing():
		text += fmt.Sprintf("assisted: libvirt makes its tap in bridge %s", n.Source.Bridge)
	default:
		text += "which its settings in <metadata> do not fit"
	}
	if s.uplink != nil {
		text += fmt.Sprintf(", uplink %q", s.uplink.Name)
	}
	for _, o := range host.Obstacles[nicID(d, n)] {
		text += "; on its device: " + o.String()
	}
	if n.Type == "direct" && !n.RxFilters && !s.allMulti {
		text += "; for IPv6 it needs trustGuestRxFilters='yes' or allmulticast"
	}
	return text
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
	for _, name := range setting.Names(setting.InNIC) {
		if v, ok := c.Settings[name]; ok && v != "" {
			parts = append(parts, fmt.Sprintf("noted: %s='%s'", name, v))
		}
	}
	if c.WasDev != "" {
		parts = append(parts, fmt.Sprintf("the kept original names '%s'", c.WasDev))
	}
	return n.String() + ": " + strings.Join(parts, "; ")
}

func explainUndo(op Op, steps []Step) []string {
	var lines []string
	for i, s := range slices.Backward(steps) {
		k, early := s.kind().(quietKind)
		text, last := "", false
		if early {
			text, last = k.quiets()
		}
		if op == Release {
			text = s.undoString()
		}
		// What start sets is put back with what prepare has remembered.
		again := slices.ContainsFunc(steps[:i], func(o Step) bool { return o.key() == s.key() })
		if text == "" || op == Release && (last || again) {
			continue
		}
		lines = append(lines, "NIC "+s.NIC+": "+text)
	}
	return lines
}
