package xmlfilter

import (
	"fmt"
	"strings"

	"libvirt-direct/internal/settings"
)

// Namespace is the XML namespace of the settings in a domain's <metadata>:
//
//	<metadata>
//	  <ld:nics xmlns:ld='urn:libvirt-direct:1' rewrite='yes'>
//	    <ld:nic mac='52:54:00:00:00:01' uplink='storage' vlan='100' own='hook'/>
//	  </ld:nics>
//	</metadata>
const Namespace = "urn:libvirt-direct:1"

// NamespacePrefix is what the namespaces of all releases begin with. Settings in another one
// than Namespace are a newer release's, and are refused: what they restrict is not known.
const NamespacePrefix = "urn:libvirt-direct:"

// Settings are what the domain's metadata says of one NIC.
type Settings struct {
	settings.NIC

	// Was is the interface as it was before Rewrite, as far as Rewrite changed it.
	Was *NIC

	key       nicKey
	elem, was *element
}

// A Stray is a <nic> that belongs to no NIC of the domain: that was detached, or the domain
// is a clone, or somebody has changed the MAC.
type Stray struct {
	Key string // its MAC, normalised, or its alias
	*Settings
}

// String names it by its key.
func (s Stray) String() string { return s.Key }

// onlyElement refuses in a <metadata> what is ours and not the one element of a name: what it
// says would be ignored.
func onlyElement(meta *element, name string) error {
	seen := false
	for _, c := range meta.children {
		switch {
		case !strings.HasPrefix(c.name.Space, NamespacePrefix):
		case c.name.Space != Namespace:
			return fmt.Errorf("%w: this release does not know the namespace of <%s xmlns='%s'>; upgrade libvirt-direct, or write it for xmlns='%s'", ErrSettings, c.name.Local, c.name.Space, Namespace)
		case c.name.Local != name:
			return fmt.Errorf("%w: <%s> is not known; the element is <%s xmlns='%s'>", ErrSettings, c.name.Local, name, Namespace)
		case seen:
			return fmt.Errorf("%w: <%s> stands there twice; put all settings into one", ErrSettings, name)
		default:
			seen = true
		}
	}
	return nil
}

// inMetadata reports whether an element below <nics> is the one of that name. It may be
// in Namespace or in none: `virsh metadata --set` puts only the outermost into it.
func (e *element) inMetadata(name string) bool {
	return e.name.Local == name && (e.name.Space == Namespace || e.name.Space == "")
}

func (d *Domain) nicsElement() *element {
	return d.root.child("metadata").childNS(Namespace, "nics")
}

func (d *Domain) readSettings() error {
	meta := d.root.child("metadata")
	if meta == nil {
		return nil
	}
	if err := onlyElement(meta, "nics"); err != nil {
		return err
	}
	nics := d.nicsElement()
	if nics == nil {
		return nil
	}
	for _, a := range nics.attr {
		switch {
		case isXMLNS(a.Name.Space, a.Name.Local):
		case a.Name.Local == "rewrite" && (a.Value == "yes" || a.Value == "no"):
			d.Wish = a.Value
		default:
			return fmt.Errorf("%w: <nics %s=%q>: only rewrite='yes' or 'no' is known", ErrSettings, a.Name.Local, a.Value)
		}
	}
	byKey := d.byKey()
	for _, e := range nics.children {
		if !e.inMetadata("nic") {
			return fmt.Errorf("%w: <%s> inside <nics>; only <nic> is known", ErrSettings, e.name.Local)
		}
		key, w, err := readNICSettings(e)
		if err != nil {
			return err
		}
		n, err := key.only(byKey[key])
		switch {
		case err != nil:
			return err
		case n == nil:
			d.Stray = append(d.Stray, Stray{key.value, w})
		case n.Settings != nil:
			return fmt.Errorf("%w: %s and %s mean the same %s; keep one of them", ErrSettings, n.Settings.key, key, n)
		default:
			n.Settings = w
		}
	}
	return nil
}

// nicKey is the attribute by which a <nic> names its NIC.
type nicKey struct{ attr, value string }

func (k nicKey) String() string { return fmt.Sprintf("<nic %s='%s'>", k.attr, k.value) }

// byKey returns the NICs that each key can mean.
func (d *Domain) byKey() map[nicKey][]*NIC {
	byKey := make(map[nicKey][]*NIC, 2*len(d.NICs))
	for i := range d.NICs {
		n := &d.NICs[i]
		for _, k := range []nicKey{{"mac", n.MAC}, {nameAlias, n.Alias}} {
			byKey[k] = append(byKey[k], n)
		}
	}
	return byKey
}

// only returns the NIC that a key means of those that answer to it, nil for none. Of several
// none is meant.
func (k nicKey) only(found []*NIC) (*NIC, error) {
	switch len(found) {
	case 0:
		return nil, nil
	case 1:
		return found[0], nil
	}
	var candidates []string
	example := "ua-…"
	for _, n := range found {
		candidates = append(candidates, fmt.Sprintf("%s (type='%s')", n, n.Type))
		if n.UserAlias() && k.attr == "mac" {
			example = n.Alias
		}
	}
	return nil, fmt.Errorf("%w: %s can mean %s; name it by an alias that it alone has: <alias name='%[4]s'/> in its <interface>, and <nic alias='%[4]s'>",
		ErrSettings, k, strings.Join(candidates, " or "), example)
}

func isXMLNS(space, local string) bool { return space == "xmlns" || (space == "" && local == "xmlns") }

// readNICSettings reads one <nic>, and the key by which it names its NIC: a MAC, as NIC has it,
// or a user alias.
func readNICSettings(e *element) (key nicKey, w *Settings, err error) {
	w = &Settings{elem: e}
	for _, a := range e.attr {
		name, v := a.Name.Local, a.Value
		if isXMLNS(a.Name.Space, name) {
			continue
		}
		bad := func(want string) error {
			return fmt.Errorf("%w: <nic %s=%q>: want %s", ErrSettings, name, v, want)
		}
		switch name {
		case "mac":
			mac, ok := readMAC(v)
			if !ok {
				return key, nil, bad("six octets, as in 52:54:00:00:00:01")
			}
			v = mac
			fallthrough
		case nameAlias:
			if key.attr != "" {
				return key, nil, bad("either mac or alias, not both")
			}
			if name == nameAlias && !isUserAlias(v) {
				return key, nil, bad("an alias that begins with ua- and has no other characters than A-Z, a-z, 0-9, - and _; libvirt keeps no others")
			}
			key = nicKey{name, v}
		default:
			setting, known := settings.Lookup(settings.InNIC, name)
			if !known {
				return key, nil, fmt.Errorf("%w: <nic %s=%q> is not known; known are mac, alias, %s", ErrSettings, name, v, strings.Join(settings.Names(settings.InNIC), ", "))
			}
			if err := setting.Parse(&w.NIC, v); err != nil {
				return key, nil, fmt.Errorf("%w: <nic>: %w", ErrSettings, err)
			}
		}
	}
	if key.attr == "" {
		return key, nil, fmt.Errorf("%w: a <nic> says neither mac nor alias", ErrSettings)
	}
	for _, c := range e.children {
		if !c.inMetadata("was") || w.was != nil {
			return key, nil, fmt.Errorf("%w: <%s> inside <nic>", ErrSettings, c.name.Local)
		}
		w.was = c
		was := readNIC(0, plain(c))
		w.Was = &was
	}
	w.key = key
	return key, w, nil
}

// plain returns a copy of an element tree whose names have no namespace: what was
// copied from an <interface> into the metadata can have fallen into its namespace.
func plain(e *element) *element {
	c := *e
	c.name.Space = ""
	c.children = make([]*element, len(e.children))
	for i, k := range e.children {
		c.children[i] = plain(k)
	}
	return &c
}
