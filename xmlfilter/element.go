package xmlfilter

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
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

// splice is one replacement of document bytes [from,to) by text.
type splice struct {
	from, to int
	text     string
}

// editor collects splices on one document.
type editor struct {
	doc     []byte
	splices []splice
}

func (ed *editor) replace(from, to int, text string) {
	ed.splices = append(ed.splices, splice{from, to, text})
}

// bytes returns the document with all splices made; splices at the same place
// keep the order in which they were asked for.
func (ed *editor) bytes() ([]byte, error) {
	s := slices.Clone(ed.splices)
	slices.SortStableFunc(s, func(a, b splice) int { return a.from - b.from })
	var out bytes.Buffer
	at := 0
	for _, sp := range s {
		if sp.from < at {
			return nil, fmt.Errorf("xmlfilter: two edits overlap at byte %d", sp.from)
		}
		out.Write(ed.doc[at:sp.from])
		out.WriteString(sp.text)
		at = sp.to
	}
	out.Write(ed.doc[at:])
	return out.Bytes(), nil
}

// setAttr changes an attribute's value in place, or adds the attribute as the
// last one of the start tag.
func (ed *editor) setAttr(e *element, name, value string) {
	if sp, ok := ed.attrSpan(e, name); ok {
		if e.get(name) != value {
			ed.replace(sp.value, sp.valueEnd, escape(value))
		}
		return
	}
	at := e.openEnd - 1
	if e.selfClosed() {
		at--
	}
	for at > e.start && isSpace(ed.doc[at-1]) {
		at--
	}
	ed.replace(at, at, " "+name+"='"+escape(value)+"'")
}

// dropAttr removes an attribute and the white space before it.
func (ed *editor) dropAttr(e *element, name string) {
	if sp, ok := ed.attrSpan(e, name); ok {
		ed.replace(sp.start, sp.end, "")
	}
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
func (ed *editor) remove(e *element) {
	from := e.start
	for from > 0 && isSpace(ed.doc[from-1]) {
		from--
	}
	ed.replace(from, e.end, "")
}

// appendChild adds markup as the last child of parent, on a line of its own when
// the parent's other children stand so.
func (ed *editor) appendChild(parent *element, markup string) {
	indent := ed.childIndent(parent)
	if parent.selfClosed() {
		slash := parent.end - 2
		for slash > parent.start && isSpace(ed.doc[slash-1]) {
			slash--
		}
		name := ed.rawName(parent)
		ed.replace(slash, parent.end, ">"+indent+markup+ed.leading(parent)+"</"+name+">")
		return
	}
	at := parent.closeTag
	for at > parent.openEnd && isSpace(ed.doc[at-1]) {
		at--
	}
	tail := ""
	if at == parent.closeTag { // nothing but <a></a>, or text, up to the end tag
		tail = ed.leading(parent)
	}
	ed.replace(at, at, indent+markup+tail)
}

// insertAfter adds markup behind a sibling, indented like it.
func (ed *editor) insertAfter(sibling *element, markup string) {
	ed.replace(sibling.end, sibling.end, ed.leading(sibling)+markup)
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
