package xmlfilter

import (
	"fmt"
	"net"
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

// Settings are what the domain's metadata says of one NIC.
type Settings struct {
	settings.NIC

	// Was is the interface as it was before Rewrite, as far as Rewrite changed it.
	Was *NIC

	elem, was *element
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
	for _, c := range meta.children {
		if c.name.Space == Namespace && c.name.Local != "nics" {
			return fmt.Errorf("%w: <%s> is not known; the element is <nics xmlns='%s'>", ErrSettings, c.name.Local, Namespace)
		}
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
		n := byKey[key]
		switch {
		case n == nil:
			d.Stray = append(d.Stray, key)
		case n.Settings != nil:
			return fmt.Errorf("%w: two <nic> elements mean the same %s", ErrSettings, n)
		default:
			n.Settings = w
		}
	}
	return nil
}

// byKey returns the NICs by MAC and by alias; the first one that has a key is meant.
func (d *Domain) byKey() map[string]*NIC {
	byKey := make(map[string]*NIC, 2*len(d.NICs))
	for i := range d.NICs {
		n := &d.NICs[i]
		for _, key := range []string{n.MAC, n.Alias} {
			if byKey[key] == nil {
				byKey[key] = n
			}
		}
	}
	return byKey
}

func isXMLNS(space, local string) bool { return space == "xmlns" || (space == "" && local == "xmlns") }

// readNICSettings reads one <nic>. key is its MAC, normalised, or its alias.
func readNICSettings(e *element) (key string, w *Settings, err error) {
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
			mac, err := net.ParseMAC(v)
			if err != nil || len(mac) != 6 {
				return "", nil, bad("six octets, as in 52:54:00:00:00:01")
			}
			v = mac.String()
			fallthrough
		case "alias":
			if key != "" {
				return "", nil, bad("either mac or alias, not both")
			}
			key = v
		default:
			setting, known := settings.Lookup(settings.InNIC, name)
			if !known {
				return "", nil, fmt.Errorf("%w: <nic %s=%q> is not known; known are mac, alias, %s", ErrSettings, name, v, strings.Join(settings.Names(settings.InNIC), ", "))
			}
			if err := setting.Parse(&w.NIC, v); err != nil {
				return "", nil, fmt.Errorf("%w: <nic>: %w", ErrSettings, err)
			}
		}
	}
	if key == "" {
		return "", nil, fmt.Errorf("%w: a <nic> says neither mac nor alias", ErrSettings)
	}
	for _, c := range e.children {
		if !c.inMetadata("was") || w.was != nil {
			return "", nil, fmt.Errorf("%w: <%s> inside <nic>", ErrSettings, c.name.Local)
		}
		w.was = c
		was := readNIC(0, plain(c))
		w.Was = &was
	}
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
