package vdp

import (
	"bytes"
	"container/list"
	"slices"
	"time"
)

// ecpLink is the state of ECP: one request of ours may be under way, and the
// last one of the switch is remembered.
type ecpLink struct {
	sequence uint16 // last used
	payload  []byte // of the request under way, nil for none
	riders   []*association
	first    uint16    // sequence of its first transmission
	again    int       // retransmissions so far
	sentAt   time.Time // the last of them
	deadline time.Time // for its acknowledgement
	free     time.Time // when the next one may start

	heard []heardPDU // what the switch sent last, the latest first
}

// maxHeard is how many of the switch's ECPDUs may overtake a copy of one.
const maxHeard = 4

type heardPDU struct {
	sequence uint16
	payload  []byte
	at       time.Time
}

// reset forgets both directions, but not our sequence number.
func (l *ecpLink) reset() { *l = ecpLink{sequence: l.sequence} }

func (l *ecpLink) advance() {
	l.sequence++
	if l.sequence == 0 { // 802.1Qbg-2012 does not use it
		l.sequence = 1
	}
}

func (e Edition) etherType() uint16 {
	if e == EditionDraft {
		return EtherTypeECPDraft
	}
	return EtherTypeECP
}

func (e Edition) ecpGroup() MAC {
	if e == EditionDraft {
		return NearestBridge
	}
	return NearestCustomerBridge
}

func (s *Station) sendECP(p *ECPDU) {
	p.Edition = s.edition
	if p.Edition == Edition2012 {
		p.Subtype = ECPSubtypeVDP
	}
	b, err := p.MarshalBinary()
	if err != nil {
		return // unreachable: edition and subtype are ours
	}
	s.send(s.edition.ecpGroup(), s.edition.etherType(), b)
}

// transmit starts the next ECPDU if none is under way.
func (s *Station) transmit(now time.Time) {
	for s.Ready() == nil && s.ecp.payload == nil && s.queue.Len() > 0 && !now.Before(s.ecp.free) {
		riders, msgs := s.batch(now)
		if len(riders) == 0 {
			continue
		}
		payload, err := MarshalMessages(s.edition, msgs)
		if err != nil {
			for _, a := range riders {
				s.fail(now, a, err)
			}
			continue
		}
		for _, a := range riders {
			s.offer(now, a)
		}
		s.ecp.advance()
		s.ecp.payload, s.ecp.riders = payload, riders
		s.ecp.first, s.ecp.again = s.ecp.sequence, 0
		s.ecp.sentAt, s.ecp.deadline, s.ecp.free = now, now.Add(s.timers.ECPAck), now.Add(s.ecpPace())
		s.sendECP(&ECPDU{Sequence: s.ecp.sequence, Payload: payload})
	}
}

// batch takes from the queue what fits into one ECPDU: in the 2012 edition
// only VSIs of one manager.
func (s *Station) batch(now time.Time) (riders []*association, msgs []Message) {
	room := min(s.cfg.MTU, maxFrameLen-etherHeaderLen) - 2
	least := 2 + draftTLVFixedLen
	if s.edition == EditionDraft {
		room -= ecpDraftHeaderLen
	} else {
		room -= ecpHeaderLen + 2 + len(ManagerID{})
		least = 2 + vsiTLVFixedLen
	}
	var next *list.Element
	for e := s.queue.Front(); e != nil && room >= least; e = next {
		next = e.Next()
		a := e.Value.(*association)
		m := Message{Mode: a.want, VSI: a.vsi}
		if err := s.sendable(&m); err != nil {
			s.dequeue(a)
			s.unsendable(now, a, err)
			continue
		}
		if s.edition == Edition2012 && len(msgs) > 0 && msgs[0].VSI.Manager != a.vsi.Manager {
			continue
		}
		if n := m.wireLen(s.edition); n <= room {
			room -= n
			s.dequeue(a)
			riders, msgs = append(riders, a), append(msgs, m)
		}
	}
	return riders, msgs
}

// ecpTimeout retransmits, or gives up and lets the requests be offered again.
func (s *Station) ecpTimeout(now time.Time) {
	l := &s.ecp
	if l.again >= s.timers.ECPRetries {
		for _, a := range l.riders {
			if a.sent != 0 && (a.wake.IsZero() || a.wake.After(now.Add(redeliver))) && a.queued == nil && s.vsis[a.vsi.ID] == a {
				a.wake = now.Add(redeliver)
				s.due.plan(a)
			}
		}
		l.payload, l.riders, l.deadline = nil, nil, time.Time{}
		return
	}
	l.again++
	if s.edition == EditionDraft {
		l.advance() // lldpad neither takes nor acknowledges the same frame twice
	}
	l.sentAt, l.deadline = now, now.Add(s.timers.ECPAck)
	s.sendECP(&ECPDU{Sequence: l.sequence, Payload: l.payload})
}

// handleECP takes an acknowledgement or a request. Requests are acknowledged
// before their contents are looked at, repeated ones are then dropped.
func (s *Station) handleECP(now time.Time, f *Frame) error {
	p, err := UnmarshalECPDU(s.edition, f.Payload)
	if err != nil {
		return err
	}
	if s.edition == Edition2012 && p.Subtype != ECPSubtypeVDP {
		return badf(ErrUnsupported, "ECPDU: subtype %d", p.Subtype)
	}
	l := &s.ecp
	if p.Ack {
		// An acknowledgement of an earlier transmission counts as well.
		if l.payload == nil || p.Sequence-l.first > l.sequence-l.first {
			return ErrStray
		}
		for _, a := range l.riders {
			s.acknowledged(a)
		}
		l.payload, l.riders, l.deadline = nil, nil, time.Time{}
		return nil
	}
	s.sendECP(&ECPDU{Ack: true, Sequence: p.Sequence})

	// The time bound lets a restarted switch repeat its numbers and contents.
	window := max(time.Second, 2*time.Duration(s.timers.ECPRetries+1)*s.timers.ECPAck)
	if slices.ContainsFunc(l.heard, func(h heardPDU) bool {
		return h.sequence == p.Sequence && bytes.Equal(h.payload, p.Payload) && now.Sub(h.at) < window
	}) {
		return nil
	}
	l.heard = slices.Insert(l.heard[:min(len(l.heard), maxHeard-1)], 0, heardPDU{p.Sequence, slices.Clone(p.Payload), now})
	msgs, err := UnmarshalMessages(s.edition, p.Payload)
	if err != nil {
		return err
	}
	for i := range msgs {
		if e := s.message(now, &msgs[i]); e != nil && err == nil {
			err = e
		}
	}
	return err
}
