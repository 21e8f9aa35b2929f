package xmlfilter

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strconv"
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

// ASCII returns a document as far as it is in ASCII, whatever its encoding is and
// whether or not it is well-formed: for who asks if the document can say something at
// all. Character references are resolved; what is not ASCII is not to be relied on. The
// document is not changed, and what is returned may be the document itself.
func ASCII(doc []byte) []byte {
	if wide(doc) == "EBCDIC" {
		doc = fromEBCDIC(doc)
	}
	if bytes.IndexByte(doc, 0) >= 0 { // UTF-16 and UTF-32
		doc = bytes.ReplaceAll(doc, []byte{0}, nil)
	}
	if bytes.Contains(doc, []byte("&#")) {
		doc = resolveReferences(doc)
	}
	return doc
}

// fromEBCDIC translates the characters that all EBCDIC code pages share.
func fromEBCDIC(doc []byte) []byte {
	var ascii [256]byte
	for _, run := range []struct {
		first byte
		chars string
	}{
		{0x40, " "}, {0x4b, ".<(+"}, {0x50, "&"}, {0x5c, "*);"}, {0x60, "-/"}, {0x6b, ",%_>?"}, {0x7a, ":"}, {0x7d, `'="`},
		{0x81, "abcdefghi"}, {0x91, "jklmnopqr"}, {0xa2, "stuvwxyz"},
		{0xc1, "ABCDEFGHI"}, {0xd1, "JKLMNOPQR"}, {0xe2, "STUVWXYZ"}, {0xf0, "0123456789"},
	} {
		copy(ascii[run.first:], run.chars)
	}
	out := make([]byte, len(doc))
	for i, b := range doc {
		out[i] = ascii[b]
	}
	return out
}

// resolveReferences replaces references to ASCII characters (&#100; and &#x64;) by the
// characters.
func resolveReferences(doc []byte) []byte {
	out := make([]byte, 0, len(doc))
	for {
		i := bytes.Index(doc, []byte("&#"))
		if i < 0 {
			return append(out, doc...)
		}
		end, base := i+2, 10
		if end < len(doc) && doc[end] == 'x' {
			end, base = end+1, 16
		}
		number := end
		for end < len(doc) && isHex(doc[end]) {
			end++
		}
		digits := bytes.TrimLeft(doc[number:end], "0")
		n, err := strconv.ParseUint(string(digits[:min(len(digits), 4)]), base, 16)
		if err == nil && len(digits) < 4 && n < utf8.RuneSelf && end < len(doc) && doc[end] == ';' {
			out, doc = append(append(out, doc[:i]...), byte(n)), doc[end+1:]
		} else {
			out, doc = append(out, doc[:end]...), doc[end:]
		}
	}
}

func isHex(b byte) bool {
	return b >= '0' && b <= '9' || b >= 'a' && b <= 'f' || b >= 'A' && b <= 'F'
}
