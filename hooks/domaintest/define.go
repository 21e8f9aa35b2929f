package domaintest

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"libvirt-direct/xmlfilter"
)

// ErrRefused: libvirt would not take the document.
var ErrRefused = errors.New("libvirt refuses it")

// inOrder are the children of <interface> that libvirt keeps, as it writes them.
var inOrder = []string{"mac", "source", "vlan", "virtualport", "target", "model", "driver", "teaming", "mtu", "alias", "rom", "address"}

// Define returns what libvirt prints of a document that it was given: its own spelling of what
// it knows, without what it does not know, and without comments.
func Define(doc []byte) ([]byte, error) {
	root, err := read(doc)
	if err != nil {
		return nil, err
	}
	out := &tree{name: "domain", attrs: root.attrs}
	for _, name := range []string{"name", "uuid", "metadata", "memory", "os"} {
		if c := root.child(name); c != nil {
			out.children = append(out.children, c)
		}
	}
	if m := out.child("metadata"); m != nil {
		m.metadata()
	}
	if u := out.child("uuid"); u != nil {
		u.text = xmlfilter.CanonicalUUID(u.text)
	}
	devices := &tree{name: "devices"}
	aliases := map[string]bool{}
	for _, of := range root.children {
		if of.name != "devices" {
			continue
		}
		for _, c := range of.children {
			if c.name == "interface" {
				if err := c.network(len(devices.children)); err != nil {
					return nil, err
				}
			}
			if a := c.child("alias"); a != nil && strings.HasPrefix(a.get("name"), "ua-") {
				if aliases[a.get("name")] {
					return nil, fmt.Errorf("%w: non unique alias detected: %s", ErrRefused, a.get("name"))
				}
				aliases[a.get("name")] = true
			}
			devices.children = append(devices.children, c)
		}
	}
	out.children = append(out.children, devices)
	var b strings.Builder
	out.write(&b, "", false)
	b.WriteString("\n")
	return []byte(b.String()), nil
}

// tree is an element as it is written: names with their prefixes.
type tree struct {
	name     string
	attrs    []xml.Attr
	children []*tree
	text     string
}

func (e *tree) child(name string) *tree {
	for _, c := range e.children {
		if c.name == name {
			return c
		}
	}
	return nil
}

func (e *tree) get(name string) string {
	for _, a := range e.attrs {
		if rawName(a.Name) == name {
			return a.Value
		}
	}
	return ""
}

func (e *tree) set(name, value string) {
	for i := range e.attrs {
		if rawName(e.attrs[i].Name) == name {
			e.attrs[i].Value = value
			return
		}
	}
	e.attrs = append(e.attrs, xml.Attr{Name: xml.Name{Local: name}, Value: value})
}

func rawName(n xml.Name) string {
	if n.Space != "" {
		return n.Space + ":" + n.Local
	}
	return n.Local
}

// read reads a document without resolving its namespaces.
func read(doc []byte) (*tree, error) {
	d := xml.NewDecoder(bytes.NewReader(bytes.TrimPrefix(doc, []byte("\ufeff"))))
	d.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) {
		latin, err := io.ReadAll(r)
		var utf8 []rune
		for _, b := range latin {
			utf8 = append(utf8, rune(b))
		}
		return strings.NewReader(string(utf8)), err
	}
	open := []*tree{{}}
	for {
		tok, err := d.RawToken()
		if errors.Is(err, io.EOF) {
			return open[0].children[0], nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrRefused, err)
		}
		last := open[len(open)-1]
		switch t := tok.(type) {
		case xml.StartElement:
			e := &tree{name: rawName(t.Name), attrs: slices.Clone(t.Attr)}
			last.children = append(last.children, e)
			open = append(open, e)
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			last.text += string(t)
		}
	}
}

// metadata drops what libvirt does not keep: elements without a namespace.
func (e *tree) metadata() {
	e.children = slices.DeleteFunc(e.children, func(c *tree) bool {
		return !strings.Contains(c.name, ":") && c.get("xmlns") == ""
	})
}

// network makes an interface what libvirt makes of it.
func (e *tree) network(index int) error {
	var kept []*tree
	for _, name := range inOrder {
		if c := e.child(name); c != nil {
			kept = append(kept, c)
		}
	}
	e.children = kept
	if e.child("mac") == nil {
		e.children = append([]*tree{{name: "mac", attrs: []xml.Attr{{Name: xml.Name{Local: "address"}, Value: fmt.Sprintf("52:54:00:ff:00:%02x", index)}}}}, e.children...)
	}
	// What it says of addresses and numbers is asked of the reader, which has its own test.
	one, err := xmlfilter.Parse([]byte("<domain><devices>" + e.String() + "</devices></domain>"))
	if err != nil {
		return err
	}
	n := &one.NICs[0]
	if err := n.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	e.child("mac").set("address", n.MAC)
	if s := e.child("source"); s != nil && n.Type == "direct" && s.get("mode") == "" {
		s.set("mode", "vepa")
	}
	if v := e.child("vlan"); v != nil {
		v.attrs = nil
		if n.VLAN.Trunk {
			v.set("trunk", "yes")
		}
		for i, tag := range v.children {
			tag.set("id", strconv.Itoa(n.VLAN.Tags[i]))
		}
	}
	if v := e.child("virtualport"); v != nil {
		if n.Type == "ethernet" {
			return fmt.Errorf("%w: virtualport of type ethernet", ErrRefused)
		}
		p := v.child("parameters")
		for _, a := range p.attrs {
			if k := a.Name.Local; strings.HasPrefix(k, "instance") || strings.HasPrefix(k, "interface") {
				p.set(k, xmlfilter.CanonicalUUID(a.Value))
			} else if v, ok := xmlfilter.Number(a.Value, 0, 32); ok {
				p.set(k, strconv.FormatUint(v, 10))
			}
		}
	}
	if m := e.child("mtu"); m != nil {
		m.set("size", strconv.Itoa(n.MTU))
	}
	if !n.UserAlias() {
		e.children = slices.DeleteFunc(e.children, func(c *tree) bool { return c.name == "alias" })
	}
	if t := e.child("target"); t != nil && (strings.HasPrefix(n.Target, "macvtap") || strings.HasPrefix(n.Target, "vnet")) && n.Managed != "no" {
		e.children = slices.DeleteFunc(e.children, func(c *tree) bool { return c.name == "target" })
	}
	return nil
}

func (e *tree) String() string {
	var b strings.Builder
	e.write(&b, "", false)
	return b.String()
}

var toText = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "'", "&apos;", `"`, "&quot;", "\n", "&#10;", "\r", "&#13;", "\t", "&#9;")

// write writes libvirt's own elements in single quotes, and metadata as libxml2 does.
func (e *tree) write(b *strings.Builder, indent string, double bool) {
	quote := "'"
	if double {
		quote = `"`
	}
	b.WriteString(indent + "<" + e.name)
	for _, a := range e.attrs {
		b.WriteString(" " + rawName(a.Name) + "=" + quote + toText.Replace(a.Value) + quote)
	}
	text := e.text
	if len(e.children) > 0 || strings.TrimSpace(text) == "" {
		text = strings.TrimSpace(text)
	}
	if len(e.children) == 0 && text == "" {
		b.WriteString("/>")
		return
	}
	b.WriteString(">" + toText.Replace(text))
	for _, c := range e.children {
		b.WriteString("\n")
		c.write(b, indent+"  ", double || e.name == "metadata")
	}
	if len(e.children) > 0 {
		b.WriteString("\n" + indent)
	}
	b.WriteString("</" + e.name + ">")
}
