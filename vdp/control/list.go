package control

import "bytes"

// parseList reads a line of the answer to "list" as vdpd writes it, several
// times as fast as package json: a switch with 64 ports may have 64,000 VSIs.
// Whatever else a line may be, it is not ok, and for package json.
func parseList(line []byte) (r Reply, ok bool) {
	c := cursor{b: line}
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
	return r, !c.bad && len(c.b) == 0 && len(r.VSIs) > 0
}

// A cursor reads JSON without white space whose keys come in a known order.
// Once it is bad it remains so, and what it returns does not count.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) vsiStatus(last *VSIStatus) (s VSIStatus) {
	c.want(`{"uplink":"`)
	s.Uplink = c.text(last.Uplink)
	c.want(`,"vsi":{"id":"`)
	s.VSI.ID = c.text("")
	c.want(`,"manager":`)
	s.VSI.Manager = c.manager()
	c.want(`,"type":`)
	s.VSI.TypeID = uint32(c.number(1<<32 - 1))
	c.want(`,"version":`)
	s.VSI.TypeVersion = uint8(c.number(1<<8 - 1))
	c.want(`,"filters":[`)
	s.VSI.Filters = append(make([]Filter, 0, 1), c.filter())
	for c.has(`,`) {
		s.VSI.Filters = append(s.VSI.Filters, c.filter())
	}
	c.want(`]},"mode":"`)
	s.Mode = c.text(last.Mode)
	if c.has(`,"have":"`) {
		s.Have = c.text(last.Have)
	}
	c.want(`,"state":"`)
	s.State = c.text(last.State)
	if c.has(`,"error":{"code":"`) {
		s.Error = c.error()
	}
	c.want(`}`)
	return s
}

func (c *cursor) manager() (m Manager) {
	if !c.has(`"`) {
		m[0] = byte(c.number(1<<8 - 1))
		return m
	}
	quoted := `"` + c.text("") + `"`
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
		f.MAC = c.text("")
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

func (c *cursor) error() *Error {
	e := &Error{Code: c.text("")}
	c.want(`,"message":"`)
	e.Message = c.text("")
	// A refusal's edition and status are for package json.
	c.want(`}`)
	return e
}

// has takes what comes next if it is s.
func (c *cursor) has(s string) bool {
	if len(c.b) < len(s) || string(c.b[:len(s)]) != s {
		return false
	}
	c.b = c.b[len(s):]
	return true
}

// want is has for what has to come.
func (c *cursor) want(s string) { c.bad = !c.has(s) || c.bad }

// text takes the rest of a string and its quote. Escapes and what is not ASCII
// are for package json. A string that was read before is not made again.
func (c *cursor) text(before string) string {
	n := bytes.IndexByte(c.b, '"')
	if n < 0 {
		c.bad = true
		return ""
	}
	s := c.b[:n]
	c.b = c.b[n+1:]
	if string(s) == before {
		return before
	}
	for _, o := range s {
		if o < ' ' || o == '\\' || o >= 0x7f {
			c.bad = true
		}
	}
	return string(s)
}

// number takes an unsigned integer up to a limit.
func (c *cursor) number(limit uint64) (n uint64) {
	digits := 0
	for digits < len(c.b) && c.b[digits] >= '0' && c.b[digits] <= '9' && n <= limit {
		n = 10*n + uint64(c.b[digits]-'0')
		digits++
	}
	c.bad = c.bad || digits == 0 || n > limit || digits > 1 && c.b[0] == '0'
	c.b = c.b[digits:]
	return n
}
