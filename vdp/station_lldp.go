package vdp

import (
	"bytes"
	"slices"
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

// introduce sends an LLDPDU if it is time.
func (s *Station) introduce(now time.Time) {
	if s.link && due(now, s.lldp.next) {
		s.sendLLDP(now)
	}
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
	s.hurryLLDP(now)
}

// hurryLLDP brings the next LLDPDU forward as far as it may be.
func (s *Station) hurryLLDP(now time.Time) {
	t := s.lldp.last.Add(lldpMinInterval)
	for _, u := range []time.Time{now, s.echoes.deafUntil} { // the switch's answer is to be heard
		if t.Before(u) {
			t = u
		}
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
	own := s.cfg.EVB
	_, use := s.Exponents()
	e := &EVB{
		StationGroupID: own.GroupIDs,
		RRRequest:      own.ReflectiveRelay,
		Retries:        use.Retries, RTE: use.RTE, RWD: use.RWD, RKA: use.RKA,
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
	e.ROLResource, e.ROLKeepalive = n.RWD == use.RWD, n.RKA == use.RKA
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
	e.RTE = max(e.RTE, min(n.RTE, maxRTE))
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

// handleLLDP takes note of an agent's EVB TLV. LLDPDUs of the neighbor without
// one say that EVB is over; those of other agents say nothing.
func (s *Station) handleLLDP(now time.Time, f *Frame) error {
	var p LLDPDU
	if err := p.UnmarshalBinary(f.Payload); err != nil {
		return err
	}
	n := neighborOf(now, f, &p)
	n.Edition = s.choose(&p)
	offers := p.TTL != 0 && n.Edition != EditionAuto
	current := s.neighbor != nil && s.neighbor.agent(&n)
	switch {
	case !s.cfg.admits(&n):
		return ErrForeign
	case current && !offers:
		s.forgetNeighbor(now)
	case !offers:
		s.contenders = slices.DeleteFunc(s.contenders, func(r Neighbor) bool { return r.agent(&n) })
	case current && !s.restarted(&n):
		s.refresh(now, n)
	case current, s.neighbor == nil, s.prefers(&n):
		s.adopt(now, n)
	default:
		return s.contender(now, n)
	}
	return nil
}

// choose returns the edition that an LLDPDU offers and the configuration
// allows, EditionAuto for none. The draft's TLV is the same on both sides: another
// station that does not know its switch yet shows by the TLV of the 2012 edition beside it.
func (s *Station) choose(p *LLDPDU) Edition {
	want := s.cfg.Edition
	switch {
	case p.EVB != nil && p.EVB.Role == RoleStation:
		return EditionAuto
	case want != EditionDraft && p.EVB != nil && p.EVB.Role == RoleBridge:
		return Edition2012
	case want != Edition2012 && p.Draft != nil && p.Draft.SpeaksVDP():
		return EditionDraft
	}
	return EditionAuto
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
