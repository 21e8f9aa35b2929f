package xmlfilter

import (
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"libvirt-direct/internal/settings"
)

// ErrNotNetwork: the document is XML, but neither what libvirt gives its network hook
// nor the state that it keeps of a network.
var ErrNotNetwork = errors.New("not a libvirt network")

// Network is one of libvirt's networks (libvirt's formatnetwork), as far as it hands
// out devices.
type Network struct {
	Name string
	// Forward is <forward mode=>; "" for an isolated network.
	Forward string
	// What it hands out: network devices, all VFs of a PF, PCI functions
	// ("0000:03:10.0").
	Devices, PFs, PCI []string

	settings map[string]*NetworkSettings // by portgroup, "" for the network itself
	groups   []string                    // its portgroups
}

// NetworkSettings are what a network's metadata says of the virtual functions that the
// network hands out:
//
//	<ld:network xmlns:ld='urn:libvirt-direct:1' profile='gold'>
//	  <ld:portgroup name='fast' maxrate='10000'/>
//	</ld:network>
type NetworkSettings struct {
	// Profile is the name of a [profile.NAME] whose settings hold where these are unset.
	Profile string
	settings.VF
}

// NetworkPort is what libvirt has allocated for one NIC (<networkport>).
type NetworkPort struct {
	Owner     string // the domain's name
	OwnerUUID string // lower case, "" where nobody owns it
	MAC       string // lower case
	Portgroup string
	// Dev and Mode are a macvtap's lower device and mode, PCI the function that is
	// handed out whole; all are "" for a tap.
	Dev, Mode, PCI string
	VLAN           int // the tag, where there is one
}

// Settings returns what holds for a port: its portgroup's settings, then the network's.
// nil when nothing is set.
func (n *Network) Settings(p *NetworkPort) *NetworkSettings {
	var s NetworkSettings
	for _, of := range []*NetworkSettings{n.settings[p.Portgroup], n.settings[""]} {
		if of != nil {
			s = NetworkSettings{Profile: cmp.Or(s.Profile, of.Profile), VF: s.Override(of.VF)}
		}
	}
	if s == (NetworkSettings{}) {
		return nil
	}
	return &s
}

// Stray returns the name of a portgroup that the network does not have, and whose settings, which
// restrict, may be meant for a port: a misspelt one, or one that was renamed. "" where none can
// be, as for a port whose portgroup has settings of its own.
func (n *Network) Stray(p *NetworkPort) string {
	if n.settings[p.Portgroup] != nil && p.Portgroup != "" {
		return ""
	}
	for _, name := range slices.Sorted(maps.Keys(n.settings)) {
		s := n.settings[name]
		if restricts := s.Profile != "" || len((settings.NIC{VF: s.VF}).Restricting()) > 0; name != "" && restricts && !slices.Contains(n.groups, name) {
			return name
		}
	}
	return ""
}

// Pool reports whether it hands out devices of the host, rather than ports of a bridge.
func (n *Network) Pool() bool { return len(n.Devices)+len(n.PFs)+len(n.PCI) > 0 }

// ParseHook reads what libvirt gives its network hook on standard input: <hookData>
// with a network, and in some operations a port, else nil. Errors match ErrSyntax,
// ErrEncoding, ErrNotNetwork, ErrSettings or ErrNIC. With ErrSettings network and port are returned all
// the same.
func ParseHook(doc []byte) (*Network, *NetworkPort, error) {
	root, e, err := scanNetwork(doc, "hookData")
	if err != nil {
		return nil, nil, err
	}
	n, settingsErr := readNetwork(e)
	p, err := readPort(root.child("networkport"))
	if err != nil {
		return nil, nil, err
	}
	return n, p, settingsErr
}

// ParseNetworkState reads libvirt's state of a running network,
// /run/libvirt/network/NAME.xml. Errors match ErrSyntax, ErrEncoding
// or ErrNotNetwork.
func ParseNetworkState(doc []byte) (*Network, error) {
	_, e, err := scanNetwork(doc, "networkstatus")
	if err != nil {
		return nil, err
	}
	n, _ := readNetwork(e) // its settings are for the hook
	return n, nil
}

// scanNetwork returns a document's root, which must be a <rootName>, and the <network> in it.
func scanNetwork(doc []byte, rootName string) (root, network *element, err error) {
	if doc, _, err = decode(doc); err != nil {
		return nil, nil, err
	}
	if root, err = scan(doc); err != nil {
		return nil, nil, err
	}
	network = root.child("network")
	if root.name.Local != rootName || network == nil {
		return nil, nil, fmt.Errorf("%w: the root element is <%s>", ErrNotNetwork, root.name.Local)
	}
	return root, network, nil
}

func readNetwork(e *element) (*Network, error) {
	n := &Network{Name: text(e.child("name")), settings: map[string]*NetworkSettings{}}
	forward := e.child("forward")
	n.Forward = forward.get("mode")
	switch n.Forward {
	case "bridge", "private", "vepa", "passthrough", "hostdev":
		for _, c := range forward.children {
			switch c.name.Local {
			case "interface":
				n.Devices = append(n.Devices, c.get("dev"))
			case "pf":
				n.PFs = append(n.PFs, c.get("dev"))
			case "address":
				var a NIC
				if address := a.pci(c); a.err == nil { // what cannot be read libvirt cannot hand out
					n.PCI = append(n.PCI, address)
				}
			}
		}
	}
	for _, c := range e.children {
		if c.name == (xml.Name{Local: "portgroup"}) {
			n.groups = append(n.groups, c.get("name"))
		}
	}
	meta := e.child("metadata")
	if meta != nil {
		if err := onlyElement(meta, "network"); err != nil {
			return n, err
		}
	}
	w := meta.childNS(Namespace, "network")
	if w == nil {
		return n, nil
	}
	groups := map[string]*element{"": w}
	for _, c := range w.children {
		name := c.get("name")
		if !c.inMetadata("portgroup") || name == "" || groups[name] != nil {
			return n, fmt.Errorf("%w: <%s name=%q> inside <network>; only one <portgroup name='…'> for each is known", ErrSettings, c.name.Local, name)
		}
		groups[name] = c
	}
	var err error
	for name, g := range groups {
		if n.settings[name], err = readNetworkSettings(g); err != nil {
			return n, err
		}
	}
	return n, nil
}

// inNetwork is where a network's settings may stand, or are refused by the hook.
const inNetwork = settings.InNetwork | settings.MisplacedInNetwork

func readNetworkSettings(e *element) (*NetworkSettings, error) {
	var nic settings.NIC
	for _, a := range e.attr {
		name, v := a.Name.Local, a.Value
		if isXMLNS(a.Name.Space, name) || name == "name" && e.name.Local == "portgroup" {
			continue
		}
		setting, known := settings.Lookup(inNetwork, name)
		err := fmt.Errorf("%s is not known; known are %s", name, strings.Join(settings.Names(inNetwork), ", "))
		if known {
			err = setting.Parse(&nic, v)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: <%s>: %w", ErrSettings, e.name.Local, err)
		}
	}
	return &NetworkSettings{Profile: nic.Profile, VF: nic.VF}, nil
}

func readPort(e *element) (*NetworkPort, error) {
	if e == nil {
		return nil, nil
	}
	// A port's parts are those of an interface.
	n := readNIC(0, e)
	owner, plug := e.child("owner"), e.child("plug")
	p := &NetworkPort{
		Owner: text(owner.child("name")), OwnerUUID: CanonicalUUID(text(owner.child("uuid"))), MAC: n.MAC,
		Portgroup: text(e.child("group")), Dev: plug.get("dev"), Mode: plug.get("mode"),
	}
	if a := plug.child("address"); plug.get("type") == "hostdev-pci" && a != nil {
		p.PCI = n.pci(a)
	}
	if n.VLAN != nil && len(n.VLAN.Tags) == 1 {
		p.VLAN = n.VLAN.Tags[0]
	}
	return p, n.err
}
