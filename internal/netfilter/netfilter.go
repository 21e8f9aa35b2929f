// Package netfilter reads what nf_tables, iptables and ebtables do with frames, as far as a
// person has to know who misses frames. It changes nothing.
//
// A rule is understood by the devices that it names and by its verdict. Of what else it
// matches nothing is known: an ordinary frame is one that no such rule concerns.
package netfilter

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
)

// Family is NFPROTO_* of include/uapi/linux/netfilter.h.
type Family uint8

// Those that see guests' frames.
const (
	Inet   Family = 1
	IPv4   Family = 2
	Netdev Family = 5
	Bridge Family = 7
	IPv6   Family = 10
)

func (f Family) String() string {
	switch f {
	case Inet:
		return "inet"
	case IPv4:
		return "ip"
	case Netdev:
		return "netdev"
	case Bridge:
		return "bridge"
	case IPv6:
		return "ip6"
	}
	return "other"
}

// Hooks by number. Those of Netdev are Ingress and Egress, and Inet has IngressOfInet
// besides; the other families have the rest.
const (
	Prerouting  = 0
	Forward     = 2
	Postrouting = 4

	Ingress       = 0
	Egress        = 1
	IngressOfInet = 5
)

// Chain is a chain of rules.
type Chain struct {
	Family      Family
	Table, Name string
	// Base: the kernel calls it, at Hook, and for a chain of Netdev for frames of Devices.
	Base    bool
	Hook    int
	Devices []string
	// Drops is the policy of a base chain.
	Drops bool
	rules []rule
	// legacy: it is iptables' or ebtables' own, not nf_tables'.
	legacy string
}

// Show is the command that shows a chain.
func (c Chain) Show() string {
	switch c.legacy {
	case "":
		return "nft list chain " + c.Family.String() + " " + c.Table + " " + c.Name
	case ebtables:
		return c.legacy + " -t " + c.Table + " -L " + c.Name
	}
	return c.legacy + " -t " + c.Table + " -S " + c.Name
}

// Program is the program that changes a chain, of those that are called like name: iptables.
func (c Chain) Program(name string) string { return cmp.Or(c.legacy, name) }

// Beside reports whether two chains are in one table.
func (c Chain) Beside(d Chain) bool {
	return c.Family == d.Family && c.Table == d.Table && c.legacy == d.legacy
}

// rule is what is known of a rule: it concerns a frame for which all conditions hold.
type rule struct {
	when    []condition
	unknown bool // and others that are not understood
	verdict verdict
	chain   string // of jumpTo and goTo
}

type verdict int

const (
	carryOn verdict = iota
	accept
	drop
	jumpTo
	goTo
	comeBack
)

type field int

const (
	in field = iota
	out
	inBridge
	outBridge
	bridged
)

type condition struct {
	field field
	names []deviceName // of which one is the device's
	not   bool
}

// deviceName is what a device is called, or begins with.
type deviceName struct {
	name   string
	prefix bool
}

func (d deviceName) is(name string) bool {
	return name == d.name || d.prefix && strings.HasPrefix(name, d.name)
}

// Frame is what is known of a frame: by which devices it comes and goes, and, where these
// are ports of a bridge, of which.
type Frame struct {
	In, Out, InBridge, OutBridge string
	// Bridged: a bridge forwards it, and IP's chains see it all the same (br_netfilter).
	Bridged bool
}

func (f Frame) meets(c condition) bool {
	name := ""
	switch c.field {
	case in:
		name = f.In
	case out:
		name = f.Out
	case inBridge:
		name = f.InBridge
	case outBridge:
		name = f.OutBridge
	case bridged:
		return f.Bridged != c.not
	}
	return slices.ContainsFunc(c.names, func(d deviceName) bool { return d.is(name) }) != c.not
}

// Fate is what becomes of frames.
type Fate int

// The fates, from better to worse.
const (
	Passes      Fate = iota
	SomeDropped      // those that a rule drops by what is not known here
	MostDropped      // all but those that a rule accepts by what is not known here
	Dropped          // all
)

// Rules are all chains of a host.
type Rules []Chain

// Fate says what becomes of frames in a base chain.
func (r Rules) Fate(c Chain, f Frame) Fate {
	var some exceptions
	v := r.walk(c, f, &some, nil)
	switch {
	case v != drop && (v != carryOn || !c.Drops):
		if some.dropped {
			return SomeDropped
		}
		return Passes
	case some.accepted:
		return MostDropped
	}
	return Dropped
}

// exceptions says whether a rule that depends on what is not known accepts or drops a frame.
type exceptions struct{ accepted, dropped bool }

// libvirtChain begins the names of the chains that libvirt makes of a NIC's <filterref>.
const libvirtChain = "libvirt-"

// walk returns the verdict on a frame that no rule concerns of which not all is known, and
// notes in some what those do.
func (r Rules) walk(c Chain, f Frame, some *exceptions, above []string) verdict {
	if slices.Contains(above, c.Name) {
		return carryOn // the kernel takes no loops
	}
	above = append(slices.Clone(above), c.Name)
	for _, rule := range c.rules {
		if slices.ContainsFunc(rule.when, func(c condition) bool { return !f.meets(c) }) {
			continue
		}
		result := rule.verdict
		if result == jumpTo || result == goTo {
			result = carryOn
			if below, ok := r.chain(c, rule.chain); ok && !strings.HasPrefix(rule.chain, libvirtChain) {
				result = r.walk(below, f, some, above)
			}
			if result == carryOn && rule.verdict == goTo {
				result = comeBack
			}
		}
		switch {
		case rule.unknown:
			some.accepted = some.accepted || result == accept
			some.dropped = some.dropped || result == drop
		case result == comeBack:
			return carryOn
		case result != carryOn:
			return result
		}
	}
	return carryOn
}

func (r Rules) chain(of Chain, name string) (Chain, bool) {
	i := slices.IndexFunc(r, func(c Chain) bool {
		return c.Beside(of) && c.Name == name
	})
	if i < 0 {
		return Chain{}, false
	}
	return r[i], true
}

// cstring is an octet string up to its first NUL.
func cstring(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}
