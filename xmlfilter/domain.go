// Package xmlfilter reads the network interfaces of a libvirt domain and rewrites
// them, leaving every byte that it does not mean to change as it was.
//
// It knows libvirt's domain format (formatdomain, "Network interfaces") and the
// settings that this project keeps in <metadata>; it knows nothing of libvirt's hook
// protocol, and it touches neither the host nor any file.
package xmlfilter

import (
	"encoding/xml"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrSyntax: the document is not one well-formed XML element.
	ErrSyntax = errors.New("not well-formed XML")
	// ErrNotDomain: the document is XML, but its root is not <domain>.
	ErrNotDomain = errors.New("not a libvirt domain")
	// ErrSettings: the settings in <metadata> cannot be understood.
	ErrSettings = errors.New("bad settings in <metadata>")
	// ErrNIC: an <interface> that concerns us holds a value that cannot be read.
	ErrNIC = errors.New("bad <interface>")
)

// SyntaxError reports a document that is not well-formed. It matches ErrSyntax.
// Its text never quotes the document, which can hold passwords.
type SyntaxError struct{ Err error }

func (e *SyntaxError) Error() string { return "domain XML: " + e.Err.Error() }

// Unwrap lets errors.Is find the cause; Is matches ErrSyntax.
func (e *SyntaxError) Unwrap() error { return e.Err }

// Is reports whether target is ErrSyntax.
func (e *SyntaxError) Is(target error) bool { return target == ErrSyntax }

// Domain is a domain document, read. It is never changed: Rewrite returns new
// bytes.
type Domain struct {
	Name string
	UUID string // as libvirt writes it; "" when the document has none
	Type string // "qemu", "kvm" …

	// NICs are the <interface> elements below <devices>, in document order, of
	// any type, known or not.
	NICs []NIC

	// Wish is the domain's own wish to be rewritten at define time: the attribute
	// "rewrite" of our metadata element, "yes", "no" or "".
	Wish string

	// Nodes are the host's NUMA nodes that <numatune><memory nodeset=> names, empty
	// when it names none.
	Nodes []int

	// Stray are settings that belong to no NIC of the domain.
	Stray []Stray

	aliases map[string]bool // of its devices
	raw     []byte          // as it came
	doc     []byte          // in UTF-8
	charset charset
	root    *element
}

// NIC is one <interface>.
type NIC struct {
	Index int    // position among the domain's interfaces, from 0
	Type  string // "direct", "ethernet", "network" …, as written
	MAC   string // lower case, colons; "" when the document has none
	Alias string // <alias name=>, user alias "ua-…" or libvirt's own "netN"

	Source      Source
	Target      string // <target dev=>
	Managed     string // <target managed=>: "yes", "no" or ""
	Unmanaged   bool   // a hostdev NIC's <interface managed=> is not "yes": libvirt leaves it bound as it is
	Model       string
	Queues      int // <driver queues=>, 0 when not given
	MTU         int // <mtu size=>, 0 when not given
	VLAN        *VLAN
	VirtualPort *VirtualPort
	RxFilters   bool // trustGuestRxFilters='yes'
	Bandwidth   bool // has <bandwidth>
	Filter      bool // has <filterref>
	Isolated    bool // <port isolated='yes'>
	Script      bool // has <script>
	TapPath     bool // <backend tap=>
	Teaming     Teaming
	Slot        string // <address>, where the guest sees it, as written; "" when the document has none

	// Settings are what the metadata says of this NIC; nil when it says nothing.
	Settings *Settings

	err  error
	elem *element
	twin bool // another NIC of the domain has its MAC
}

// Source is an interface's <source>. Network-backed NICs of a running domain
// carry Network and PortID beside Dev and Mode.
type Source struct {
	Dev, Mode                  string
	Bridge                     string
	Network, Portgroup, PortID string
	// PCI is a hostdev's function, "0000:03:10.0"; "" when it has none.
	PCI string
}

// Teaming is an interface's <teaming>, both "" without one.
type Teaming struct {
	Type       string // "persistent" or "transient"
	Persistent string // the alias of the NIC for which a transient one stands in
}

// VLAN is an interface's <vlan>.
type VLAN struct {
	Trunk bool
	Tags  []int // VLAN identifiers, 0..4095
	// NativeMode is "tagged" or "untagged" where one tag has it, and NativeTag is that
	// one; otherwise both are zero.
	NativeMode string
	NativeTag  int
}

// VirtualPort is an interface's <virtualport>. Parameters are as written: libvirt
// reads numbers with base 0, so "0x0a" is a legal managerid.
type VirtualPort struct {
	Type       string
	Parameters map[string]string
}

// Err reports what could not be read of an otherwise well-formed NIC. It is kept
// apart because a NIC that is not ours must not fail a guest.
func (n *NIC) Err() error { return n.err }

// ID tells a NIC from the domain's others: its MAC, where the domain has it once; else also
// its user alias, or its position.
func (n *NIC) ID() string {
	switch {
	case n.MAC != "" && !n.twin:
		return n.MAC
	case n.UserAlias():
		return strings.TrimSpace(n.MAC + " " + n.Alias)
	}
	return strings.TrimSpace(fmt.Sprintf("%s #%d", n.MAC, n.Index))
}

// String names the NIC for a message, by its ID.
func (n *NIC) String() string { return "NIC " + strings.TrimPrefix(n.ID(), "#") }

// UserAlias reports whether its alias is one that a user has given it: libvirt keeps those,
// and gives its own anew at each start, after prepare.
func (n *NIC) UserAlias() bool { return isUserAlias(n.Alias) }

// Parse reads a domain document. It fails with an error matching ErrSyntax, ErrEncoding,
// ErrNotDomain or ErrSettings; interfaces and elements that it does not know are no
// error. With ErrSettings the domain is returned all the same, for who only wants to know
// which one it is.
func Parse(raw []byte) (*Domain, error) {
	doc, charset, err := decode(raw)
	if err != nil {
		return nil, err
	}
	d, err := parseUTF8(doc)
	if d != nil {
		d.raw, d.charset = raw, charset
	}
	return d, err
}

// parseUTF8 reads a document that is in UTF-8, whatever it says.
func parseUTF8(doc []byte) (*Domain, error) {
	root, err := scan(doc)
	if err != nil {
		return nil, err
	}
	if root.name.Local != "domain" || root.name.Space != "" {
		return nil, fmt.Errorf("%w: the root element is <%s>", ErrNotDomain, root.name.Local)
	}
	d := &Domain{
		Name:    text(root.child("name")),
		UUID:    CanonicalUUID(text(root.child("uuid"))),
		Type:    root.get("type"),
		aliases: map[string]bool{},
		doc:     doc,
		root:    root,
	}
	if tune := root.child("numatune"); tune != nil {
		d.Nodes = nodes(tune.child("memory").get("nodeset"))
	}
	for _, devices := range root.children { // of several libvirt reads all
		if devices.name.Local != "devices" || devices.name.Space != "" {
			continue
		}
		for _, e := range devices.children {
			if alias := e.child("alias").get("name"); alias != "" {
				d.aliases[alias] = true
			}
			if e.name.Local == "interface" && e.name.Space == "" {
				d.NICs = append(d.NICs, readNIC(len(d.NICs), e))
			}
		}
	}
	byMAC := map[string]int{}
	for _, n := range d.NICs {
		byMAC[n.MAC]++
	}
	for i := range d.NICs {
		d.NICs[i].twin = byMAC[d.NICs[i].MAC] > 1
	}
	if err := d.readSettings(); err != nil {
		return d, err
	}
	return d, nil
}

// Bytes returns the document as it came.
func (d *Domain) Bytes() []byte { return d.raw }

// UUID returns a domain document's UUID in lower case, as libvirt writes it. It reads no
// further than to there, so that neither the size nor the form of the rest matters. It
// returns "" when there is none, or the document cannot be read so far.
func UUID(raw []byte) string {
	doc, _, err := decode(raw)
	if err != nil {
		return ""
	}
	dec := newDecoder(doc)
	for depth := 0; ; {
		tok, err := dec.Token()
		if err != nil {
			return ""
		}
		switch t := tok.(type) {
		case xml.StartElement:
			depth++
			switch {
			case depth == 1 && t.Name != xml.Name{Local: "domain"}:
				return ""
			case depth == 2 && t.Name == xml.Name{Local: "uuid"}:
				var uuid string
				if err := dec.DecodeElement(&uuid, &t); err != nil {
					return ""
				}
				return CanonicalUUID(uuid)
			}
		case xml.EndElement:
			if depth--; depth == 0 {
				return ""
			}
		}
	}
}

// maxNode bounds the numbers of NUMA nodes: CONFIG_NODES_SHIFT is at most 10.
const maxNode = 1<<10 - 1

// nodes reads libvirt's notation of a set, "0-2,^1,5". What it cannot read it leaves
// out: the nodes are only a preference.
func nodes(set string) []int {
	var has [maxNode + 1]bool
	for part := range strings.SplitSeq(set, ",") {
		part, not := strings.CutPrefix(strings.TrimSpace(part), "^")
		low, high, ranged := strings.Cut(part, "-")
		if !ranged {
			high = low
		}
		first, err1 := strconv.ParseUint(low, 10, 32)
		last, err2 := strconv.ParseUint(high, 10, 32)
		if err1 != nil || err2 != nil || last > maxNode {
			continue
		}
		for n := first; n <= last; n++ {
			has[n] = !not
		}
	}
	var in []int
	for n, yes := range has {
		if yes {
			in = append(in, n)
		}
	}
	return in
}

func text(e *element) string {
	if e == nil {
		return ""
	}
	return strings.TrimSpace(string(e.text))
}

func readNIC(index int, e *element) NIC {
	source, target := e.child("source"), e.child("target")
	n := NIC{
		Index: index,
		Type:  e.get("type"),
		Alias: e.child("alias").get("name"),
		Source: Source{
			Dev: source.get("dev"), Mode: source.get("mode"), Bridge: source.get("bridge"),
			Network: source.get("network"), Portgroup: source.get("portgroup"), PortID: source.get("portid"),
		},
		Target:    target.get("dev"),
		Managed:   target.get("managed"),
		Unmanaged: e.get("type") == "hostdev" && e.get("managed") != "yes",
		Model:     e.child("model").get("type"),
		RxFilters: e.get("trustGuestRxFilters") == "yes",
		Bandwidth: e.child("bandwidth") != nil,
		Filter:    e.child("filterref") != nil,
		Isolated:  e.child("port").get("isolated") == "yes",
		Script:    e.child("script").get("path") != "",
		TapPath:   e.child("backend").get("tap") != "",
		Teaming:   Teaming{Type: e.child("teaming").get("type"), Persistent: e.child("teaming").get("persistent")},
		elem:      e,
	}
	if a := e.child("address"); a != nil {
		for _, name := range []string{"type", "domain", "bus", "slot", "function", "cssid", "ssid", "devno"} {
			n.Slot = strings.TrimSpace(n.Slot + " " + a.get(name))
		}
	}
	if a := source.child("address"); a != nil && a.get("type") == "pci" {
		n.Source.PCI = n.pci(a)
	}
	if s, there := e.child("mac").lookup("address"); there {
		if mac, ok := parseMAC(s); ok {
			n.MAC = mac
		} else {
			n.fail("mac address", s)
		}
	}
	n.Queues = n.number("driver queues", e.child("driver"), "queues", math.MaxUint32)
	n.MTU = n.number("mtu size", e.child("mtu"), "size", math.MaxUint32)
	if v := e.child("vlan"); v != nil {
		n.VLAN = &VLAN{Trunk: strings.EqualFold(v.get("trunk"), "yes")}
		for _, c := range v.children {
			if c.name.Local == "tag" {
				n.VLAN.Tags = append(n.VLAN.Tags, n.number("vlan tag id", c, "id", 4095))
				if mode := c.get("nativeMode"); mode == "tagged" || mode == "untagged" {
					n.VLAN.NativeMode, n.VLAN.NativeTag = mode, n.VLAN.Tags[len(n.VLAN.Tags)-1]
					n.VLAN.Trunk = true
				}
			}
		}
		n.VLAN.Trunk = n.VLAN.Trunk || len(n.VLAN.Tags) > 1
	}
	if v := e.child("virtualport"); v != nil {
		n.VirtualPort = &VirtualPort{Type: v.get("type"), Parameters: map[string]string{}}
		if p := v.child("parameters"); p != nil {
			for _, a := range p.attr {
				n.VirtualPort.Parameters[a.Name.Local] = a.Value
			}
		}
	}
	return n
}

func (n *NIC) fail(what, value string) {
	if n.err == nil {
		n.err = fmt.Errorf("%w: %s: %s %q", ErrNIC, n, what, value)
	}
}
