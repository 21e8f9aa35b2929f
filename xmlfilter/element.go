package xmlfilter

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// maxDepth bounds how deeply elements may nest. libvirt's own documents stay
// below 20; the bound keeps a hostile one from exhausting the stack.
const maxDepth = 256

// element is one XML element and where its bytes lie in the document, so that an
// edit can replace exactly those and leave all others as they were.
type element struct {
	name     xml.Name // Space is the namespace's URI, not its prefix
	attr     []xml.Attr
	children []*element
	text     []byte // character data directly inside, concatenated

	start    int // offset of '<' of the start tag
	openEnd  int // offset behind the start tag's '>'
	closeTag int // offset of the end tag; equals openEnd for <a/>
	end      int // offset behind the element
}

// selfClosed reports whether the element is written as one tag: <a/>.
func (e *element) selfClosed() bool { return e.openEnd == e.end }

// child returns the first child with that name and no namespace, or nil.
func (e *element) child(name string) *element { return e.childNS("", name) }

func (e *element) childNS(space, name string) *element {
	if e == nil {
		return nil
	}
	for _, c := range e.children {
		if c.name.Local == name && c.name.Space == space {
			return c
		}
	}
	return nil
}

// get returns the value of an attribute without namespace, or "". A nil element
// has no attributes, so that lookups chain.
func (e *element) get(name string) string {
	v, _ := e.lookup(name)
	return v
}

func (e *element) lookup(name string) (string, bool) {
	if e == nil {
		return "", false
	}
	for _, a := range e.attr {
		if a.Name.Local == name && a.Name.Space == "" {
			return a.Value, true
		}
	}
	return "", false
}

// scan reads a whole document in UTF-8. The document must be well-formed, with one root
// element and nothing but white space, comments and processing instructions
// around it. What stands inside elements of foreign namespaces is checked and not
// kept: nobody asks for it, and the metadata of others can be megabytes.
func scan(doc []byte) (*element, error) {
	dec := newDecoder(doc)
	var root *element
	var open []*element
	foreign := 0 // open elements from the outermost one of a foreign namespace on
	for {
		from := int(dec.InputOffset())
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, &SyntaxError{Err: err}
		}
		to := int(dec.InputOffset())
		switch t := tok.(type) {
		case xml.StartElement:
			if foreign > 0 {
				if foreign++; len(open)-1+foreign > maxDepth {
					return nil, errTooDeep()
				}
				continue
			}
			e := &element{name: t.Name, attr: t.Copy().Attr, start: from, openEnd: to}
			if e.name.Space != "" && e.name.Space != Namespace {
				foreign = 1
			}
			switch {
			case len(open) > 0:
				p := open[len(open)-1]
				p.children = append(p.children, e)
			case root != nil:
				return nil, &SyntaxError{Err: fmt.Errorf("a second root element <%s>", t.Name.Local)}
			default:
				root = e
			}
			if open = append(open, e); len(open) > maxDepth {
				return nil, errTooDeep()
			}
		case xml.EndElement:
			if foreign > 1 {
				foreign--
				continue
			}
			foreign = 0
			e := open[len(open)-1] // the decoder has checked that tags match
			e.closeTag, e.end = from, to
			open = open[:len(open)-1]
		case xml.CharData:
			if foreign > 0 {
				continue
			}
			if len(open) > 0 {
				e := open[len(open)-1]
				e.text = append(e.text, t...)
			} else if len(bytes.TrimSpace(t)) > 0 {
				return nil, &SyntaxError{Err: errors.New("text outside the root element")}
			}
		}
	}
	if root == nil {
		return nil, &SyntaxError{Err: errors.New("the document is empty")}
	}
	return root, nil
}

// newDecoder reads a document that decode has brought into UTF-8, whatever the document
// says of itself.
func newDecoder(doc []byte) *xml.Decoder {
	dec := xml.NewDecoder(bytes.NewReader(doc))
	dec.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil }
	return dec
}

func errTooDeep() error {
	return &SyntaxError{Err: fmt.Errorf("elements nest more than %d deep", maxDepth)}
}

// editor collects what is to become of a document's elements. Edits of one element add up,
// in whatever order they are asked for: of those of one attribute the last holds, and what is
// done inside an element that goes, or is replaced, goes with it.
type editor struct {
	doc   []byte
	edits map[*element]*edit
}

// edit is what becomes of one element.
type edit struct {
	attrs    []attrEdit
	appended []string // markup of new children, behind all others
	after    []string // markup behind the element
	removed  bool     // with the white space that leads to it
	replaced bool     // by text
	text     string
	emptied  bool // written as one tag, without what stood in it
}

type attrEdit struct {
	name, value string
	drop        bool
}

func newEditor(doc []byte) *editor { return &editor{doc: doc, edits: map[*element]*edit{}} }

func (ed *editor) of(e *element) *edit {
	if ed.edits[e] == nil {
		ed.edits[e] = &edit{}
	}
	return ed.edits[e]
}

// bytes returns the document, whose root is given, with all edits made.
func (ed *editor) bytes(root *element) []byte {
	if len(ed.edits) == 0 {
		return ed.doc
	}
	var out bytes.Buffer
	out.Write(ed.doc[:root.start])
	ed.write(&out, root)
	out.Write(ed.doc[root.end:])
	return out.Bytes()
}

func (ed *editor) write(out *bytes.Buffer, e *element) {
	done := ed.edits[e]
	if done == nil {
		done = &edit{}
	}
	switch {
	case done.removed:
	case done.replaced:
		out.WriteString(done.text)
	default:
		ed.writeTag(out, e, done)
		ed.writeContent(out, e, done)
	}
	for _, markup := range done.after {
		out.WriteString(ed.leading(e) + markup)
	}
}

// writeTag writes a start tag, or an element that stays one tag.
func (ed *editor) writeTag(out *bytes.Buffer, e *element, done *edit) {
	at, end := e.start, e.openEnd-1
	if e.selfClosed() {
		end--
	}
	last := end // behind the last attribute
	for last > e.start && isSpace(ed.doc[last-1]) {
		last--
	}
	changed := map[int]string{} // values and whole attributes, by where they begin
	upTo := map[int]int{}
	added := ""
	for i, a := range done.attrs {
		if slices.ContainsFunc(done.attrs[i+1:], func(o attrEdit) bool { return o.name == a.name }) {
			continue
		}
		sp, has := ed.attrSpan(e, a.name)
		switch {
		case has && a.drop:
			changed[sp.start], upTo[sp.start] = "", sp.end
		case has && e.get(a.name) != a.value:
			changed[sp.value], upTo[sp.value] = escape(a.value), sp.valueEnd
		case !has && !a.drop:
			added += " " + a.name + "='" + escape(a.value) + "'"
		}
	}
	for _, from := range slices.Sorted(maps.Keys(changed)) {
		out.Write(ed.doc[at:from])
		out.WriteString(changed[from])
		at = upTo[from]
	}
	out.Write(ed.doc[at:last])
	out.WriteString(added)
	if done.emptied {
		out.WriteString("/>")
		return
	}
	if e.selfClosed() && len(done.appended) > 0 {
		out.WriteString(">")
		return
	}
	out.Write(ed.doc[last:e.openEnd])
}

// writeContent writes what stands between the tags, and the end tag.
func (ed *editor) writeContent(out *bytes.Buffer, e *element, done *edit) {
	if done.emptied {
		return
	}
	indent := ed.childIndent(e)
	if e.selfClosed() {
		if len(done.appended) > 0 {
			for _, markup := range done.appended {
				out.WriteString(indent + markup)
			}
			out.WriteString(ed.leading(e) + "</" + ed.rawName(e) + ">")
		}
		return
	}
	at := e.openEnd
	for _, c := range e.children {
		to := c.start
		if o := ed.edits[c]; o != nil && o.removed {
			for to > at && isSpace(ed.doc[to-1]) {
				to--
			}
		}
		out.Write(ed.doc[at:to])
		ed.write(out, c)
		at = c.end
	}
	if len(done.appended) > 0 {
		tail := e.closeTag
		for tail > at && isSpace(ed.doc[tail-1]) {
			tail--
		}
		out.Write(ed.doc[at:tail])
		for _, markup := range done.appended {
			out.WriteString(indent + markup)
		}
		if tail == e.closeTag { // nothing but <a></a>, or text, up to the end tag
			out.WriteString(ed.leading(e))
		}
		at = tail
	}
	out.Write(ed.doc[at:e.end])
}

// setAttr changes an attribute's value in place, or adds the attribute as the
// last one of the start tag.
func (ed *editor) setAttr(e *element, name, value string) {
	done := ed.of(e)
	done.attrs = append(done.attrs, attrEdit{name: name, value: value})
}

// dropAttr removes an attribute and the white space before it.
func (ed *editor) dropAttr(e *element, name string) {
	done := ed.of(e)
	done.attrs = append(done.attrs, attrEdit{name: name, drop: true})
}

type attrSpan struct {
	start, end      int // with the white space before it and the closing quote
	value, valueEnd int // between the quotes
}

// attrSpan finds an attribute without prefix in a start tag. The decoder has
// accepted the tag, so it is well-formed.
func (ed *editor) attrSpan(e *element, name string) (attrSpan, bool) {
	i := e.start + 1
	for !isSpace(ed.doc[i]) && ed.doc[i] != '>' && ed.doc[i] != '/' {
		i++
	}
	for i < e.openEnd {
		sp := attrSpan{start: i}
		for isSpace(ed.doc[i]) {
			i++
		}
		if ed.doc[i] == '>' || ed.doc[i] == '/' {
			break
		}
		key := i
		for ed.doc[i] != '=' && !isSpace(ed.doc[i]) {
			i++
		}
		found := string(ed.doc[key:i]) == name
		for ed.doc[i] != '\'' && ed.doc[i] != '"' {
			i++
		}
		quote := ed.doc[i]
		i++
		sp.value = i
		for ed.doc[i] != quote {
			i++
		}
		sp.valueEnd = i
		i++
		sp.end = i
		if found {
			return sp, true
		}
	}
	return attrSpan{}, false
}

// remove deletes an element together with the white space that leads to it, so
// that no empty line stays.
func (ed *editor) remove(e *element) { ed.of(e).removed = true }

// replace puts markup in an element's place.
func (ed *editor) replace(e *element, markup string) {
	done := ed.of(e)
	done.replaced, done.text = true, markup
}

// empty makes one tag of an element, without what stands in it.
func (ed *editor) empty(e *element) { ed.of(e).emptied = true }

// appendChild adds markup as the last child of parent, on a line of its own when
// the parent's other children stand so.
func (ed *editor) appendChild(parent *element, markup string) {
	done := ed.of(parent)
	done.appended = append(done.appended, markup)
}

// insertAfter adds markup behind a sibling, indented like it.
func (ed *editor) insertAfter(sibling *element, markup string) {
	done := ed.of(sibling)
	done.after = append(done.after, markup)
}

// leading returns the white space in front of an element's start tag.
func (ed *editor) leading(e *element) string {
	from := e.start
	for from > 0 && isSpace(ed.doc[from-1]) {
		from--
	}
	return string(ed.doc[from:e.start])
}

// childIndent returns the white space that children of e stand behind.
func (ed *editor) childIndent(e *element) string {
	if len(e.children) > 0 {
		return ed.leading(e.children[0])
	}
	if l := ed.leading(e); strings.Contains(l, "\n") {
		return l + "  "
	}
	return ""
}

// rawName returns the element's name as written, with its prefix.
func (ed *editor) rawName(e *element) string {
	i := e.start + 1
	for !isSpace(ed.doc[i]) && ed.doc[i] != '>' && ed.doc[i] != '/' {
		i++
	}
	return string(ed.doc[e.start+1 : i])
}

func isSpace(b byte) bool { return b == ' ' || b == '\t' || b == '\n' || b == '\r' }

// escape makes a string fit for an attribute in single or double quotes.
func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "'", "&apos;", `"`, "&quot;",
		"\n", "&#10;", "\r", "&#13;", "\t", "&#9;").Replace(s)
}
