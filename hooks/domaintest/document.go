package domaintest

import (
	"fmt"
	"strconv"
	"strings"

	"libvirt-direct/hooks/hooktest"
	"libvirt-direct/internal/settings"
	"libvirt-direct/xmlfilter"
)

// Document is a domain's XML, with what is in it that is not in every one.
type Document struct {
	XML      []byte
	Features map[string]bool
}

// Features are what Make puts into documents: a test counts that each is in enough of them.
func Features() []string {
	return []string{
		"type direct", "type bridge", "type openvswitch", "type hostdev", "type network", "type ethernet", "type user", "passthrough", "no NIC",
		"same MAC", "no MAC", "MAC spelling", "user alias", "libvirt's alias", "same alias", "useless alias", "another device's alias",
		"no metadata", "empty nics", "self-closed nics", "wish", "default namespace", "other prefix", "virsh metadata", "metadata of others",
		"keyed by alias", "keyed by another spelling", "ambiguous key", "stray", "two of one NIC", "setting of the table", "settings on several lines",
		"comment", "CDATA", "entities", "processing instruction", "declaration", "double quotes", "one line", "tabs", "CRLF", "byte order mark", "ISO-8859-1",
		"two devices", "order", "white space in tags", "open and empty", "unknown child", "element twice",
		"vlan", "trunk", "number spelling", "802.1Qbg", "802.1Qbh", "teaming", "own", "uplink named", "another host's name", "VLAN in the name", "unknown device",
	}
}

// generator is a document being made. Elements are built as trees, so that how they are
// written is one thing and what they say another.
type generator struct {
	*hooktest.Tape
	features map[string]bool
	quote    string
	newline  string // "" for a document in one line
	unit     string // of indentation
	macs     []string
	nics     []*nic
}

type nic struct {
	typ, mac, alias, dev, mode string
	passthrough                bool
	kinds                      settings.Kinds
}

type node struct {
	name     string
	attrs    [][2]string
	children []*node
	text     string // as written
	open     bool   // <a></a> for <a/>
}

func elem(name string, attrs ...string) *node {
	n := &node{name: name}
	for i := 0; i+1 < len(attrs); i += 2 {
		n.attrs = append(n.attrs, [2]string{attrs[i], attrs[i+1]})
	}
	return n
}

func (n *node) add(children ...*node) *node {
	n.children = append(n.children, children...)
	return n
}

func textElem(name, text string) *node { return &node{name: name, text: text} }

// Make makes the document that a tape says. Each part can be written in several ways, of which
// libvirt reads all; where it refuses one, so may we.
func Make(tape []byte) Document {
	g := &generator{Tape: hooktest.NewTape(tape), features: map[string]bool{}, quote: "'", newline: "\n", unit: "  "}
	if g.is("double quotes", 5) {
		g.quote = `"`
	}
	switch g.Next(8) {
	case 5:
		g.newline, g.unit = "", ""
		g.has("one line")
	case 6:
		g.unit = "\t"
		g.has("tabs")
	case 7:
		g.newline = "\r\n"
		g.has("CRLF")
	}
	return g.document()
}

func (g *generator) has(feature string) { g.features[feature] = true }

// is decides about a feature that is in one of n documents or elements.
func (g *generator) is(feature string, n int) bool {
	if !g.one(n) {
		return false
	}
	g.has(feature)
	return true
}

func (g *generator) document() Document {
	root := elem("domain", "type", g.of("kvm", "qemu", "test"))
	name := "vm"
	switch g.Next(8) {
	case 6:
		name = "<![CDATA[v<m]]>1"
		g.has("CDATA")
	case 7:
		name = "v&#109; &amp; &lt;m&gt;"
		g.has("entities")
	}
	root.add(textElem("name", name))
	root.add(textElem("uuid", g.of("aaaaaaaa-0000-4000-8000-00000000000b", " AAAAAAAA-0000-4000-8000-00000000000B ", "aaaaaaaa00004000800000000000000b")))
	rest := []*node{elem("memory", "unit", "KiB"), elem("os").add(textElem("type", "hvm"))}
	rest[0].text = "65536"
	devices := g.devices()
	metadata := g.metadata() // knows the NICs
	if metadata != nil {
		root.add(metadata)
	}
	root.add(rest...).add(devices...)

	var b strings.Builder
	latin := g.is("ISO-8859-1", 12)
	switch {
	case latin:
		b.WriteString("<?xml version='1.0' encoding='ISO-8859-1'?>" + g.newline)
		root.children[0].text += "ü"
	case g.is("declaration", 8):
		b.WriteString("<?xml version='1.0' encoding='UTF-8'?>" + g.newline)
	case g.is("byte order mark", 12):
		b.WriteString("\ufeff")
	}
	if g.is("comment", 6) {
		b.WriteString("<!-- WARNING: <domain> is generated -->" + g.newline)
	}
	g.write(&b, root, "")
	if g.newline != "" {
		b.WriteString(g.newline)
	}
	doc := []byte(b.String())
	if latin {
		doc = nil
		for _, r := range b.String() {
			doc = append(doc, byte(r))
		}
	}
	return Document{doc, g.features}
}

// devices makes one <devices>, or two.
func (g *generator) devices() []*node {
	all := []*node{elem("devices")}
	if g.is("another device's alias", 10) {
		all[0].add(elem("disk", "type", "file", "device", "disk").add(elem("source", "file", "/dev/null"), elem("target", "dev", "vda", "bus", "virtio"), elem("alias", "name", g.of("ua-ld-0", "ua-ld-1", "ua-d"))))
	}
	count := 1 + g.Next(4)
	if g.is("no NIC", 12) {
		count = 0
	}
	for i := range count {
		if i > 0 && g.is("two devices", 12) {
			all = append(all, elem("devices"))
		}
		all[len(all)-1].add(g.interfaceElement(i))
	}
	if g.one(3) {
		all[0].add(elem("memballoon", "model", "none"))
	}
	return all
}

func (g *generator) mac(index int) string {
	switch {
	case g.is("no MAC", 20):
		return ""
	case len(g.macs) > 0 && g.is("same MAC", 4):
		return g.macs[g.Next(len(g.macs))]
	}
	mac := fmt.Sprintf("52:54:00:ab:00:%02x", index)
	g.macs = append(g.macs, mac)
	return mac
}

// spelt writes an address as libvirt still reads it.
func (g *generator) spelt(mac string) string {
	if g.is("MAC spelling", 8) {
		return g.of(strings.ToUpper(mac), strings.ReplaceAll(mac, ":00", ":0"))
	}
	return mac
}

func (g *generator) alias() string {
	switch g.Next(13) {
	case 7, 8:
		g.has("user alias")
		return "ua-" + strconv.Itoa(len(g.nics))
	case 9:
		g.has("libvirt's alias")
		return "net" + strconv.Itoa(g.Next(3))
	case 10, 12:
		for _, n := range g.nics {
			if n.alias != "" {
				g.has("same alias")
				return n.alias
			}
		}
		g.has("user alias")
		return "ua-ld-" + strconv.Itoa(g.Next(2))
	case 11:
		g.has("useless alias")
		return g.of("ua-a b", "52:54:00:ab:00:00", "eth0")
	}
	return ""
}

// source is what a macvtap's <source dev=> says: one of the hosts' names.
func (g *generator) source() string {
	switch g.Next(16) {
	case 5, 6, 7:
		g.has("uplink named")
		return g.of("lan", "san")
	case 8, 9, 10:
		g.has("another host's name")
		return g.of("eno1", "eno2", "enp3s0")
	case 11, 12:
		g.has("VLAN in the name")
		return g.of("lan.5", "eth0.100", "eth1.7", "eno1.8")
	case 15:
		if !g.one(8) {
			g.has("unknown device")
			return "nosuch"
		}
	}
	return g.of("eth0", "eth1")
}

func (g *generator) interfaceElement(index int) *node {
	n := &nic{mac: g.mac(index), alias: g.alias()}
	e := elem("interface", "type", "")
	var parts []*node
	if n.mac != "" {
		parts = append(parts, elem("mac", "address", g.spelt(n.mac)))
	}
	vlan := false
	switch g.Next(16) {
	default:
		n.typ, n.kinds = "direct", settings.OnMacvtap
		n.dev, n.mode = g.source(), g.of("bridge", "vepa", "private", "")
		s := elem("source", "dev", n.dev)
		if n.mode != "" {
			s.attrs = append(s.attrs, [2]string{"mode", n.mode})
		}
		parts = append(parts, s)
		vlan = g.one(2)
	case 9:
		g.has("passthrough")
		n.typ, n.passthrough, n.kinds = "direct", true, settings.OnVF
		n.dev = g.of("fast", "ens1f0v0", "ens1f0v1", "eth1")
		parts = append(parts, elem("source", "dev", n.dev, "mode", "passthrough"))
		vlan = g.one(3)
	case 10, 11:
		n.typ, n.kinds = "bridge", settings.OnBridge
		parts = append(parts, elem("source", "bridge", g.of("br0", "brnet")))
		vlan = g.one(8)
	case 12:
		n.typ, n.kinds = "bridge", settings.OnOVS
		g.has("type openvswitch")
		parts = append(parts, elem("source", "bridge", g.of("ovsbr0", "ovsnet", "ovs-elsewhere")),
			elem("virtualport", "type", "openvswitch").add(elem("parameters", "interfaceid", "09b11c53-70f6-4be9-8e61-bfbd8a4d0e77")))
		vlan = g.one(2)
	case 13:
		n.typ, n.kinds = "hostdev", settings.OnVF
		e.attrs = append(e.attrs, [2]string{"managed", "yes"})
		domain := g.of("0x0000", "0", "0x10000")
		parts = append(parts, elem("source").add(elem("address", "type", "pci", "domain", domain, "bus", "0x03", "slot", "0x10", "function", g.of("0x0", "0x1", "2"))))
		vlan = g.one(3)
	case 14:
		n.typ = "network"
		parts = append(parts, elem("source", "network", "default"))
	case 15:
		if g.one(2) {
			n.typ = "user"
		} else {
			n.typ = "ethernet"
			parts = append(parts, elem("target", "dev", g.of("tap0", "mytap"), "managed", "no"))
		}
	}
	g.has("type " + n.typ)
	e.attrs[0][1] = n.typ
	if vlan {
		parts = append(parts, g.vlan(n))
	}
	if n.typ == "direct" && g.one(8) || n.typ == "hostdev" && g.one(4) {
		parts = append(parts, g.virtualPort())
	}
	if g.one(2) {
		parts = append(parts, elem("model", "type", "virtio"))
	}
	if n.typ == "direct" && g.one(6) {
		e.attrs = append(e.attrs, [2]string{"trustGuestRxFilters", g.of("yes", "no")})
	}
	if n.typ == "direct" && g.one(10) {
		parts = append(parts, elem("target", "dev", "macvtap"+strconv.Itoa(g.Next(3))))
	}
	if g.one(10) {
		parts = append(parts, elem("mtu", "size", g.number(1400)))
	}
	if g.is("teaming", 12) {
		parts = append(parts, elem("teaming", "type", "persistent"))
	}
	if g.is("unknown child", 12) {
		parts = append(parts, elem("rom", "bar", "off"), elem("nosuch", "a", "b").add(elem("vlan")))
	}
	if n.alias != "" {
		parts = append(parts, elem("alias", "name", n.alias))
	}
	if g.is("element twice", 20) {
		parts = append(parts, elem("source", "dev", "other"), elem("vlan").add(elem("tag", "id", "9")))
	}
	if g.is("order", 4) { // rotated
		by := g.Next(len(parts) + 1)
		parts = append(append([]*node{}, parts[by:]...), parts[:by]...)
	}
	g.nics = append(g.nics, n)
	return e.add(parts...)
}

// number writes a decimal number as libvirt still reads it.
func (g *generator) number(n int) string {
	if g.is("number spelling", 6) {
		return g.of(" ", "+", "0", "&#48;") + strconv.Itoa(n)
	}
	return strconv.Itoa(n)
}

func (g *generator) vlan(n *nic) *node {
	g.has("vlan")
	v := elem("vlan")
	ids := []int{100, 5, 7, 200}
	first := g.Next(len(ids))
	v.add(elem("tag", "id", g.number(ids[first])))
	if n.kinds == settings.OnOVS && g.one(2) || g.one(10) {
		g.has("trunk")
		v.attrs = append(v.attrs, [2]string{"trunk", g.of("yes", "YES")})
		v.add(elem("tag", "id", "42"))
		if g.one(2) {
			v.children[0].attrs = append(v.children[0].attrs, [2]string{"nativeMode", g.of("tagged", "untagged")})
		}
	}
	return v
}

func (g *generator) virtualPort() *node {
	if g.one(3) {
		g.has("802.1Qbh")
		return elem("virtualport", "type", "802.1Qbh").add(elem("parameters", "profileid", "finance"))
	}
	g.has("802.1Qbg")
	return elem("virtualport", "type", "802.1Qbg").add(elem("parameters", "managerid", g.of("11", "0x0b"), "typeid", g.of("1193047", " 0x123457"),
		"typeidversion", g.of("2", "02"), "instanceid", g.of("09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f", "09b11c538b5c4eeb8f00d84eaa0aaa4f")))
}

// metadata makes <metadata>, with ours and others' in it.
func (g *generator) metadata() *node {
	form := g.Next(8)
	if form < 2 {
		g.has("no metadata")
		return nil
	}
	m := elem("metadata")
	if g.is("metadata of others", 4) {
		m.add(elem("app:info", "xmlns:app", "urn:others").add(textElem("app:note", "1 &lt; 2"), elem("app:mac", "address", "52:54:00:ab:00:00")))
	}
	if g.one(10) {
		return m
	}
	prefix, xmlns := "ld:", "xmlns:ld"
	switch g.Next(10) {
	case 7:
		prefix, xmlns = "", "xmlns"
		g.has("default namespace")
	case 8:
		prefix, xmlns = "direct:", "xmlns:direct"
		g.has("other prefix")
	}
	nics := elem(prefix+"nics", xmlns, xmlfilter.Namespace)
	if g.is("wish", 4) {
		nics.attrs = append(nics.attrs, [2]string{"rewrite", g.of("yes", "no")})
	}
	m.add(nics)
	if g.is("virsh metadata", 8) {
		prefix = "" // which puts only the outermost into the namespace
	}
	switch form {
	case 2:
		nics.open = true
		g.has("empty nics")
	case 3:
		g.has("self-closed nics")
	default:
		for _, n := range g.nics {
			if e := g.settings(prefix+"nic", n); e != nil {
				nics.add(e)
				if g.is("two of one NIC", 10) {
					again := elem(e.name, e.attrs[0][0], e.attrs[0][1])
					if e.attrs[0][0] == "alias" && n.mac != "" {
						again = elem(e.name, "mac", n.mac)
					}
					nics.add(again)
				}
			}
		}
		if g.is("stray", 6) {
			nics.add(elem(prefix+"nic", "mac", "52:54:00:ab:ff:ff", "allmulticast", "yes"))
		}
	}
	return m
}

// settings makes a <nic>, nil where it would say nothing.
func (g *generator) settings(name string, n *nic) *node {
	e := elem(name)
	same := 0
	for _, o := range g.nics {
		if o.mac == n.mac {
			same++
		}
	}
	userAlias := strings.HasPrefix(n.alias, "ua-")
	switch {
	case userAlias && (same > 1 || n.mac == "" || g.one(2)):
		g.has("keyed by alias")
		e.attrs = append(e.attrs, [2]string{"alias", n.alias})
	case n.mac == "":
		return nil
	case same > 1 && !g.is("ambiguous key", 2):
		return nil
	case g.is("keyed by another spelling", 6):
		e.attrs = append(e.attrs, [2]string{"mac", g.of(strings.ToUpper(n.mac), strings.ReplaceAll(n.mac, ":", "-"))})
	default:
		e.attrs = append(e.attrs, [2]string{"mac", n.mac})
	}
	set := func(name, value string) { e.attrs = append(e.attrs, [2]string{name, value}) }
	fits := g.one(12) // whether they fit or not
	switch {
	case n.typ == "direct" && g.one(4):
		set(settings.NameUplink, map[bool]string{true: "fast", false: g.of("lan", "san")}[n.passthrough])
	case n.typ == "direct" && !n.passthrough && g.one(8):
		set(settings.NameVLAN, g.of("100", "5"))
	}
	if (n.typ == "direct" || n.kinds == settings.OnOVS || fits) && g.is("own", 4) {
		set(settings.NameOwn, settings.OwnHook)
	}
	taken := map[string]bool{settings.NameUplink: true, settings.NameVLAN: true, settings.NameOwn: true, settings.NameDev: true, settings.NameMode: true, "profile": true}
	table := settings.At(settings.InNIC)
	for range g.Next(3) {
		s := table[g.Next(len(table))]
		if taken[s.Name] || s.NICs&n.kinds == 0 && !fits {
			continue
		}
		taken[s.Name] = true
		g.has("setting of the table")
		set(s.Name, g.value(s))
	}
	if g.one(15) {
		set("profile", "gold")
	}
	if len(e.attrs) == 1 && g.one(2) {
		return nil
	}
	return e
}

func (g *generator) value(s settings.Setting) string {
	if len(s.Values) > 0 {
		return s.Values[g.Next(len(s.Values))]
	}
	return g.of("5", "100", "0")
}

// write writes an element as the document is written.
func (g *generator) write(b *strings.Builder, n *node, indent string) {
	space := " "
	b.WriteString("<" + n.name)
	for _, a := range n.attrs {
		switch nic := strings.HasSuffix(n.name, "nic"); {
		case nic && g.is("settings on several lines", 8):
			space = "\n        "
		case !nic && g.is("white space in tags", 40):
			space = g.of("  ", "\n   ", "\t")
		}
		eq := "="
		if space != " " && g.one(4) {
			eq = " = "
		}
		v := a[1]
		if g.is("entities", 60) && v != "" && !strings.Contains(v, "&") {
			v = fmt.Sprintf("&#%d;%s", v[0], v[1:])
		}
		b.WriteString(space + a[0] + eq + g.quote + v + g.quote)
	}
	if len(n.children) == 0 && n.text == "" {
		switch {
		case n.open || g.is("open and empty", 40):
			b.WriteString("></" + n.name + ">")
		case g.one(30):
			b.WriteString(" />")
		default:
			b.WriteString("/>")
		}
		return
	}
	b.WriteString(">" + n.text)
	inner := indent + g.unit
	for _, c := range n.children {
		switch g.Next(60) {
		case 58:
			b.WriteString(g.newline + inner + "<!-- a <comment/> -->")
			g.has("comment")
		case 59:
			b.WriteString(g.newline + inner + "<?app x='<y/>'?>")
			g.has("processing instruction")
		}
		if g.one(40) {
			b.WriteString(g.newline) // an empty line
		}
		b.WriteString(g.newline + inner)
		g.write(b, c, inner)
	}
	if len(n.children) > 0 {
		if g.one(60) {
			b.WriteString(g.newline + inner + "<!-- last -->")
			g.has("comment")
		}
		b.WriteString(g.newline + indent)
	}
	b.WriteString("</" + n.name + ">")
}
