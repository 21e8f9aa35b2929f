package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"libvirt-direct/internal/link"
)

// ErrConfig is matched by every error of this package.
var ErrConfig = errors.New("configuration")

// Error is a fault of the configuration file, or of one of its sections.
type Error struct {
	File string
	Line int // 0 where it belongs to none
	// Section is "uplink.storage", "vlan" …; "" where the whole file is meant.
	Section string
	Msg     string // what is wrong
	Fix     string // what to do about it, where Msg does not say it

	root, name string // of its section
	unknown    bool   // Msg names a key, with its section
}

// Error is one line: the file, the line, the section, what is wrong, and how to fix it.
func (e *Error) Error() string {
	text := e.File + ": "
	if e.Line > 0 {
		text = fmt.Sprintf("%s:%d: ", e.File, e.Line)
	}
	if e.Section != "" && !e.unknown {
		text += e.Section + ": "
	}
	text += e.Msg
	if e.Fix != "" {
		text += "; " + e.Fix
	}
	return text
}

// Is reports whether target is ErrConfig.
func (e *Error) Is(target error) bool { return target == ErrConfig }

// Faults lists the file's faulty sections, by line. Nothing in them is in the Config:
// they are not among Uplinks and Profiles, and what else they say has its default.
func (c *Config) Faults() []*Error { return slices.Clone(c.faults) }

// fault returns the first fault of a section of which that is true, as an error or nil.
func (c *Config) fault(is func(*Error) bool) error {
	if i := slices.IndexFunc(c.faults, is); i >= 0 {
		return c.faults[i]
	}
	return nil
}

// ProfileFault returns the fault of [profile.NAME], an *Error, or nil.
func (c *Config) ProfileFault(name string) error {
	if name == "" || c.Profiles[name] != nil {
		return nil
	}
	return c.fault(func(e *Error) bool { return e.root == rootProfile && e.name == name })
}

// VLANFault returns what keeps it unknown where VLAN sub-interfaces may be made, an *Error
// or nil: a fault of [vlan], or a key or table of the top level that is like no other.
func (c *Config) VLANFault() error {
	return c.fault(func(e *Error) bool { return e.root == rootVLAN || e.root == "" })
}

// WatchFault returns the fault of [watch], an *Error, or nil.
func (c *Config) WatchFault() error {
	return c.fault(func(e *Error) bool { return e.root == rootWatch })
}

// OVSFault returns what keeps it unknown where Open vSwitch is, an *Error or nil.
func (c *Config) OVSFault() error {
	return c.fault(func(e *Error) bool { return e.root == rootOVS })
}

// FaultyUplink is what can be read of an uplink whose section is faulty.
type FaultyUplink struct {
	Name string
	// Also are the names that other hosts use.
	Also []string
	// Devices say how its device is found here, one way each. Empty where the section
	// does not say it, or not in a form that can be read: then it is known by name alone.
	Devices []*Uplink
	Fault   *Error
}

// FaultyUplinks lists the uplinks whose sections are faulty, by name.
func (c *Config) FaultyUplinks() []FaultyUplink { return slices.Clone(c.faulty) }

// UplinkFault returns the fault of the uplink that a name means, an *Error, or nil. As
// with UplinkCalled the name can be its own, another host's, or its device's. A sound
// uplink of that very name goes first.
func (c *Config) UplinkFault(name string) error {
	if name == "" || c.Uplinks[name] != nil {
		return nil
	}
	for _, u := range c.faulty {
		device := slices.ContainsFunc(u.Devices, func(d *Uplink) bool { return d.Device == name })
		if u.Name == name || device || slices.Contains(u.Also, name) {
			return u.Fault
		}
	}
	return nil
}

// reader reads a file that is TOML, section by section.
type reader struct {
	file     string
	data     []byte
	config   *Config
	sections []*section // nil until a fault needs them
}

// bySection decodes each section for itself: what is wrong with one is nothing to others.
func (r *reader) bySection() {
	r.config.Uplinks, r.config.Profiles = map[string]*Uplink{}, map[string]*Profile{}
	for _, s := range r.parts() {
		one := defaults()
		dec := toml.NewDecoder(bytes.NewReader(s.text)).DisallowUnknownFields()
		if err := dec.Decode(one); err != nil {
			r.add(s, decodeError(r.file, err))
			continue
		}
		switch s.root {
		case rootUplink:
			for name, u := range one.Uplinks {
				r.config.Uplinks[name] = u
			}
		case rootProfile:
			for name, p := range one.Profiles {
				r.config.Profiles[name] = p
			}
		case rootVLAN:
			r.config.VLAN = one.VLAN
		case rootWatch:
			r.config.Watch = one.Watch
		case rootOVS:
			r.config.OVS = one.OVS
		case rootDeadline:
			r.config.Deadline = one.Deadline
		}
	}
}

func (r *reader) parts() []*section {
	if r.sections == nil {
		r.sections = split(r.data)
	}
	return r.sections
}

// add notes a decoder's fault of a section.
func (r *reader) add(s *section, e *Error) {
	e.Line = s.inFile(e.Line)
	e.Section, e.root, e.name = s.title, s.root, s.name
	r.config.faults = append(r.config.faults, e)
}

// refuse notes a fault of a value of a section.
func (r *reader) refuse(root, name, key, msg, fix string) {
	e := &Error{File: r.file, Section: root, Msg: msg, Fix: fix, root: root, name: name}
	if name != "" {
		e.Section += "." + name
	}
	for _, s := range r.parts() {
		if s.root == root && (s.name == name || s.name == "") {
			e.Line = s.line(key)
			if s.name == name {
				e.Section = s.title
				break
			}
		}
	}
	r.config.faults = append(r.config.faults, e)
}

// finish sorts the faults, and reads what can be read of faulty uplinks.
func (r *reader) finish() {
	c := r.config
	slices.SortStableFunc(c.faults, func(a, b *Error) int { return cmp.Or(a.Line-b.Line, strings.Compare(a.Section, b.Section)) })
	if len(c.faults) == 0 {
		return
	}
	var doc map[string]any
	if err := toml.Unmarshal(r.data, &doc); err != nil {
		return // it has been read before
	}
	for _, e := range c.faults {
		if e.root != rootUplink {
			continue
		}
		for title, table := range doc {
			if title != e.Section && !strings.HasPrefix(e.Section, title+".") {
				continue
			}
			tables, _ := table.(map[string]any)
			for name, table := range tables {
				if e.name == "" || e.name == name {
					c.faulty = append(c.faulty, readFaulty(name, table, e))
				}
			}
		}
	}
	slices.SortFunc(c.faulty, func(a, b FaultyUplink) int { return strings.Compare(a.Name, b.Name) })
}

// readFaulty reads what could find an uplink's device, whatever the key is called and however
// the value is written: its limits are not known, and a guest must not be without them
// for a letter.
func readFaulty(name string, table any, fault *Error) FaultyUplink {
	u := FaultyUplink{Name: name, Fault: fault}
	for _, t := range append(list(table), table) { // [[uplink.x]] is a list of them
		keys, _ := t.(map[string]any)
		for key, v := range keys {
			switch key = strings.ToLower(key); {
			case slices.Contains([]string{"vfs", "vlans", "allmulticast", "enforce", "fdb", "associate"}, key):
			case nearest(key, []string{"also", "device", "pci", "mac", "vlans", "vfs"}) == "also":
				u.Also = append(u.Also, texts(v)...)
			default:
				for _, text := range texts(v) {
					u.Devices = append(u.Devices, ways(name, text)...)
				}
			}
		}
	}
	return u
}

// ways are what a text can find a device by.
func ways(name, text string) (ways []*Uplink) {
	if link.ValidName(text) {
		ways = append(ways, &Uplink{Name: name, Device: text})
	}
	for _, address := range []string{text, "0000:" + text} { // lspci leaves the domain out
		if address = strings.ToLower(address); pciAddress.MatchString(address) {
			ways = append(ways, &Uplink{Name: name, PCI: address})
		}
	}
	if mac, err := net.ParseMAC(text); err == nil && len(mac) == 6 {
		ways = append(ways, &Uplink{Name: name, MAC: mac.String()})
	}
	return ways
}

// texts are a value, or those of a list.
func texts(v any) (found []string) {
	for _, v := range append(list(v), v) {
		if text, ok := v.(string); ok {
			found = append(found, text)
		}
	}
	return found
}

// list is a value that is one; how TOML's tables come in it depends on how they are written.
func list(v any) []any {
	switch v := v.(type) {
	case []any:
		return slices.Clone(v)
	case []map[string]any:
		var all []any
		for _, t := range v {
			all = append(all, t)
		}
		return all
	}
	return nil
}
