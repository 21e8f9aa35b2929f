package xmlfilter

import (
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
	// Keep keeps what is changed in the metadata (<ld:was>), for Undo. What an
	// earlier Rewrite kept stays.
	Keep bool
}

// Rewrite returns the domain document with the changes made, and every other byte
// as it was. When there is nothing to change it returns the original bytes. A value
// that XML cannot hold is an error matching ErrNIC.
func (d *Domain) Rewrite(changes []Change) ([]byte, error) {
	ed := &editor{doc: d.doc}
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
		was := ""
		if c.Keep && (n.Settings == nil || n.Settings.was == nil) {
			was = ed.keep(n)
		}
		ed.change(n, c)
		if n.Settings == nil {
			if markup, err := newNIC(n, c.Settings, was); err != nil {
				return nil, err
			} else if markup != "" {
				fresh = append(fresh, markup)
			}
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
		if c.WasDev != "" && n.Settings.was != nil {
			if s := plainChild(n.Settings.was, "source"); s != nil {
				ed.setAttr(s, "dev", c.WasDev)
			}
		}
	}
	if len(fresh) > 0 {
		d.addNICs(ed, fresh)
	}
	return d.edited(ed)
}

// edited returns the document with an editor's changes, in the encoding in which it came.
func (d *Domain) edited(ed *editor) ([]byte, error) {
	if len(ed.splices) == 0 {
		return d.raw, nil
	}
	doc, err := ed.bytes()
	if err != nil {
		return nil, err
	}
	return d.charset.encode(doc), nil
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
	for _, name := range []string{"vlan", "virtualport"} {
		ed.removeChild(n.elem, name)
	}
	markup := fmt.Sprintf("<target dev='%s' managed='no'/>", escape(c.Ethernet))
	switch {
	case source != nil:
		ed.replace(source.start, source.end, markup)
		ed.removeChild(n.elem, "target")
	case target != nil:
		ed.replace(target.start, target.end, markup)
	default:
		ed.appendChild(n.elem, markup)
	}
}

func (ed *editor) removeChild(e *element, name string) {
	if c := e.child(name); c != nil {
		ed.remove(c)
	}
}

// keptChildren are the children of <interface> that Rewrite may change.
var keptChildren = []string{"source", "target", "vlan", "virtualport"}

// keep returns the markup of <ld:was>: the parts of the interface that Rewrite may
// change, byte for byte, and which settings were there.
func (ed *editor) keep(n *NIC) string {
	var words []string
	if n.Settings != nil {
		for _, name := range settings.Names(settings.InNIC) {
			if _, ok := n.Settings.elem.lookup(name); ok {
				words = append(words, name)
			}
		}
	}
	prefix, inner := "ld:", strings.Builder{}
	if n.Settings != nil {
		prefix = prefixOf(ed.rawName(n.Settings.elem))
	}
	for _, c := range n.elem.children {
		if slices.Contains(keptChildren, c.name.Local) && c.name.Space == "" {
			inner.Write(ed.doc[c.start:c.end])
		}
	}
	attrs := fmt.Sprintf("type='%s'", escape(n.Type))
	if v, ok := n.elem.lookup("trustGuestRxFilters"); ok {
		attrs += fmt.Sprintf(" trustGuestRxFilters='%s'", escape(v))
	}
	if n.Settings != nil {
		attrs += fmt.Sprintf(" words='%s'", strings.Join(words, " "))
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

// newNIC returns the markup of a new <ld:nic>, or "" when it would say nothing.
func newNIC(n *NIC, values map[string]string, was string) (string, error) {
	var b strings.Builder
	for _, name := range settings.Names(settings.InNIC) {
		if v := values[name]; v != "" {
			fmt.Fprintf(&b, " %s='%s'", name, escape(v))
		}
	}
	if b.Len() == 0 && was == "" {
		return "", nil
	}
	if n.MAC == "" {
		return "", fmt.Errorf("%w: %s has no <mac address=>, so nothing can be noted for it", ErrNIC, n)
	}
	head := fmt.Sprintf("<ld:nic mac='%s'%s", n.MAC, b.String())
	if was == "" {
		return head + "/>", nil
	}
	return head + ">" + was + "</ld:nic>", nil
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
	ed := &editor{doc: d.doc}
	var emptied []*element
	for i := range d.NICs {
		n := &d.NICs[i]
		if n.Settings == nil || n.Settings.was == nil {
			continue
		}
		ed.restore(n)
		words, hadWords := n.Settings.was.lookup("words")
		if !hadWords {
			emptied = append(emptied, n.Settings.elem)
			continue
		}
		before := strings.Fields(words)
		for _, name := range settings.Names(settings.InNIC) {
			if !slices.Contains(before, name) {
				ed.dropAttr(n.Settings.elem, name)
			}
		}
		ed.dropKept(n.Settings)
	}
	d.dropEmptied(ed, emptied)
	return d.edited(ed)
}

// restore puts the kept parts back into an <interface>.
func (ed *editor) restore(n *NIC) {
	was := n.Settings.was
	ed.setAttr(n.elem, "type", was.get("type"))
	if v, ok := was.lookup("trustGuestRxFilters"); ok {
		ed.setAttr(n.elem, "trustGuestRxFilters", v)
	}
	var kept []string
	for _, c := range was.children {
		if slices.Contains(keptChildren, c.name.Local) {
			kept = append(kept, ed.clean(c))
		}
	}
	var at *element // the first of the changed children: there the kept ones go
	for _, c := range n.elem.children {
		if !slices.Contains(keptChildren, c.name.Local) || c.name.Space != "" {
			continue
		}
		if at == nil {
			at = c
		} else {
			ed.remove(c)
		}
	}
	if at == nil {
		for _, markup := range kept {
			ed.appendChild(n.elem, markup)
		}
		return
	}
	ed.replace(at.start, at.end, strings.Join(kept, ed.leading(at)))
}

// clean returns a kept element's bytes without the indentation that libvirt's
// formatter or an editor gave it inside the metadata.
func (ed *editor) clean(e *element) string {
	s := string(ed.doc[e.start:e.end])
	return strings.ReplaceAll(s, ed.leading(e), "")
}

func plainChild(e *element, name string) *element {
	for _, c := range e.children {
		if c.name.Local == name {
			return c
		}
	}
	return nil
}

// dropKept removes <ld:was>; a <nic> that holds nothing else becomes one tag again.
func (ed *editor) dropKept(w *Settings) {
	at := w.elem.openEnd - 1
	for at > w.elem.start && isSpace(ed.doc[at-1]) {
		at--
	}
	ed.replace(at, w.elem.end, "/>")
}

// dropEmptied removes <nic> elements that Rewrite had made, and the elements
// around them that are empty then.
func (d *Domain) dropEmptied(ed *editor, emptied []*element) {
	if len(emptied) == 0 {
		return
	}
	nics, meta := d.nicsElement(), d.root.child("metadata")
	switch {
	case len(emptied) < len(nics.children) || d.Wish != "":
		for _, e := range emptied {
			ed.remove(e)
		}
	case len(meta.children) > 1:
		ed.remove(nics)
	default:
		ed.remove(meta)
	}
}

// SetRewrite returns the document with the domain's wish to be rewritten at define
// time set to "yes" or "no".
func (d *Domain) SetRewrite(wish string) ([]byte, error) {
	ed := &editor{doc: d.doc}
	if nics := d.nicsElement(); nics != nil {
		ed.setAttr(nics, "rewrite", wish)
	} else {
		d.addMetadata(ed, fmt.Sprintf("<ld:nics xmlns:ld='%s' rewrite='%s'/>", Namespace, escape(wish)))
	}
	return d.edited(ed)
}
