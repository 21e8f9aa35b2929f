package settings

import (
	"fmt"
	"strings"
)

// Table is the Markdown table of the settings that may stand in a place, as the manual
// has it: in metadata with the attributes as XML has them, else with the keys of TOML.
func Table(p Places) string {
	var b strings.Builder
	name := "key"
	if p&(InNIC|InNetwork) != 0 {
		name = "attribute"
	}
	fmt.Fprintf(&b, "| %s | values | meaning | NICs | applied | since |\n|---|---|---|---|---|---|\n", name)
	for _, s := range At(p) {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s |\n", s.Name, s.describe(p), s.Help, s.NICs, s.Change, s.Since)
	}
	return b.String()
}

// String names the kinds for a table of the manual.
func (k Kinds) String() string {
	if k == onAny {
		return "all"
	}
	var names []string
	for i, name := range []string{"macvtap", "VF", "bridge", "Open vSwitch"} {
		if k&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// describe says in Markdown what values the setting has in a place.
func (s Setting) describe(p Places) string {
	toml := p&(InProfile|InUplink|InOVS) != 0
	values := s.Values
	switch {
	case values == nil && toml && s.typ == typeString:
		return strings.ReplaceAll(s.Form, "`100,200-299`", "`\"100,200-299\"`")
	case values == nil:
		return s.Form
	case toml && s.typ == typeFlag:
		values = []string{"true", "false"}
	}
	quoted := make([]string, len(values))
	for i, v := range values {
		if toml && s.typ == typeString {
			v = `"` + v + `"`
		}
		quoted[i] = "`" + v + "`"
	}
	list := strings.Join(quoted, ", ")
	if s.typ == typeList {
		list = "list of " + list
	}
	return list
}
