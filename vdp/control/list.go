package control

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"strings"
)

// The answer to "list" may be long: hosts with 64 ports and 1,000 VSIs on each
// have been thought of. AppendList and parseList write and read a line of it as
// package json would, several times as fast.

// AppendList appends a line of the answer to "list", without its line break.
// More says that another follows.
func AppendList(b []byte, vsis []VSIStatus, more bool) ([]byte, error) {
	start, ok := len(b), len(vsis) > 0
	b = append(b, `{"vsis":[`...)
	for i := 0; ok && i < len(vsis); i++ {
		if i > 0 {
			b = append(b, ',')
		}
		b, ok = vsis[i].appendTo(b)
	}
	if !ok {
		line, err := json.Marshal(Reply{VSIs: vsis, More: more})
		return append(b[:start], line...), err
	}
	b = append(b, ']')
	if more {
		b = append(b, `,"more":true`...)
	}
	return append(b, '}'), nil
}

// appendTo is not ok where package json is needed: for escapes, and refusals.
func (s *VSIStatus) appendTo(b []byte) (_ []byte, ok bool) {
	ok = plain(s.Uplink) && plain(s.VSI.ID) && plain(s.Mode) && plain(s.Have) && plain(s.State) && plain(string(s.Owner)) && len(s.VSI.Filters) > 0
	b = append(append(b, `{"uplink":"`...), s.Uplink...)
	b = append(append(b, `","vsi":{"id":"`...), s.VSI.ID...)
	b = append(b, `","manager":`...)
	if m := s.VSI.Manager; m == (Manager{m[0]}) {
		b = strconv.AppendUint(b, uint64(m[0]), 10)
	} else {
		b = append(hex.AppendEncode(append(b, '"'), m[:]), '"')
	}
	b = strconv.AppendUint(append(b, `,"type":`...), uint64(s.VSI.TypeID), 10)
	b = strconv.AppendUint(append(b, `,"version":`...), uint64(s.VSI.TypeVersion), 10)
	b = append(b, `,"filters":[`...)
	for i := range s.VSI.Filters {
		f := &s.VSI.Filters[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = f.appendTo(b)
		ok = ok && plain(f.MAC)
	}
	b = append(append(b, `]},"mode":"`...), s.Mode...)
	if s.Have != "" {
		b = append(append(b, `","have":"`...), s.Have...)
	}
	b = append(append(b, `","state":"`...), s.State...)
	if s.Owner != "" {
		b = append(append(b, `","owner":"`...), s.Owner...)
	}
	b = append(b, '"')
	if e := s.Error; e != nil {
		ok = ok && plain(e.Code) && plain(e.Message) && e.Edition == "" && e.Status == 0
		b = append(append(b, `,"error":{"code":"`...), e.Code...)
		b = append(append(b, `","message":"`...), e.Message...)
		b = append(b, `"}`...)
	}
	return append(b, '}'), ok
}

func (f *Filter) appendTo(b []byte) []byte {
	b = append(b, '{')
	if f.Group != nil {
		b = strconv.AppendUint(append(b, `"group":`...), uint64(*f.Group), 10)
		b = append(b, ',')
	}
	if f.MAC != "" {
		b = append(append(b, `"mac":"`...), f.MAC...)
		b = append(b, `",`...)
	}
	b = strconv.AppendUint(append(b, `"vid":`...), uint64(f.VID), 10)
	if f.PCP != nil {
		b = strconv.AppendUint(append(b, `,"pcp":`...), uint64(*f.PCP), 10)
	}
	return append(b, '}')
}

// parseList reads a line that is as AppendList writes it. Whatever else a line
// may be, it is not ok, and for package json.
func parseList(line []byte) (r Reply, ok bool) {
	if !bytes.HasPrefix(line, []byte(`{"vsis":[`)) {
		return r, false
	}
	// One string, of which all others are parts.
	c := cursor{s: string(line)}
	c.want(`{"vsis":[`)
	var last VSIStatus
	for n := 0; !c.bad && !c.has(`]`); n++ {
		if n > 0 {
			c.want(`,`)
		}
		last = c.vsiStatus(&last)
		r.VSIs = append(r.VSIs, last)
	}
	r.More = c.has(`,"more":true`)
	c.want(`}`)
	return r, !c.bad && c.s == "" && len(r.VSIs) > 0
}

// A cursor reads JSON without white space whose keys come in a known order.
// Once it is bad it remains so, and what it returns does not count.
type cursor struct {
	s       string
	bad     bool
	filters []Filter // room for those of the next VSIs
}

func (c *cursor) vsiStatus(last *VSIStatus) (s VSIStatus) {
	c.want(`{"uplink":"`)
	s.Uplink = c.text()
	c.want(`,"vsi":{"id":"`)
	s.VSI.ID = c.text()
	c.want(`,"manager":`)
	s.VSI.Manager = c.manager()
	c.want(`,"type":`)
	s.VSI.TypeID = uint32(c.number(1<<32 - 1))
	c.want(`,"version":`)
	s.VSI.TypeVersion = uint8(c.number(1<<8 - 1))
	c.want(`,"filters":[`)
	if len(c.filters) == 0 {
		c.filters = make([]Filter, 128)
	}
	s.VSI.Filters, c.filters = append(c.filters[:0:1], c.filter()), c.filters[1:]
	for c.has(`,`) {
		s.VSI.Filters = append(s.VSI.Filters, c.filter())
	}
	c.want(`]},"mode":"`)
	s.Mode = c.text()
	if c.has(`,"have":"`) {
		s.Have = c.text()
	}
	c.want(`,"state":"`)
	s.State = c.text()
	if c.has(`,"owner":"`) {
		s.Owner = Owner(c.text())
	}
	if c.has(`,"error":{"code":"`) {
		s.Error = c.error(last.Error)
	}
	c.want(`}`)
	return s
}

func (c *cursor) manager() (m Manager) {
	if !c.has(`"`) {
		m[0] = byte(c.number(1<<8 - 1))
		return m
	}
	quoted := `"` + c.text() + `"`
	c.bad = c.bad || m.UnmarshalJSON([]byte(quoted)) != nil
	return m
}

func (c *cursor) filter() (f Filter) {
	c.want(`{`)
	if c.has(`"group":`) {
		g := uint32(c.number(1<<32 - 1))
		f.Group = &g
		c.want(`,`)
	}
	if c.has(`"mac":"`) {
		f.MAC = c.text()
		c.want(`,`)
	}
	c.want(`"vid":`)
	f.VID = uint16(c.number(1<<16 - 1))
	if c.has(`,"pcp":`) {
		p := uint8(c.number(1<<8 - 1))
		f.PCP = &p
	}
	c.want(`}`)
	return f
}

// error takes an error. Many VSIs in a row may have the same.
func (c *cursor) error(last *Error) *Error {
	e := Error{Code: c.text()}
	c.want(`,"message":"`)
	e.Message = c.text()
	// A refusal's edition and status are for package json.
	c.want(`}`)
	if last != nil && *last == e {
		return last
	}
	return &e
}

// has takes what comes next if it is s.
func (c *cursor) has(s string) (ok bool) {
	c.s, ok = strings.CutPrefix(c.s, s)
	return ok
}

// want is has for what has to come.
func (c *cursor) want(s string) { c.bad = !c.has(s) || c.bad }

// text takes the rest of a string and its quote. Escapes and what is not ASCII
// are for package json.
func (c *cursor) text() string {
	n := strings.IndexByte(c.s, '"')
	if n < 0 {
		c.bad = true
		return ""
	}
	s := c.s[:n]
	c.s = c.s[n+1:]
	c.bad = c.bad || !plain(s)
	return s
}

// number takes an unsigned integer up to a limit.
func (c *cursor) number(limit uint64) (n uint64) {
	digits := 0
	for digits < len(c.s) && c.s[digits] >= '0' && c.s[digits] <= '9' && n <= limit {
		n = 10*n + uint64(c.s[digits]-'0')
		digits++
	}
	c.bad = c.bad || digits == 0 || n > limit || digits > 1 && c.s[0] == '0'
	c.s = c.s[digits:]
	return n
}

// plain reports whether a string is written without escapes.
func plain(s string) bool {
	for i := range len(s) {
		if o := s[i]; o < ' ' || o >= 0x7f || o == '"' || o == '\\' || o == '<' || o == '>' || o == '&' {
			return false
		}
	}
	return true
}
