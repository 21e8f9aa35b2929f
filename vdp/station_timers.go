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
// asked for more often than a keepalive needs, and before its owner's time is
// up: a bridge drops an answer that is not acknowledged within some 10 ms.
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

// exponents returns the numbers in use: the larger of ours and the switch's.
func (s *Station) exponents() EVBConfig {
	e := s.cfg.EVB
	if s.neighbor != nil && s.neighbor.EVB != nil {
		n := s.neighbor.EVB
		e.Retries, e.RTE = max(e.Retries, n.Retries), max(e.RTE, n.RTE)
		e.RWD, e.RKA = max(e.RWD, n.RWD), max(e.RKA, n.RKA)
	}
	return e
}

// negotiate recomputes the timers. Those of the 2012 edition follow
// 802.1Qbg-2012 41.5.5: half as much again as ECP both ways and the bridge's
// own work may take.
func (s *Station) negotiate() {
	if s.edition == EditionDraft {
		s.timers = draftTimers
		return
	}
	e := s.exponents()
	rte := exponent(e.RTE)
	s.timers = Timers{
		ECPAck:     rte,
		ECPRetries: int(e.Retries),
		Answer:     (time.Duration(1+2*int(e.Retries))*rte + exponent(e.RWD)) * 3 / 2,
		Keepalive:  exponent(e.RKA),
	}
}
