package vdp

import "time"

// Timers are the times in use, from the edition and the exponents of both EVB
// TLVs.
type Timers struct {
	ECPAck     time.Duration // wait for an acknowledgement, per transmission
	ECPRetries int           // transmissions after the first
	Answer     time.Duration // wait for a VDP answer, from the first transmission
	Keepalive  time.Duration // from one request for an established VSI to the next
}

// The draft's times are constants of lldpad, which the switches built for it
// were tested with; its EVB TLV's RTE is not used by ECP.
var draftTimers = Timers{ECPAck: 500 * time.Millisecond, ECPRetries: 2, Answer: 3 * time.Second, Keepalive: 10 * time.Second}

const (
	// ecpPace is the least time from one ECPDU of the 2012 edition to the next.
	// lldpad acknowledges at once, but reads what it acknowledged 2 ms later: an
	// ECPDU that comes sooner overwrites it. In a burst the pause also fills the
	// ECPDUs; for that alone, in the draft, less will do.
	ecpPace      = 5 * time.Millisecond
	ecpPaceDraft = time.Millisecond

	// redeliver is how long after ECP gave up a request is offered again
	// while the answer time lasts. With the usual exponents ECP gives up
	// after 10 ms, much less than a busy switch may need.
	redeliver = time.Second

	minBackoff = time.Second
	maxBackoff = 30 * time.Second
)

// answerTime is how long an answer is waited for. A VSI that is not there is
// asked for more often than a keepalive needs: a bridge drops an answer that is
// not acknowledged within some 10 ms.
func (s *Station) answerTime(a *association) time.Duration {
	if a.want == DeAssociate || a.have == a.want {
		return s.timers.Answer
	}
	return min(s.timers.Answer, s.cfg.SetupTimeout/3)
}

func (s *Station) ecpPace() time.Duration {
	if s.edition == EditionDraft {
		return ecpPaceDraft
	}
	return ecpPace
}

// The most that is taken from the switch: a lost acknowledgement then costs 1.3 s a
// try, and a VSI that the switch has forgotten is noticed within 84 s.
const (
	maxRetries = 7
	maxRTE     = 17
	maxRWD     = 22
	maxRKA     = 23
)

// Exponents returns what the switch's EVB TLV asks for, nil without one of the 2012
// edition, and what is used and sent: the larger of ours and the switch's, which
// counts up to 7 retries, RTE 17, RWD 22 and RKA 23.
func (s *Station) Exponents() (peer *EVBConfig, used EVBConfig) {
	used = s.cfg.EVB
	if s.neighbor == nil || s.neighbor.EVB == nil {
		return nil, used
	}
	n := s.neighbor.EVB
	peer = &EVBConfig{ReflectiveRelay: n.RRControl, GroupIDs: n.BridgeGroupID, Retries: n.Retries, RTE: n.RTE, RWD: n.RWD, RKA: n.RKA}
	larger := func(own *uint8, theirs, limit uint8) { *own = max(*own, min(theirs, limit)) }
	larger(&used.Retries, peer.Retries, maxRetries)
	larger(&used.RTE, peer.RTE, maxRTE)
	larger(&used.RWD, peer.RWD, maxRWD)
	larger(&used.RKA, peer.RKA, maxRKA)
	return peer, used
}

// negotiate recomputes the timers, which waits that are under way follow. Those of
// the 2012 edition are as in 802.1Qbg-2012 41.5.5: half as much again as ECP both
// ways and the bridge's own work may take.
func (s *Station) negotiate() {
	was := s.timers
	s.timers = draftTimers
	if s.edition != EditionDraft {
		_, e := s.Exponents()
		rte := exponent(e.RTE)
		s.timers = Timers{
			ECPAck:     rte,
			ECPRetries: int(e.Retries),
			Answer:     (time.Duration(1+2*int(e.Retries))*rte + exponent(e.RWD)) * 3 / 2,
			Keepalive:  exponent(e.RKA),
		}
	}
	if s.timers == was {
		return
	}
	if !s.ecp.deadline.IsZero() {
		s.ecp.deadline = s.ecp.sentAt.Add(s.timers.ECPAck)
	}
	for _, a := range s.vsis {
		if !a.answerBy.IsZero() {
			a.answerBy = a.askedAt.Add(s.answerTime(a))
		}
		if !a.setupBy.IsZero() {
			s.limit(a)
		}
		if a.keepalive && !a.wake.IsZero() {
			// Later than before only from the next keepalive on: the switch counts
			// from the last one, by what was agreed on then.
			if t := a.grantedAt.Add(s.timers.Keepalive); t.Before(a.wake) {
				a.wake = t
			}
		}
		s.due.plan(a)
	}
}
