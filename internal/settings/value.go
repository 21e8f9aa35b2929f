package settings

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"libvirt-direct/internal/link"
)

// ValueError is a value that a setting cannot have.
type ValueError struct {
	Name  string // the setting's, "ovs.mtu" for one of a table
	Value string // quoted where it is no number
	Want  string // what it can have
}

func (e *ValueError) Error() string { return fmt.Sprintf("%s = %s: want %s", e.Name, e.Value, e.Want) }

// Number is a number as it stands in a ValueError.
func Number(n int) string { return strconv.Itoa(n) }

// Parse sets the setting of a NIC to a value as it stands in metadata. The error is a
// *ValueError, and nothing is set then.
func (s Setting) Parse(n *NIC, text string) error {
	if text == "" && s.blank {
		s.access.move(n, &NIC{})
		return nil
	}
	if s.access.parse(n, text) {
		return nil
	}
	e := &ValueError{Name: s.Name, Value: strconv.Quote(text), Want: s.want}
	if s.In(InOVS) {
		e.Name = "ovs." + s.Name
	}
	if s.typ == typeList {
		e.Want = "some of " + strings.Join(s.Values, ", ")
	}
	if _, err := strconv.Atoi(text); err == nil && s.typ == typeNumber {
		e.Value = text
	}
	return e
}

// Text is the setting's value of a NIC as it stands in metadata, and whether it is set.
func (s Setting) Text(n NIC) (text string, set bool) { return s.access.text(&n) }

// valueType is how a value is written in TOML.
type valueType int

const (
	typeString valueType = iota
	typeNumber
	typeFlag
	typeList
	typeTable
)

// access gets at the field of a setting, whatever its type.
type access struct {
	text  func(*NIC) (string, bool)
	parse func(*NIC, string) bool
	move  func(to, from *NIC) // what from has, nothing included
}

// value is the access to a field whose zero value means that it is unset.
func value[T comparable](at func(*NIC) *T, text func(T) string, parse func(string) (T, bool)) access {
	return access{
		text: func(n *NIC) (string, bool) {
			var zero T
			v := *at(n)
			return text(v), v != zero
		},
		parse: func(n *NIC, s string) bool {
			v, ok := parse(s)
			if ok {
				*at(n) = v
			}
			return ok
		},
		move: func(to, from *NIC) { *at(to) = *at(from) },
	}
}

// pointer is the access to a field that is nil when it is unset.
func pointer[T any](at func(*NIC) **T, text func(T) string, parse func(string) (T, bool)) access {
	return access{
		text: func(n *NIC) (string, bool) {
			if v := *at(n); v != nil {
				return text(*v), true
			}
			return "", false
		},
		parse: func(n *NIC, s string) bool {
			v, ok := parse(s)
			if ok {
				*at(n) = &v
			}
			return ok
		},
		move: func(to, from *NIC) { *at(to) = *at(from) },
	}
}

// inOVS is the access to a field of the table ovs, which is made when something is set.
func inOVS[T comparable](at func(*OVS) *T, text func(T) string, parse func(string) (T, bool)) access {
	var zero T
	return access{
		text: func(n *NIC) (string, bool) {
			if n.OVS == nil || *at(n.OVS) == zero {
				return "", false
			}
			return text(*at(n.OVS)), true
		},
		parse: func(n *NIC, s string) bool {
			v, ok := parse(s)
			if ok {
				n.ovs()
				*at(n.OVS) = v
			}
			return ok
		},
		move: func(to, from *NIC) {
			v := zero
			if from.OVS != nil {
				v = *at(from.OVS)
			}
			if to.OVS != nil || v != zero {
				to.ovs()
				*at(to.OVS) = v
			}
		},
	}
}

// ovs makes the table a NIC's own before it is changed.
func (n *NIC) ovs() {
	o := OVS{}
	if n.OVS != nil {
		o = *n.OVS
	}
	n.OVS = &o
}

func ovsFlag(at func(*OVS) *bool) access { return inOVS(at, flagText, parseFlag) }

// ovsTable is the access to the table as a whole, which is not written as one value.
func ovsTable() access {
	return access{
		text:  func(n *NIC) (string, bool) { return "", n.OVS != nil },
		parse: func(*NIC, string) bool { return true },
		move:  func(to, from *NIC) { to.OVS = from.OVS },
	}
}

// vfAttribute is the access to an attribute of a VF.
func vfAttribute(a link.VFAttribute) access {
	at := func(n *NIC) *link.VFSettings { return (*link.VFSettings)(&n.VFAttributes) }
	return access{
		text: func(n *NIC) (string, bool) {
			v, set := at(n).Value(a.Name)
			if a.Flag() && set {
				on, _ := parseFlag(v)
				v = flagText(on)
			}
			return v, set
		},
		parse: func(n *NIC, s string) bool { return a.Parse(at(n), s) == nil },
		move: func(to, from *NIC) {
			only := at(from).Only(func(attr string) bool { return attr == a.Name })
			*at(to) = only.Override(at(to).Only(func(attr string) bool { return attr != a.Name }))
		},
	}
}

func text(at func(*NIC) *string, valid func(string) bool) access {
	return value(at, stringText, func(s string) (string, bool) { return s, valid(s) })
}

func choice(at func(*NIC) *string, values ...string) access {
	return value(at, stringText, oneOf(values...))
}

func number(at func(*NIC) *int, low, high int) access {
	return value(at, numberText, within(low, high))
}

func optionalNumber(at func(*NIC) **int, low, high int) access {
	return pointer(at, numberText, within(low, high))
}

// list is the access to a list of known words, which are separated by blanks as text.
func list(at func(*NIC) *[]string, known []string) access {
	return access{
		text: func(n *NIC) (string, bool) { return strings.Join(*at(n), " "), len(*at(n)) > 0 },
		parse: func(n *NIC, s string) bool {
			words := strings.Fields(s)
			ok := !slices.ContainsFunc(words, func(w string) bool { return !slices.Contains(known, w) })
			if ok {
				*at(n) = words
			}
			return ok
		},
		move: func(to, from *NIC) { *at(to) = *at(from) },
	}
}

func yesNo() []string { return []string{"yes", "no"} }

func flagText(on bool) string {
	if on {
		return "yes"
	}
	return "no"
}

// parseFlag reads a flag as libvirt or iproute2 writes it.
func parseFlag(s string) (on, ok bool) {
	on = s == "yes" || s == "on"
	return on, on || s == "no" || s == "off"
}

func stringText(s string) string { return s }

func numberText(n int) string { return strconv.Itoa(n) }

func within(low, high int) func(string) (int, bool) {
	return func(s string) (int, bool) {
		n, err := strconv.Atoi(s)
		return n, err == nil && n >= low && n <= high
	}
}

func oneOf(values ...string) func(string) (string, bool) {
	return func(s string) (string, bool) { return s, slices.Contains(values, s) }
}

// anyCase reads one of some values, in whatever case, and returns it as it is listed.
func anyCase(values ...string) func(string) (string, bool) {
	return func(s string) (string, bool) {
		i := slices.IndexFunc(values, func(v string) bool { return strings.EqualFold(v, s) })
		if i < 0 {
			return "", false
		}
		return values[i], true
	}
}

func anyText(string) bool { return true }

// short accepts what XML and the kernel can hold, up to a number of octets.
func short(most int) func(string) bool {
	return func(s string) bool { return len(s) <= most && Printable(s) }
}

// Printable reports whether s has neither control characters nor broken UTF-8.
func Printable(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool {
		return r < ' ' || r == utf8.RuneError || r == 0xFFFE || r == 0xFFFF
	}) < 0
}
