package xmlfilter

import "fmt"

// Reassignment gives the settings of one of Domain.Stray another NIC.
type Reassignment struct {
	Stray int // index in Domain.Stray
	NIC   int // index in Domain.NICs; negative: the settings go
	// Instance is "" where they were written for this domain. For a clone it is a UUID for its NIC:
	// of what Rewrite has kept, the device's name goes, and the identifiers of the port become
	// this one.
	Instance string
}

// Reassign returns the domain document with stray settings given to NICs, and every other byte
// as it was. An error matches ErrNIC: that NIC cannot be named by settings.
func (d *Domain) Reassign(to []Reassignment) ([]byte, error) {
	ed := newEditor(d.doc)
	var gone []*element
	for _, r := range to {
		if r.Stray < 0 || r.Stray >= len(d.Stray) || r.NIC >= len(d.NICs) {
			return nil, fmt.Errorf("xmlfilter: no stray %d, or no NIC %d", r.Stray, r.NIC)
		}
		s := d.Stray[r.Stray].Settings
		if r.NIC < 0 {
			gone = append(gone, s.elem)
			continue
		}
		if err := d.rename(ed, s.elem, &d.NICs[r.NIC]); err != nil {
			return nil, err
		}
		if r.Instance != "" {
			ed.dropKeptTarget(s.was)
			ed.renewPort(s.was, r.Instance)
		}
	}
	d.dropEmptied(ed, gone)
	return d.encoded(ed.bytes(d.root)), nil
}

// rename makes a <nic> name a NIC: by its MAC, or by its user alias where the domain has that
// MAC more than once.
func (d *Domain) rename(ed *editor, e *element, n *NIC) error {
	name, value, other := "mac", n.MAC, nameAlias
	if n.MAC == "" || n.twin {
		name, value, other = nameAlias, n.Alias, "mac"
		if !n.UserAlias() {
			return fmt.Errorf("%w: %s has no MAC of its own, so nothing can be noted for it; give it <alias name='ua-…'/>", ErrNIC, n)
		}
	}
	ed.setAttr(e, name, value)
	ed.dropAttr(e, other)
	return nil
}

// renewPort gives a kept <virtualport> other identifiers: Open vSwitch's and OVN's of the port,
// and 802.1Qbg's of the association, are one guest's.
func (ed *editor) renewPort(was *element, instance string) {
	port := plainChild(was, "virtualport")
	parameters := plainChild(port, "parameters")
	for _, name := range []string{"interfaceid", "instanceid"} {
		if _, has := parameters.lookup(name); has {
			ed.setAttr(parameters, name, instance)
		}
	}
}
