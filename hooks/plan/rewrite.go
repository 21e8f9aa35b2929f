package plan

import (
	"cmp"
	"fmt"
	"maps"
	"strings"

	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/settings"
	"libvirt-direct/xmlfilter"
)

// Rewrite returns what is to be changed in the XML of a domain that is defined on this
// host, so that libvirt takes it; what is changed is kept in the metadata for undoing. It is
// pure, like For, and allocates nothing.
func Rewrite(d *xmlfilter.Domain, cfg *config.Config, host Snapshot) ([]xmlfilter.Change, error) {
	host.Origin = Unknown
	p := newPlanner("", d, cfg, host)
	if err := cmp.Or(strays(d, cfg), orphaned(d)); err != nil {
		return nil, err
	}
	var changes []xmlfilter.Change
	err := eachNIC(d, false, func(i int, n *xmlfilter.NIC) error {
		c, err := p.convert(n)
		if c.SourceDev != "" || c.SourceBridge != "" || c.SourceMode != "" || c.DropVLAN || c.DropVirtualPort || c.Ethernet != "" || len(c.Settings) > 0 {
			c.NIC, c.Keep = i, !c.Renames(n) // not the name of another guest's device
			changes = append(changes, c)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return changes, nil
}

func (p *planner) convert(n *xmlfilter.NIC) (xmlfilter.Change, error) {
	if err := n.Err(); err != nil {
		return xmlfilter.Change{}, err
	}
	s, err := p.settings(n)
	if err != nil {
		return xmlfilter.Change{}, err
	}
	was := n.Source.Dev
	if n, err = (macvtap{p}).atDev(n, s); err != nil {
		return xmlfilter.Change{}, err
	}
	for _, a := range p.attachments() {
		if c, handled, err := a.convert(n, s); handled || err != nil {
			if c.SourceDev == "" && c.Ethernet == "" && n.Source.Dev != was {
				c.SourceDev = n.Source.Dev
			}
			return c, cmp.Or(err, libvirtRefuses(p.host, changed(n, c)))
		}
	}
	return xmlfilter.Change{}, unsuited(n)
}

// A Rename is what the devices of one NIC are called on this host, "" for what stays. Nothing
// else of a domain's XML changes when it comes from elsewhere: what its host could do
// with it this one can as well.
type Rename struct {
	Dev    string // of <source dev=>
	Bridge string // of <source bridge=>
	Lower  string // of the dev setting of a hook-owned NIC
	Kept   string // of <source dev=> in what rewrite has kept
	// Noted are settings by which the next host finds out what is meant: the uplink, the VLAN.
	Noted map[string]string
}

func (r Rename) change(nic int) xmlfilter.Change {
	c := xmlfilter.Change{NIC: nic, SourceDev: r.Dev, SourceBridge: r.Bridge, WasDev: r.Kept, Settings: maps.Clone(r.Noted)}
	if r.Lower != "" {
		c.Settings = map[string]string{settings.NameDev: r.Lower}
	}
	return c
}

// Remap returns what is to be changed in the XML of a domain that comes from elsewhere, or
// may do so, and what is to be reserved for the start that follows. It is pure, like For,
// and allocates nothing.
func Remap(d *xmlfilter.Domain, cfg *config.Config, host Snapshot, from Origin) ([]xmlfilter.Change, []step.Step, error) {
	host.Origin = from
	p := newPlanner("", d, cfg, host)
	if err := strays(d, cfg); err != nil {
		return nil, nil, runsElsewhere(d, from, err)
	}
	var changes []xmlfilter.Change
	err := eachNIC(d, false, func(i int, n *xmlfilter.NIC) error {
		r, err := p.remap(n)
		if c := r.change(i); c.SourceDev != "" || c.SourceBridge != "" || c.WasDev != "" || len(c.Settings) > 0 {
			changes = append(changes, c)
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return changes, p.steps, nil
}

// runsElsewhere adds to an error about a domain's settings how those of a guest are changed that
// runs, or is saved: rewrite changes the definition alone.
func runsElsewhere(d *xmlfilter.Domain, from Origin, err error) error {
	if from == Elsewhere {
		return fmt.Errorf("%w; and where it runs: virsh metadata %s %s --live --key ld --edit", err, shellWord(d.Name), xmlfilter.Namespace)
	}
	return fmt.Errorf("%w; and for what is saved: virsh save-image-edit FILE", err)
}

func (p *planner) remap(n *xmlfilter.NIC) (Rename, error) {
	if err := n.Err(); err != nil {
		return Rename{}, err
	}
	s, err := p.known(n)
	if err != nil {
		return Rename{}, err
	}
	for _, a := range p.attachments() {
		if r, handled, err := a.remap(n, s); handled || err != nil {
			return r, err
		}
	}
	return Rename{}, nil
}

// newSettings leaves out what the NIC's settings say already.
func newSettings(n *xmlfilter.NIC, values map[string]string) map[string]string {
	if n.Settings == nil {
		return values
	}
	for _, s := range settings.At(settings.InNIC) {
		have, _ := s.Text(n.Settings.NIC)
		if v, ok := values[s.Name]; ok && v == have {
			delete(values, s.Name)
		}
	}
	return values
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
