package config

import (
	"bytes"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// The tables and keys of the file's top level.
const (
	rootUplink   = "uplink"
	rootProfile  = "profile"
	rootVLAN     = "vlan"
	rootWatch    = "watch"
	rootDeadline = "deadline"
	rootOVS      = "ovs"
)

// section is a part of the file that is understood, or faulty, for itself:
// [uplink.NAME], [profile.NAME], or a table or key of the top level.
type section struct {
	// title is how the file calls it, "uplnik.lan"; root is what the first part of that
	// is meant to be, "uplink", or "" where nothing is like it. name is the NAME, or "".
	title, root, name string

	text   []byte         // its lines of the file
	lines  []int          // the line in the file of each of these
	keys   map[string]int // the line of each key, without the section's own name
	header *expression    // the last table header in text
}

// line returns the line of a key, or else the section's first; 0 where it has none.
func (s *section) line(key string) int {
	if l, ok := s.keys[key]; ok {
		return l
	}
	if len(s.lines) > 0 {
		return s.lines[0]
	}
	return 0
}

// inFile returns the line in the file of a line of text.
func (s *section) inFile(row int) int {
	if row < 1 || row > len(s.lines) {
		return s.line("")
	}
	return s.lines[row-1]
}

// expression is a table's header or a key with its value.
type expression struct {
	path   []string // of a key without its table
	header bool
	array  bool
	start  int // octets from where its line begins
	end    int
	line   int
}

// expressions takes a document apart that is known to be TOML.
func expressions(data []byte) []expression {
	var p unstable.Parser
	p.Reset(data)
	var all []expression
	line, at := 1, 0
	for p.NextExpression() {
		node := p.Expression()
		e := expression{header: node.Kind != unstable.KeyValue, array: node.Kind == unstable.ArrayTable}
		for key := node.Key(); key.Next(); {
			k := key.Node()
			if e.path == nil {
				offset := int(k.Raw.Offset)
				line += bytes.Count(data[at:offset], []byte{'\n'})
				at = offset
				e.start, e.line = bytes.LastIndexByte(data[:offset], '\n')+1, line
			}
			e.path = append(e.path, string(k.Data))
		}
		if len(e.path) == 0 {
			continue
		}
		if n := len(all); n > 0 {
			all[n-1].end = e.start
		}
		e.end = len(data)
		all = append(all, e)
	}
	return all
}

// split returns the sections of a document that is known to be TOML, in the order in
// which they begin.
func split(data []byte) []*section {
	var all []*section
	byTitle := map[string]*section{}
	var table expression // the header of the table that the next key belongs to
	for _, e := range expressions(data) {
		path := e.path
		if e.header {
			table = e
		} else {
			path = slices.Concat(table.path, e.path)
		}
		s := describe(path)
		if e.header && !e.array && s.name == "" && (s.root == rootUplink || s.root == rootProfile) {
			continue // [uplink] alone: its keys are sections
		}
		if known := byTitle[s.title]; known != nil {
			s = known
		} else {
			byTitle[s.title] = s
			all = append(all, s)
		}
		if table.path != nil && (s.header == nil || s.header.start != table.start) {
			h := table
			s.header = &h
			s.add(data, h)
		}
		if !e.header {
			own := 1
			if s.name != "" {
				own = 2
			}
			s.keys[strings.Join(path[min(own, len(path)):], ".")] = e.line
			s.add(data, e)
		}
	}
	return all
}

// describe returns the section, still empty, that a path leads into.
func describe(path []string) *section {
	// The decoder takes keys in any case.
	s := &section{title: path[0], root: nearest(strings.ToLower(path[0]), roots()), keys: map[string]int{}}
	if s.root == "" && strings.Contains(strings.ToLower(s.title), "vswitch") {
		s.root = rootOVS // who writes [openvswitch] means this one
	}
	if (s.root == rootUplink || s.root == rootProfile) && len(path) > 1 {
		s.name = path[1]
		s.title += "." + s.name
	}
	return s
}

func roots() []string {
	return []string{rootDeadline, rootVLAN, rootWatch, rootOVS, rootUplink, rootProfile}
}

func (s *section) add(data []byte, e expression) {
	text := data[e.start:e.end]
	if len(text) == 0 || text[len(text)-1] != '\n' {
		text = append(slices.Clone(text), '\n')
	}
	for i := range bytes.Count(text, []byte{'\n'}) {
		s.lines = append(s.lines, e.line+i)
	}
	s.text = append(s.text, text...)
}
