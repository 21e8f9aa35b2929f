package plan

import (
	"strconv"
	"strings"

	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/xmlfilter"
)

// Rewrite returns what is to be changed in a domain's XML, so that libvirt takes it
// on this host. It is pure, like Plan, and allocates nothing.
//
// For migrate and restore the XML comes from a host where devices may have other
// names: they are mapped by uplink. With keep, at define time, what is changed is
// kept in the metadata for undoing.
func Rewrite(d *xmlfilter.Domain, cfg *config.Config, host Snapshot, keep bool) ([]xmlfilter.Change, error) {
	changes, _, err := Remap(d, cfg, host, keep)
	return changes, err
}

// Remap is Rewrite with what is to be reserved for the start that follows.
func Remap(d *xmlfilter.Domain, cfg *config.Config, host Snapshot, keep bool) ([]xmlfilter.Change, []step.Step, error) {
	p := newPlanner(step.Migrate, d, cfg, host)
	p.keep = keep
	var changes []xmlfilter.Change
	for i := range d.NICs {
		n := &d.NICs[i]
		if !InScope(n) {
			continue
		}
		c, err := p.convert(n)
		if err != nil {
			return nil, nil, &NICError{Domain: d.Name, NIC: n.String(), Err: err}
		}
		if c.SourceDev != "" || c.SourceBridge != "" || c.SourceMode != "" || c.DropVLAN || c.DropVirtualPort || c.Ethernet != "" || c.WasDev != "" || len(c.Words) > 0 {
			c.NIC, c.Keep = i, c.Keep || keep
			changes = append(changes, c)
		}
	}
	return changes, p.steps, nil
}

func (p *planner) convert(n *xmlfilter.NIC) (xmlfilter.Change, error) {
	if err := n.Err(); err != nil {
		return xmlfilter.Change{}, err
	}
	s, err := p.settings(n)
	if err != nil {
		return xmlfilter.Change{}, err
	}
	for _, a := range p.attachments() {
		if c, handled, err := a.convert(n, s); handled || err != nil {
			return c, err
		}
	}
	return xmlfilter.Change{}, unsuited(n)
}

// newWords leaves out what the NIC's words say already.
func newWords(n *xmlfilter.NIC, words map[string]string) map[string]string {
	if n.Words == nil {
		return words
	}
	w := n.Words
	vlan := ""
	if w.VLAN != 0 {
		vlan = strconv.Itoa(w.VLAN)
	}
	for name, have := range map[string]string{
		xmlfilter.WordUplink: w.Uplink, xmlfilter.WordDev: w.Dev, xmlfilter.WordVLAN: vlan,
		xmlfilter.WordOwn: w.Own, xmlfilter.WordMode: w.Mode, xmlfilter.WordTrunk: w.Trunk, xmlfilter.WordNative: w.Native,
	} {
		if words[name] == have {
			delete(words, name)
		}
	}
	return words
}

// shellWord quotes a domain's name for a command line that a person may copy.
func shellWord(s string) string {
	if s != "" && !strings.HasPrefix(s, "-") && strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.,:@%+=/", r))
	}) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
