package xmlfilter

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"libvirt-direct/internal/settings"
)

// Change is what Rewrite does to one NIC. Its zero value but for NIC does nothing.
type Change struct {
	NIC int // index in Domain.NICs

	// SourceDev replaces <source dev=>; "" keeps it.
	SourceDev string
	// SourceBridge replaces <source bridge=>; "" keeps it.
	SourceBridge string
	// SourceMode replaces <source mode=>; "" keeps it.
	SourceMode string
	// DropVLAN removes <vlan>, because SourceDev now is the VLAN's own device.
	DropVLAN bool
	// DropVirtualPort removes <virtualport>, because the hook associates the port.
	DropVirtualPort bool
	// Ethernet is the name of the device that the NIC becomes:
	// <interface type='ethernet'><target dev=NAME managed='no'/>. <source>,
	// <virtualport>, <vlan> and trustGuestRxFilters, which libvirt refuses there,
	// go. "" keeps the type.
	Ethernet string
	// Settings are set in the metadata; an empty value removes the setting.
	Settings map[string]string
	// WasDev replaces the device in what was kept by an earlier Rewrite, so that
	// Undo on this host names this host's device.
	WasDev string
	// Instance replaces the identifiers of the port in what was kept by an earlier Rewrite, where
	// they are another domain's.
	Instance string
	// Keep keeps what is changed in the metadata (<ld:was>), for Undo. What an
	// earlier Rewrite kept stays.
	Keep bool
}

// Renames reports whether a hook-owned NIC's device gets another name: it had another domain's,
// or that is gone.
func (c Change) Renames(n *NIC) bool {
	kept := n.Settings != nil && n.Settings.was != nil
	return c.Ethernet != "" && n.Type == "ethernet" && n.Target != c.Ethernet && (n.Target != "" || kept)
}

// Rewrite returns the domain document with the changes made, and every other byte
// as it was. When there is nothing to change it returns the original bytes. A value
// that XML cannot hold is an error matching ErrNIC.
func (d *Domain) Rewrite(changes []Change) ([]byte, error) {
	ed, err := d.rewrite(changes, "")
	if err != nil {
		return nil, err
	}
	doc := ed.bytes(d.root)
	kept := slices.ContainsFunc(changes, func(c Change) bool { return c.Keep })
	// What had another guest's device does not get that back.
	renamed := slices.ContainsFunc(changes, func(c Change) bool { return c.Renames(&d.NICs[c.NIC]) })
	if kept && !renamed && !bytes.Equal(doc, d.doc) {
		doc = d.exactly(doc, func(exact string) *editor {
			ed, _ := d.rewrite(changes, exact) // as before
			return ed
		})
	}
	return d.encoded(doc), nil
}

// rewrite makes the edits of Rewrite; exact goes into the first NIC's <ld:was>.
func (d *Domain) rewrite(changes []Change, exact string) (*editor, error) {
	ed := newEditor(d.doc)
	holder := slices.IndexFunc(d.NICs, func(n NIC) bool {
		return n.Settings != nil && n.Settings.was != nil || slices.ContainsFunc(changes, func(c Change) bool { return c.NIC == n.Index && c.Keep })
	})
	if holder >= 0 && d.NICs[holder].Settings != nil && d.NICs[holder].Settings.was != nil && exact != "" {
		ed.setAttr(d.NICs[holder].Settings.was, nameExact, exact)
	}
	var fresh []string // markup of new <nic> elements
	for _, c := range changes {
		if c.NIC < 0 || c.NIC >= len(d.NICs) {
			return nil, fmt.Errorf("xmlfilter: no NIC %d", c.NIC)
		}
		n := &d.NICs[c.NIC]
		for _, v := range append(slices.Collect(maps.Values(c.Settings)), c.SourceDev, c.SourceBridge, c.SourceMode, c.Ethernet, c.WasDev) {
			if !settings.Printable(v) {
				return nil, fmt.Errorf("%w: %s: %q cannot be written", ErrNIC, n, v)
			}
		}
		ed.change(n, c)
		alias := d.NewAlias(c)
		was := ""
		if c.Keep && (n.Settings == nil || n.Settings.was == nil) {
			was = ed.keep(n, c, alias, exact, c.NIC == holder)
		}
		if n.Settings == nil {
			if !c.notes() {
				continue
			}
			key, err := d.keyFor(n, alias)
			if err != nil {
				return nil, err
			}
			if alias != "" {
				ed.name(n, alias)
			}
			fresh = append(fresh, newNIC(key, c.Settings, was))
			continue
		}
		for _, name := range settings.Names(settings.InNIC) {
			v, ok := c.Settings[name]
			switch _, has := n.Settings.elem.lookup(name); {
			case ok && v != "":
				ed.setAttr(n.Settings.elem, name, v)
			case ok && has:
				ed.dropAttr(n.Settings.elem, name)
			}
		}
		if was != "" {
			ed.appendChild(n.Settings.elem, was)
		}
		if c.Renames(n) {
			ed.dropKeptTarget(n.Settings.was)
		}
		if c.Instance != "" {
			ed.renewPort(n.Settings.was, c.Instance)
		}
		if c.WasDev != "" && n.Settings.was != nil {
			if s := plainChild(n.Settings.was, "source"); s != nil {
				ed.setAttr(s, "dev", c.WasDev)
			}
		}
	}
	if len(fresh) > 0 {
		d.addNICs(ed, fresh)
	}
	return ed, nil
}

// dropKeptTarget removes the device's name from what was kept: it is that of another domain's.
func (ed *editor) dropKeptTarget(was *element) {
	if t := plainChild(was, "target"); t != nil {
		ed.remove(t)
	}
}

// encoded returns a document that was made of the domain's in the encoding in which that came.
func (d *Domain) encoded(doc []byte) []byte {
	if bytes.Equal(doc, d.doc) {
		return d.raw
	}
	return d.charset.encode(doc)
}

// notes reports whether something is written into the NIC's metadata.
func (c Change) notes() bool {
	for _, v := range c.Settings {
		if v != "" {
			return true
		}
	}
	return c.Keep
}

// NewAlias returns the user alias that Rewrite gives a NIC so that its settings can name it,
// "" where it needs none: its MAC tells it from the others, or it has a user alias.
func (d *Domain) NewAlias(c Change) string {
	n := &d.NICs[c.NIC]
	if n.Settings != nil || !c.notes() || n.MAC != "" && !n.twin || n.UserAlias() {
		return ""
	}
	for i := n.Index; ; i += len(d.NICs) { // another one for each NIC
		if alias := fmt.Sprintf("ua-ld-%d", i); !d.aliases[alias] {
			return alias
		}
	}
}

// keyFor returns the attribute by which new settings name a NIC.
func (d *Domain) keyFor(n *NIC, alias string) (string, error) {
	if n.MAC != "" && !n.twin {
		return "mac='" + n.MAC + "'", nil
	}
	alias = cmp.Or(alias, n.Alias)
	for i := range d.NICs {
		if o := &d.NICs[i]; o != n && o.Alias == alias {
			return "", fmt.Errorf("%w: %s and %s have the same alias %q, so nothing can be noted for one of them", ErrNIC, n, o, alias)
		}
	}
	return "alias='" + alias + "'", nil
}

// name gives a NIC a user alias, in place of what libvirt calls it.
func (ed *editor) name(n *NIC, alias string) {
	if e := n.elem.child("alias"); e != nil {
		ed.setAttr(e, "name", alias)
		return
	}
	ed.appendChild(n.elem, "<alias name='"+alias+"'/>")
}

// change makes a Change's edits of the <interface> itself.
func (ed *editor) change(n *NIC, c Change) {
	source, target := n.elem.child("source"), n.elem.child("target")
	if c.Ethernet == "" {
		if c.SourceDev != "" && source != nil {
			ed.setAttr(source, "dev", c.SourceDev)
		}
		if c.SourceBridge != "" && source != nil {
			ed.setAttr(source, "bridge", c.SourceBridge)
		}
		if c.SourceMode != "" && source != nil {
			ed.setAttr(source, "mode", c.SourceMode)
		}
		if c.DropVLAN {
			ed.removeChild(n.elem, "vlan")
		}
		if c.DropVirtualPort {
			ed.removeChild(n.elem, "virtualport")
		}
		return
	}
	ed.setAttr(n.elem, "type", "ethernet")
	ed.dropAttr(n.elem, "trustGuestRxFilters")
	markup := fmt.Sprintf("<target dev='%s' managed='no'/>", escape(c.Ethernet))
	place := cmp.Or(source, target)
	if place == nil {
		ed.appendChild(n.elem, markup)
	}
	for _, e := range n.elem.children { // a second <source> would be the NIC's, with the first gone
		switch {
		case e == place:
			ed.replace(e, markup)
		case isKept(e):
			ed.remove(e)
		}
	}
}

func (ed *editor) removeChild(e *element, name string) {
	for _, c := range e.children {
		if c.name.Local == name && c.name.Space == "" {
			ed.remove(c)
		}
	}
}

// keptChildren are the children of <interface> that Rewrite may change.
var keptChildren = []string{"source", "target", "vlan", "virtualport"}

// nameAlias is the element that is kept where Rewrite gives the NIC another alias, and the
// attribute that says which.
const nameAlias = "alias"

func isKept(e *element) bool {
	return slices.Contains(keptChildren, e.name.Local) && e.name.Space == ""
}

// replacedPrefix begins the names of attributes that keep values of settings that Rewrite
// replaces.
const replacedPrefix = "was-"

// keep returns the markup of <ld:was>: the parts of the interface that Rewrite may
// change, byte for byte, which settings were there, and the alias that Rewrite gives it.
func (ed *editor) keep(n *NIC, c Change, alias, exact string, holder bool) string {
	var words []string
	replaced := ""
	if n.Settings != nil {
		for _, name := range settings.Names(settings.InNIC) {
			have, ok := n.Settings.elem.lookup(name)
			if !ok {
				continue
			}
			words = append(words, name)
			if v, changes := c.Settings[name]; changes && v != have {
				replaced += fmt.Sprintf(" %s%s='%s'", replacedPrefix, name, escape(have))
			}
		}
	}
	prefix, inner := "ld:", strings.Builder{}
	if n.Settings != nil {
		prefix = prefixOf(ed.rawName(n.Settings.elem))
	}
	for _, c := range n.elem.children {
		if isKept(c) || alias != "" && c == n.elem.child(nameAlias) {
			inner.Write(ed.doc[c.start:c.end])
		}
	}
	attrs := fmt.Sprintf("type='%s'", escape(n.Type))
	if v, ok := n.elem.lookup("trustGuestRxFilters"); ok {
		attrs += fmt.Sprintf(" trustGuestRxFilters='%s'", escape(v))
	}
	if alias != "" {
		attrs += fmt.Sprintf(" alias='%s'", alias)
	}
	if n.Settings != nil {
		attrs += fmt.Sprintf(" words='%s'%s", strings.Join(words, " "), replaced)
	}
	if holder && exact != "" {
		attrs += fmt.Sprintf(" %s='%s'", nameExact, escape(exact))
	}
	return fmt.Sprintf("<%[1]swas %[2]s>%[3]s</%[1]swas>", prefix, attrs, inner.String())
}

// prefixOf returns the namespace prefix of a name as written, with its colon.
func prefixOf(raw string) string {
	if i := strings.IndexByte(raw, ':'); i >= 0 {
		return raw[:i+1]
	}
	return ""
}

// newNIC returns the markup of a new <ld:nic>.
func newNIC(key string, values map[string]string, was string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "<ld:nic %s", key)
	for _, name := range settings.Names(settings.InNIC) {
		if v := values[name]; v != "" {
			fmt.Fprintf(&b, " %s='%s'", name, escape(v))
		}
	}
	if was == "" {
		return b.String() + "/>"
	}
	return b.String() + ">" + was + "</ld:nic>"
}

// addNICs adds <ld:nic> elements, with the elements around them as far as they
// are missing.
func (d *Domain) addNICs(ed *editor, fresh []string) {
	if nics := d.nicsElement(); nics != nil {
		for _, markup := range fresh {
			// The element may use another prefix, or none, for our namespace.
			p := prefixOf(ed.rawName(nics))
			markup = strings.NewReplacer("<ld:", "<"+p, "</ld:", "</"+p).Replace(markup)
			ed.appendChild(nics, markup)
		}
		return
	}
	d.addMetadata(ed, fmt.Sprintf("<ld:nics xmlns:ld='%s'>%s</ld:nics>", Namespace, strings.Join(fresh, "")))
}

// addMetadata adds an element to <metadata>, which is made where it is missing.
func (d *Domain) addMetadata(ed *editor, markup string) {
	if meta := d.root.child("metadata"); meta != nil {
		ed.appendChild(meta, markup)
		return
	}
	markup = "<metadata>" + markup + "</metadata>"
	for _, name := range []string{"uuid", "name"} {
		if e := d.root.child(name); e != nil {
			ed.insertAfter(e, markup)
			return
		}
	}
	ed.appendChild(d.root, markup)
}

// Undo returns the domain document with every NIC put back to what it was before
// Rewrite kept it, edits made since to other parts of the NIC staying. It returns
// the original bytes when nothing was kept.
func (d *Domain) Undo() ([]byte, error) {
	return d.encoded(d.undone()), nil
}

func (d *Domain) undone() []byte {
	ed := newEditor(d.doc)
	var patches []string
	var emptied []*element
	for i := range d.NICs {
		n := &d.NICs[i]
		if n.Settings == nil || n.Settings.was == nil {
			continue
		}
		ed.restore(n)
		if exact, has := n.Settings.was.lookup(nameExact); has {
			patches = append(patches, exact)
		}
		words, hadWords := n.Settings.was.lookup("words")
		if !hadWords {
			emptied = append(emptied, n.Settings.elem)
			continue
		}
		before := strings.Fields(words)
		for _, name := range settings.Names(settings.InNIC) {
			if v, replaced := n.Settings.was.lookup(replacedPrefix + name); replaced {
				ed.setAttr(n.Settings.elem, name, v)
			} else if !slices.Contains(before, name) {
				ed.dropAttr(n.Settings.elem, name)
			}
		}
		ed.dropKept(n.Settings)
	}
	d.dropEmptied(ed, emptied)
	doc := ed.bytes(d.root)
	for _, patch := range patches {
		if exact, ok := applyPatch(doc, patch); ok && sameMeaning(doc, exact) {
			return exact
		}
	}
	return doc
}

// restore puts the kept parts back into an <interface>.
func (ed *editor) restore(n *NIC) {
	was := n.Settings.was
	ed.setAttr(n.elem, "type", was.get("type"))
	if v, ok := was.lookup("trustGuestRxFilters"); ok {
		ed.setAttr(n.elem, "trustGuestRxFilters", v)
	}
	if given, was := n.elem.child(nameAlias), plainChild(was, nameAlias); given != nil && given.get("name") == n.Settings.was.get(nameAlias) {
		if was != nil {
			ed.replace(given, ed.clean(was))
		} else {
			ed.remove(given)
		}
	}
	var kept []string
	for _, c := range was.children {
		if slices.Contains(keptChildren, c.name.Local) {
			kept = append(kept, ed.clean(c))
		}
	}
	var at *element // the first of the changed children: there the kept ones go
	for _, c := range n.elem.children {
		if !isKept(c) {
			continue
		}
		if at == nil {
			at = c
		} else {
			ed.remove(c)
		}
	}
	switch {
	case at == nil:
		for _, markup := range kept {
			ed.appendChild(n.elem, markup)
		}
	case len(kept) == 0:
		ed.remove(at)
	default:
		ed.replace(at, strings.Join(kept, ed.leading(at)))
	}
}

// clean returns a kept element's bytes without the indentation that libvirt's
// formatter or an editor gave it inside the metadata.
func (ed *editor) clean(e *element) string {
	s := string(ed.doc[e.start:e.end])
	return strings.ReplaceAll(s, ed.leading(e), "")
}

func plainChild(e *element, name string) *element {
	if e == nil {
		return nil
	}
	for _, c := range e.children {
		if c.name.Local == name {
			return c
		}
	}
	return nil
}

// dropKept removes <ld:was>; a <nic> that holds nothing else becomes one tag again.
func (ed *editor) dropKept(w *Settings) {
	rest := slices.Concat(ed.doc[w.elem.openEnd:w.was.start], ed.doc[w.was.end:w.elem.closeTag])
	if len(bytes.TrimSpace(rest)) == 0 {
		ed.empty(w.elem)
	} else {
		ed.remove(w.was)
	}
}

// dropEmptied removes <nic> elements that Rewrite had made, and the elements
// around them that are empty then.
func (d *Domain) dropEmptied(ed *editor, emptied []*element) {
	if len(emptied) == 0 {
		return
	}
	nics, meta := d.nicsElement(), d.root.child("metadata")
	switch {
	case len(emptied) < len(nics.children) || d.Wish != "" || text(nics) != "":
		for _, e := range emptied {
			ed.remove(e)
		}
	case len(meta.children) > 1 || text(meta) != "":
		ed.remove(nics)
	default:
		ed.remove(meta)
	}
}

// SetRewrite returns the document with the domain's wish to be rewritten at define
// time set to "yes" or "no".
func (d *Domain) SetRewrite(wish string) ([]byte, error) {
	ed := newEditor(d.doc)
	if nics := d.nicsElement(); nics != nil {
		ed.setAttr(nics, "rewrite", wish)
	} else {
		d.addMetadata(ed, fmt.Sprintf("<ld:nics xmlns:ld='%s' rewrite='%s'/>", Namespace, escape(wish)))
	}
	return d.encoded(ed.bytes(d.root)), nil
}
