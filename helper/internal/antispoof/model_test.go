package antispoof

import (
	"encoding/binary"
	"slices"

	"libvirt-direct/helper/internal/ether"
	"libvirt-direct/helper/internal/linkproto"
	"libvirt-direct/helper/internal/policy"
)

func number(b []byte, at int) uint16 { return binary.BigEndian.Uint16(b[at:]) }

func holds(set policy.VLANSet, tci uint16) bool {
	return set.All || slices.ContainsFunc(set.Ranges, func(r policy.VLANRange) bool {
		return r.First <= tci&0xfff && tci&0xfff <= r.Last
	})
}

// behindTags returns the offset of the type behind the tags that vlans allows, at most so many of them.
func behindTags(f frame, vlans policy.VLANSet) (at int, ok bool) {
	most, tpids := 0, linkproto.Tags[:2]
	if len(vlans.Ranges) > 0 {
		most = 1
	}
	if vlans.All {
		most, tpids = 2, linkproto.Tags[:]
	}
	if f.tagged {
		if most == 0 || !holds(vlans, f.tci) {
			return 0, false
		}
		most--
	}
	at = 12
	for ; most > 0 && slices.Contains(tpids, number(f.octets, at)); most-- {
		if len(f.octets) < at+6 || !holds(vlans, number(f.octets, at+2)) {
			return 0, false
		}
		at += 4
	}
	return at, true
}

// carried is what a frame has behind its tags.
type carried struct {
	etherType uint16
	sap       uint8 // of LLC, if etherType is 0
	snap      bool  // a vendor's
	oui       uint32
	pid       uint16
}

func parse(b []byte) (c carried, ok bool) {
	n := number(b, 0)
	if n >= 0x600 {
		return carried{etherType: n}, true
	}
	b = b[2:]
	if len(b) < 3 {
		return c, false
	}
	is := func(sap uint8) bool { return b[0] == sap || b[0] == sap+1 || b[1] == sap || b[1] == sap+1 }
	switch {
	case is(0x42):
		return carried{sap: 0x42}, true
	case !is(0xaa):
		return carried{sap: b[0]}, true
	}
	if len(b) < 8 || b[2] != 3 {
		return c, false
	}
	oui, pid := uint32(b[3])<<16|uint32(b[4])<<8|uint32(b[5]), number(b, 6)
	if oui == 0 || oui == 0xf8 {
		return c, false
	}
	return carried{snap: true, oui: oui, pid: pid}, true
}

// claims reports whether what is carried is of a form of p.
func claims(p linkproto.Protocol, c carried) bool {
	switch {
	case c.snap && c.oui == 0x080007:
		return false
	case c.snap:
		return slices.ContainsFunc(p.SNAPs, func(s linkproto.SNAP) bool { return s.Has(c.oui, c.pid) })
	case c.etherType != 0:
		return slices.Contains(p.Types, c.etherType)
	}
	return slices.Contains(p.SAPs, c.sap)
}

// outgoing says in plain words what Outgoing's program does.
func outgoing(f frame, mac ether.MAC, vlans policy.VLANSet, allowed []string) bool {
	if len(f.octets) < 14 || string(f.octets[6:12]) != string(mac[:]) {
		return false
	}
	at, ok := behindTags(f, vlans)
	if !ok {
		return false
	}
	c, ok := parse(f.octets[at:])
	if !ok || slices.Contains(linkproto.Tags[:], c.etherType) {
		return false
	}
	dst := ether.MAC(f.octets[:6])
	to := func(p linkproto.Protocol) bool {
		return slices.ContainsFunc(p.Groups, func(g linkproto.Prefix) bool { return g.Has(dst) })
	}
	control := c.snap && !(c.oui == 0x080007 && c.pid == 0x809b)
	reserved, spoken, addressed := false, false, false
	for _, p := range linkproto.All() {
		control = control || claims(p, c) && !p.Elsewhere
		reserved = reserved || to(p)
		if slices.Contains(allowed, p.Name) {
			spoken = spoken || claims(p, c)
			addressed = addressed || to(p) && (len(p.Types)+len(p.SAPs)+len(p.SNAPs) == 0 || claims(p, c))
		}
	}
	return (!control || spoken) && (!reserved || addressed)
}

// incoming says the same of Incoming's.
func incoming(f frame, mac *ether.MAC, vlans policy.VLANSet) bool {
	if mac == nil && vlans.All {
		return true
	}
	if len(f.octets) < 14 || mac != nil && f.octets[0]&1 == 0 && string(f.octets[:6]) != string(mac[:]) {
		return false
	}
	if vlans.All {
		return true
	}
	vlans.Ranges = append(slices.Clone(vlans.Ranges), policy.VLANRange{}) // a priority tag is in no VLAN
	at, ok := behindTags(f, vlans)
	return ok && !slices.Contains(linkproto.Tags[:], number(f.octets, at))
}
