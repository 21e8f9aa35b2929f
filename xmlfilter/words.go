package xmlfilter

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
)

// Namespace is the XML namespace of our words in a domain's <metadata>:
//
//	<metadata>
//	  <ld:nics xmlns:ld='urn:libvirt-direct:1' rewrite='yes'>
//	    <ld:nic mac='52:54:00:00:00:01' uplink='storage' vlan='100' own='hook'/>
//	  </ld:nics>
//	</metadata>
const Namespace = "urn:libvirt-direct:1"

// Words are what the domain's metadata says of one NIC. The zero value of each
// field means that nothing is said: the profile's value holds, or else libvirt's.
type Words struct {
	// Uplink is the name of a network that hosts know under [uplink.NAME].
	Uplink string
	// Profile is the name of a [profile.NAME] whose words hold where these are silent.
	Profile string
	// Dev is the lower device, or the parent of the VLAN sub-interface, where no
	// uplink is named.
	Dev string
	// Mode is the macvtap mode: "vepa", "bridge", "private" or "passthrough".
	Mode string
	// VLAN is an 802.1Q VLAN identifier, 1..4094; 0 when nothing is said.
	VLAN int
	// Own says who makes the device: "hook" or "libvirt".
	Own string
	// AllMulticast makes the macvtap receive all multicast frames.
	AllMulticast *bool
	// IfaceID is what Open vSwitch's external_ids:iface-id says of the NIC's port: the
	// logical port of OVN that it is.
	IfaceID string
	// VFWords are for a NIC that is a virtual function, or stands on one.
	VFWords
	// PortWords are for a NIC whose tap is a bridge's port.
	PortWords

	// Was is the interface as it was before Rewrite, as far as Rewrite changed it.
	Was *NIC

	elem, was *element
}

// The words' attributes, in the order in which they are written.
const (
	WordUplink       = "uplink"
	WordProfile      = "profile"
	WordDev          = "dev"
	WordMode         = "mode"
	WordVLAN         = "vlan"
	WordOwn          = "own"
	WordAllMulticast = "allmulticast"
	WordIfaceID      = "ifaceid"
)

// WordNames lists every attribute that <ld:nic> may carry beside its key (mac or
// alias).
func WordNames() []string {
	names := []string{WordUplink, WordProfile, WordDev, WordMode, WordVLAN, WordOwn, WordAllMulticast, WordIfaceID}
	return slices.Concat(names, vfWordNames(), portWordNames())
}

// Modes lists the macvtap modes, in libvirt's spelling.
func Modes() []string { return []string{"vepa", "bridge", "private", "passthrough"} }

// Owners: who makes a NIC's device.
const (
	OwnHook    = "hook"
	OwnLibvirt = "libvirt"
)

// ours reports whether an element below <nics> is the one of that name. It may stand
// in our namespace or in none: `virsh metadata --set` puts only the outermost into it.
func (e *element) ours(name string) bool {
	return e.name.Local == name && (e.name.Space == Namespace || e.name.Space == "")
}

func (d *Domain) nicsElement() *element {
	return d.root.child("metadata").childNS(Namespace, "nics")
}

func (d *Domain) readWords() error {
	meta := d.root.child("metadata")
	if meta == nil {
		return nil
	}
	for _, c := range meta.children {
		if c.name.Space == Namespace && c.name.Local != "nics" {
			return fmt.Errorf("%w: <%s> is not known; the element is <nics xmlns='%s'>", ErrWords, c.name.Local, Namespace)
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
			return fmt.Errorf("%w: <nics %s=%q>: only rewrite='yes' or 'no' is known", ErrWords, a.Name.Local, a.Value)
		}
	}
	byKey := d.byKey()
	for _, e := range nics.children {
		if !e.ours("nic") {
			return fmt.Errorf("%w: <%s> inside <nics>; only <nic> is known", ErrWords, e.name.Local)
		}
		key, w, err := readWord(e)
		if err != nil {
			return err
		}
		n := byKey[key]
		switch {
		case n == nil:
			d.Stray = append(d.Stray, key)
		case n.Words != nil:
			return fmt.Errorf("%w: two <nic> elements mean the same %s", ErrWords, n)
		default:
			n.Words = w
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

// readWord reads one <nic>. key is its MAC, normalised, or its alias.
func readWord(e *element) (key string, w *Words, err error) {
	w = &Words{elem: e}
	for _, a := range e.attr {
		name, v := a.Name.Local, a.Value
		if isXMLNS(a.Name.Space, name) {
			continue
		}
		bad := func(want string) error {
			return fmt.Errorf("%w: <nic %s=%q>: want %s", ErrWords, name, v, want)
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
		case WordUplink:
			w.Uplink = v
		case WordProfile:
			w.Profile = v
		case WordDev:
			w.Dev = v
		case WordMode:
			w.Mode = v
			if !slices.Contains(Modes(), v) {
				return "", nil, bad(strings.Join(Modes(), ", "))
			}
		case WordVLAN:
			w.VLAN, err = strconv.Atoi(v)
			if err != nil || w.VLAN < 1 || w.VLAN > 4094 {
				return "", nil, bad("a VLAN identifier, 1 to 4094")
			}
		case WordOwn:
			w.Own = v
			if v != OwnHook && v != OwnLibvirt {
				return "", nil, bad("hook or libvirt")
			}
		case WordIfaceID:
			w.IfaceID = v
			if !printable(v) || len(v) > 255 {
				return "", nil, bad("the name of a logical port, at most 255 octets")
			}
		case WordAllMulticast:
			if v != "yes" && v != "no" {
				return "", nil, bad("yes or no")
			}
			yes := v == "yes"
			w.AllMulticast = &yes
		default:
			known, err := w.VFWords.read(name, v)
			if !known {
				known, err = w.PortWords.read(name, v)
			}
			if err != nil {
				return "", nil, fmt.Errorf("%w: <nic>: %w", ErrWords, err)
			} else if known {
				continue
			}
			return "", nil, fmt.Errorf("%w: <nic %s=%q> is not known; known are mac, alias, %s", ErrWords, name, v, strings.Join(WordNames(), ", "))
		}
	}
	if key == "" {
		return "", nil, fmt.Errorf("%w: a <nic> says neither mac nor alias", ErrWords)
	}
	for _, c := range e.children {
		if !c.ours("was") || w.was != nil {
			return "", nil, fmt.Errorf("%w: <%s> inside <nic>", ErrWords, c.name.Local)
		}
		w.was = c
		was := readNIC(0, plain(c))
		w.Was = &was
	}
	return key, w, nil
}

// plain returns a copy of an element tree whose names have no namespace: what was
// copied from an <interface> into our metadata can have fallen into ours.
func plain(e *element) *element {
	c := *e
	c.name.Space = ""
	c.children = make([]*element, len(e.children))
	for i, k := range e.children {
		c.children[i] = plain(k)
	}
	return &c
}
