package vdp

import (
	"bytes"
	"fmt"
	"net"
	"slices"
	"time"
)

// A Neighbor is an agent of LLDP whose LLDPDUs have an EVB TLV, as the last of
// them shows it. Of all of them one is the switch. An agent is known by group
// address, chassis id and port id (IEEE 802.1AB, 6.3).
type Neighbor struct {
	Edition Edition
	Group   MAC // where its LLDPDUs go to
	Source  MAC
	Chassis []byte // LLDP chassis id with its subtype
	Port    []byte // LLDP port id with its subtype
	EVB     *EVB   // at least one of these is set
	Draft   *EVBDraft
	Since   time.Time // of its first LLDPDU
	Until   time.Time // when it ages out
}

const (
	// maxNeighborTTL bounds how long an agent that says no more is believed.
	maxNeighborTTL = 300 * time.Second
	// maxContenders bounds the agents remembered beside the neighbor.
	maxContenders = 8
)

func neighborOf(now time.Time, f *Frame, p *LLDPDU) Neighbor {
	ttl := min(time.Duration(p.TTL)*time.Second, maxNeighborTTL)
	return Neighbor{
		Group: f.Dst, Source: f.Src, Chassis: p.Chassis, Port: p.Port, EVB: p.EVB, Draft: p.Draft,
		Since: now, Until: now.Add(ttl),
	}
}

// agent reports whether two LLDPDUs are of the same agent.
func (n *Neighbor) agent(o *Neighbor) bool { return n.Group == o.Group && n.port(o) }

// port reports whether two agents are at the same port.
func (n *Neighbor) port(o *Neighbor) bool {
	return bytes.Equal(n.Chassis, o.Chassis) && bytes.Equal(n.Port, o.Port)
}

// ChassisID is the chassis id for people: a MAC address, a network address, or
// text.
func (n *Neighbor) ChassisID() string { return lldpID(n.Chassis, lldpChassisMAC, 5) }

// PortID is the port id, like ChassisID.
func (n *Neighbor) PortID() string { return lldpID(n.Port, lldpPortMAC, 4) }

// lldpID writes an id of LLDP. The first octet is its subtype; which of them is a
// MAC address or a network address differs between chassis and port (IEEE 802.1AB,
// 8.5.2.2 and 8.5.3.2).
func lldpID(id []byte, mac, network byte) string {
	if len(id) < 2 {
		return ""
	}
	typ, v := id[0], id[1:]
	switch {
	case typ == mac && len(v) == 6:
		return net.HardwareAddr(v).String()
	case typ == network && v[0] == 1 && len(v) == 5, typ == network && v[0] == 2 && len(v) == 17:
		return net.IP(v[1:]).String()
	}
	for _, c := range v {
		if c < ' ' || c > '~' {
			return fmt.Sprintf("%x", v)
		}
	}
	return string(v)
}

// told is what was reported once since the neighbor is the one it is.
type told struct{ conflict, foreign bool }

func (s *Station) tellOnce(told *bool, t EventType, src MAC) {
	if !*told {
		*told = true
		s.out.Events = append(s.out.Events, Event{Type: t, Source: src})
	}
}

// refresh takes the neighbor's next LLDPDU.
func (s *Station) refresh(now time.Time, n Neighbor) {
	news, groups := n.Edition != s.neighbor.Edition, s.groups
	n.Since = s.neighbor.Since
	s.follow(&n)
	if s.groups && !groups {
		s.requestAll(now) // some may wait for it
	}
	if news {
		s.agreed = false
		s.out.Events = append(s.out.Events, Event{Type: EventNeighbor})
	}
	s.useEdition(now, n.Edition)
}

// adopt makes an agent the neighbor. It has not heard of any VSI, or may have
// forgotten them: all are requested again.
func (s *Station) adopt(now time.Time, n Neighbor) {
	s.contenders = slices.DeleteFunc(s.contenders, func(r Neighbor) bool { return r.agent(&n) })
	s.told = told{}
	s.agreed = false
	s.follow(&n)
	s.out.Events = append(s.out.Events, Event{Type: EventNeighbor})
	s.useEdition(now, n.Edition)
	s.requestAll(now)
	s.hurryLLDP(now) // the switch should not have to wait for ours
}

func (s *Station) follow(n *Neighbor) {
	s.neighbor, s.speaker = n, n.Source
	s.groups = s.groupsWith(n)
}

// groupsWith reports whether group ids may be used with an agent.
func (s *Station) groupsWith(n *Neighbor) bool {
	return s.cfg.EVB.GroupIDs && n.EVB != nil && n.EVB.BridgeGroupID
}

// restarted reports whether the neighbor no longer knows what it has heard from
// us before, and has forgotten the VSIs, too.
func (s *Station) restarted(n *Neighbor) bool {
	was := s.neighbor
	switch {
	case was.Edition != n.Edition:
		return false
	case n.Edition == Edition2012:
		return was.EVB != nil && forgot(was.EVB, n.EVB, &s.cfg.EVB)
	}
	return was.Draft != nil && was.Draft.Capabilities != 0 && n.Draft.Capabilities == 0
}

// forgot reports whether an EVB TLV no longer repeats or follows what we have sent.
func forgot(was, is *EVB, own *EVBConfig) bool {
	return was.RRRequest && !is.RRRequest && own.ReflectiveRelay ||
		was.StationGroupID && !is.StationGroupID && own.GroupIDs ||
		// Where it asks for more than before, the value is its own by right.
		was.ROLResource && !is.ROLResource && is.RWD <= was.RWD ||
		was.ROLKeepalive && !is.ROLKeepalive && is.RKA <= was.RKA
}

// prefers reports whether an agent is the neighbor's port once more, at the group
// address that EVB is for, and may take its place: where that costs no VSI.
func (s *Station) prefers(n *Neighbor) bool {
	return s.neighbor.Group != NearestCustomerBridge && n.Group == NearestCustomerBridge && s.neighbor.port(n) &&
		(s.neighbor.Edition == n.Edition || len(s.vsis) == 0)
}

// contender remembers an agent that is not the neighbor. The first ones stay: a flood
// of others does not drive them out.
func (s *Station) contender(now time.Time, n Neighbor) error {
	s.contenders = slices.DeleteFunc(s.contenders, func(r Neighbor) bool { return due(now, r.Until) })
	i := slices.IndexFunc(s.contenders, func(r Neighbor) bool { return r.agent(&n) })
	switch {
	case i >= 0:
		n.Since = s.contenders[i].Since
		s.contenders[i] = n
	case len(s.contenders) < maxContenders:
		s.contenders = append(s.contenders, n)
	}
	if !s.neighbor.port(&n) {
		s.tellOnce(&s.told.conflict, EventConflict, n.Source)
	}
	return ErrConflict
}

// forgetNeighbor drops what the switch's LLDPDU said. Another agent that has waited
// takes its place. Otherwise the edition stays in use until the link goes down:
// keepalives tell whether VDP still works.
func (s *Station) forgetNeighbor(now time.Time) {
	if s.neighbor == nil {
		return
	}
	s.neighbor = nil
	s.out.Events = append(s.out.Events, Event{Type: EventNeighborLost})
	s.contenders = slices.DeleteFunc(s.contenders, func(r Neighbor) bool { return due(now, r.Until) })
	if len(s.contenders) == 0 {
		s.negotiate()
		return
	}
	next := max(0, slices.IndexFunc(s.contenders, func(r Neighbor) bool { return r.Group == NearestCustomerBridge }))
	s.adopt(now, s.contenders[next])
}
