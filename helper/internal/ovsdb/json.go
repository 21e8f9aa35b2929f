package ovsdb

import "errors"

// Limits of what a reply may be.
const (
	maxReply = 1 << 20
	maxDepth = 16
)

var errReply = errors.New("the database of Open vSwitch has given an answer that cannot be understood")

// value is a JSON value. kind is its first octet: { [ " and t f n, or 0 for a number. The text of a string is as it is
// written between the quotes: what is looked for has no escapes.
type value struct {
	kind byte
	text string
	list []value  // of an array, or an object's values
	keys []string // of an object
}

// member returns an object's value of that name; the zero value if there is none.
func (v value) member(name string) value {
	for i, k := range v.keys {
		if k == name {
			return v.list[i]
		}
	}
	return value{}
}

// parser reads JSON (RFC 8259) without recursing deeper than maxDepth.
type parser struct {
	b  []byte
	at int
}

// parse reads a text that is one value, or an error.
func parse(b []byte) (value, error) {
	p := parser{b: b}
	v, ok := p.value(0)
	if p.space(); !ok || p.at != len(b) {
		return value{}, errReply
	}
	return v, nil
}

func (p *parser) space() {
	for p.at < len(p.b) && (p.b[p.at] == ' ' || p.b[p.at] == '\t' || p.b[p.at] == '\n' || p.b[p.at] == '\r') {
		p.at++
	}
}

// next takes one octet if it is c.
func (p *parser) next(c byte) bool {
	p.space()
	if p.at < len(p.b) && p.b[p.at] == c {
		p.at++
		return true
	}
	return false
}

func (p *parser) value(depth int) (value, bool) {
	p.space()
	if p.at == len(p.b) || depth > maxDepth {
		return value{}, false
	}
	switch c := p.b[p.at]; c {
	case '{', '[':
		return p.compound(c, depth)
	case '"':
		text, ok := p.text()
		return value{kind: c, text: text}, ok
	case 't':
		return value{kind: c}, p.word("true")
	case 'f':
		return value{kind: c}, p.word("false")
	case 'n':
		return value{kind: c}, p.word("null")
	}
	begin := p.at
	for p.at < len(p.b) && (p.b[p.at] >= '0' && p.b[p.at] <= '9' || p.b[p.at] == '-' || p.b[p.at] == '+' || p.b[p.at] == '.' || p.b[p.at]|0x20 == 'e') {
		p.at++
	}
	return value{text: string(p.b[begin:p.at])}, p.at > begin
}

func (p *parser) word(w string) bool {
	if len(p.b)-p.at < len(w) || string(p.b[p.at:p.at+len(w)]) != w {
		return false
	}
	p.at += len(w)
	return true
}

func (p *parser) compound(open byte, depth int) (value, bool) {
	v := value{kind: open}
	end := byte(']')
	if open == '{' {
		end = '}'
	}
	p.at++
	if p.next(end) {
		return v, true
	}
	for {
		if open == '{' {
			p.space()
			key, ok := p.text()
			if !ok || !p.next(':') {
				return v, false
			}
			v.keys = append(v.keys, key)
		}
		one, ok := p.value(depth + 1)
		if !ok {
			return v, false
		}
		v.list = append(v.list, one)
		if p.next(end) {
			return v, true
		}
		if !p.next(',') {
			return v, false
		}
	}
}

// text takes a string.
func (p *parser) text() (string, bool) {
	if p.at == len(p.b) || p.b[p.at] != '"' {
		return "", false
	}
	begin := p.at + 1
	for i := begin; i < len(p.b); i++ {
		switch p.b[i] {
		case '\\':
			i++
		case '"':
			p.at = i + 1
			return string(p.b[begin:i]), true
		}
	}
	return "", false
}

// complete returns the length of the first whole object in b, 0 if there is none yet.
func complete(b []byte) int {
	depth, quoted := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			if depth--; depth <= 0 {
				return i + 1
			}
		}
	}
	return 0
}
