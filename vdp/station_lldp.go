package vdp

import (
	"bytes"
	"time"
)

const (
	lldpInterval    = 30 * time.Second
	lldpMinInterval = time.Second // at most one LLDPDU in this time, however the TLV changes
	lldpTTL         = 120         // seconds

	lldpChassisMAC = 4 // id subtypes
	lldpPortMAC    = 3

	draftSupportedVSIs = 3295 // lldpad's number
)

type lldpSender struct {
	next time.Time // when to send
	last time.Time // when it was sent
	sent []byte    // last payload
}

// sendLLDP sends an LLDPDU and plans the next. While the switch's edition is
// not known it carries the EVB TLVs of both.
func (s *Station) sendLLDP(now time.Time) {
	s.lldp.sent, s.lldp.last, s.lldp.next = s.lldpdu(), now, now.Add(lldpInterval)
	s.agreed = s.agreed || s.neighbor != nil
	s.send(NearestCustomerBridge, EtherTypeLLDP, s.lldp.sent)
}

// lldpChanged brings the next LLDPDU forward if it will differ from the last.
func (s *Station) lldpChanged(now time.Time) {
	if !s.link || bytes.Equal(s.lldp.sent, s.lldpdu()) {
		return
	}
	t := s.lldp.last.Add(lldpMinInterval)
	if t.Before(now) {
		t = now
	}
	if t.Before(s.lldp.next) {
		s.lldp.next = t
	}
}

func (s *Station) lldpdu() []byte {
	p := LLDPDU{
		Chassis: append([]byte{lldpChassisMAC}, s.cfg.MAC[:]...),
		Port:    append([]byte{lldpPortMAC}, s.cfg.MAC[:]...),
		TTL:     lldpTTL,
	}
	if s.edition != EditionDraft {
		p.EVB = s.evb()
	}
	if s.edition != Edition2012 {
		p.Draft = s.evbDraft()
	}
	b, err := p.MarshalBinary()
	if err != nil {
		return nil // unreachable: NewStation has checked the exponents
	}
	return b
}

func (s *Station) evb() *EVB {
	own, use := s.cfg.EVB, s.exponents()
	e := &EVB{
		RRRequest: own.ReflectiveRelay,
		Retries:   use.Retries, RTE: use.RTE, RWD: use.RWD, RKA: use.RKA,
		Role: RoleStation,
	}
	if own.ReflectiveRelay {
		e.RRStatus = RRUnknown
	}
	if s.neighbor == nil || s.neighbor.EVB == nil {
		return e
	}
	n := s.neighbor.EVB
	e.BridgeGroupID, e.RRCapable, e.RRControl = n.BridgeGroupID, n.RRCapable, n.RRControl
	if own.ReflectiveRelay {
		e.RRStatus = bit(n.RRControl, 0)
	}
	e.ROLResource, e.ROLKeepalive = n.RWD >= own.RWD, n.RKA >= own.RKA
	return e
}

func (s *Station) evbDraft() *EVBDraft {
	e := &EVBDraft{
		SupportedForwarding:   ForwardStandard,
		SupportedCapabilities: CapRTE | CapECP | CapVDP,
		SupportedVSIs:         draftSupportedVSIs,
		RTE:                   draftRTE,
	}
	if s.cfg.EVB.ReflectiveRelay {
		e.SupportedForwarding |= ForwardReflective
	}
	if s.neighbor == nil || s.neighbor.Draft == nil {
		return e
	}
	n := s.neighbor.Draft
	e.Capabilities = e.SupportedCapabilities & n.SupportedCapabilities
	e.RTE = max(e.RTE, n.RTE)
	e.VSIs = uint16(min(len(s.vsis), draftSupportedVSIs))
	switch both := e.SupportedForwarding & n.SupportedForwarding; {
	case both&ForwardReflective != 0:
		e.Forwarding = ForwardReflective
	case both&ForwardStandard != 0:
		e.Forwarding = ForwardStandard
	}
	return e
}

const draftRTE = 15 // lldpad's default

// handleLLDP takes note of the switch's EVB TLV. LLDPDUs without one, sent to
// another group address or by another agent, say nothing about EVB.
func (s *Station) handleLLDP(now time.Time, f *Frame) error {
	var p LLDPDU
	if err := p.UnmarshalBinary(f.Payload); err != nil {
		return err
	}
	same := s.neighbor != nil && s.neighbor.dst == f.Dst &&
		bytes.Equal(s.neighbor.Chassis, p.Chassis) && bytes.Equal(s.neighbor.Port, p.Port)
	ed := s.choose(&p)
	if p.TTL == 0 || ed == EditionAuto {
		if same {
			s.forgetNeighbor()
		}
		return nil
	}
	news := s.neighbor == nil || s.neighbor.Edition != ed
	s.neighbor = &Neighbor{
		Edition: ed, Source: f.Src, Chassis: p.Chassis, Port: p.Port, EVB: p.EVB, Draft: p.Draft,
		dst: f.Dst, until: now.Add(time.Duration(p.TTL) * time.Second),
	}
	if news {
		s.agreed = false
		s.out.Events = append(s.out.Events, Event{Type: EventNeighbor})
	}
	s.useEdition(now, ed)
	if news {
		s.retryLost()
	}
	if !same {
		s.lldp.next = s.lldp.last.Add(lldpMinInterval) // the switch should not have to wait for ours
	}
	return nil
}

// choose returns the edition that an LLDPDU offers and the configuration
// allows, EditionAuto for none.
func (s *Station) choose(p *LLDPDU) Edition {
	want := s.cfg.Edition
	switch {
	case want != EditionDraft && p.EVB != nil && p.EVB.Role == RoleBridge:
		return Edition2012
	case want != Edition2012 && p.Draft != nil && p.Draft.speaksVDP():
		return EditionDraft
	}
	return EditionAuto
}

// forgetNeighbor drops what the switch's LLDPDU said. The edition stays in use
// until the link goes down: keepalives tell whether VDP still works.
func (s *Station) forgetNeighbor() {
	if s.neighbor == nil {
		return
	}
	s.neighbor = nil
	s.negotiate()
	s.out.Events = append(s.out.Events, Event{Type: EventNeighborLost})
}

// useEdition starts to speak ed. Associations made in another edition are
// lost.
func (s *Station) useEdition(now time.Time, ed Edition) {
	old := s.edition
	s.edition = ed
	s.negotiate()
	if old != EditionAuto && old != ed {
		s.ecp.reset()
		s.abandon(now, ErrEditionChanged)
	}
}
