package xmlfilter

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// ErrEncoding: the document is in an encoding that is not read.
var ErrEncoding = errors.New("unsupported encoding")

// EncodingError reports a document whose encoding is not read. It matches ErrEncoding.
type EncodingError struct {
	Name string // as the document says, or "UTF-16", "UTF-32" or "EBCDIC"
}

func (e *EncodingError) Error() string {
	return fmt.Sprintf("domain XML: %v %s; supported are UTF-8, ISO-8859-1 and US-ASCII", ErrEncoding, e.Name)
}

// Is reports whether target is ErrEncoding.
func (e *EncodingError) Is(target error) bool { return target == ErrEncoding }

// charset is an encoding that is read. Documents are worked on in UTF-8, and written in
// the encoding in which they came: a character is one in both, so that those that no
// edit touches are the same bytes again.
type charset struct {
	// last is the last character that one byte stands for; 0 for UTF-8.
	last rune
	// mark is the byte order mark in front of the document, "" where there is none.
	mark string
}

const utf8Mark = "\xef\xbb\xbf"

// declared finds the encoding in an XML declaration.
var declared = regexp.MustCompile(`^<\?xml[ \t\r\n][^>]*?[ \t\r\n]encoding[ \t\r\n]*=[ \t\r\n]*["']([A-Za-z][A-Za-z0-9._-]*)["']`)

// decode returns a document in UTF-8, without byte order mark. Errors match ErrEncoding
// or ErrSyntax.
func decode(raw []byte) ([]byte, charset, error) {
	var c charset
	if doc, marked := bytes.CutPrefix(raw, []byte(utf8Mark)); marked {
		c.mark = utf8Mark
		return doc, c, nil
	}
	if name := wide(raw); name != "" {
		return nil, c, &EncodingError{name}
	}
	name := ""
	if m := declared.FindSubmatch(raw[:min(len(raw), 512)]); m != nil {
		name = string(m[1])
	}
	switch strings.ToLower(name) {
	case "", "utf-8", "utf8":
		return raw, c, nil
	case "iso-8859-1", "iso_8859-1", "iso-latin-1", "latin1", "l1":
		c.last = 0xff
	case "us-ascii", "ascii":
		c.last = 0x7f
	default:
		return nil, c, &EncodingError{name}
	}
	doc := make([]byte, 0, len(raw))
	for _, b := range raw {
		if rune(b) > c.last {
			return nil, c, &SyntaxError{Err: errors.New("a byte that US-ASCII does not have")}
		}
		doc = utf8.AppendRune(doc, rune(b))
	}
	return doc, c, nil
}

// wide names the encoding of a document in which "<" is not the byte that it is in
// ASCII (Extensible Markup Language (XML) 1.0, appendix F), "" for all others.
func wide(raw []byte) string {
	for _, w := range []struct{ start, name string }{
		{"\xff\xfe\x00\x00", "UTF-32"}, {"\x00\x00\xfe\xff", "UTF-32"}, {"<\x00\x00\x00", "UTF-32"}, {"\x00\x00\x00<", "UTF-32"},
		{"\xff\xfe", "UTF-16"}, {"\xfe\xff", "UTF-16"}, {"<\x00", "UTF-16"}, {"\x00<", "UTF-16"},
		{"\x4c\x6f\xa7\x94", "EBCDIC"},
	} {
		if bytes.HasPrefix(raw, []byte(w.start)) {
			return w.name
		}
	}
	return ""
}

// encode is the inverse of decode. A character that the encoding does not have, which
// only an edit can have put there, into the value of an attribute, becomes a reference.
func (c charset) encode(doc []byte) []byte {
	if c.last == 0 {
		return append([]byte(c.mark), doc...)
	}
	raw := make([]byte, 0, len(doc))
	for _, r := range string(doc) {
		if r <= c.last {
			raw = append(raw, byte(r))
		} else {
			raw = fmt.Appendf(raw, "&#%d;", r)
		}
	}
	return raw
}
