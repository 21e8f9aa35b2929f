package vdp

import (
	"slices"
	"time"
)

// An association is a VSI in a Station: what its owner wants and how far the
// switch has followed.
type association struct {
	vsi   VSI      // as in force
	asked []Filter // as the owner asked
	want  Mode
	have  Mode // reached; 0 for none

	lost     bool // was established, is to be again
	offered  bool // the switch has seen or may have seen it
	quiet    bool // its end is no event, the failure before was
	announce bool // the owner asked again: report success though nothing changes
	next     *command

	status Status // last answer
	err    error

	queued   bool
	sent     Mode          // request without an answer; 0 for none
	answerBy time.Time     // when that request has failed
	wake     time.Time     // when to send: keepalive, retry or redelivery
	setupBy  time.Time     // when the owner's request has failed
	backoff  time.Duration // before the next retry
}

// A command waits for the de-association of a VSI with the same id.
type command struct {
	vsi  VSI
	mode Mode
}

func (a *association) report() VSIStatus {
	r := VSIStatus{VSI: a.vsi.clone(), Mode: a.want, Have: a.have, State: StateRequesting, Status: a.status, Err: a.err}
	switch {
	case a.want == DeAssociate:
		r.State = StateWithdrawing
	case a.have == a.want:
		r.State = StateEstablished
	case a.lost:
		r.State = StateLost
	}
	return r
}

// same reports whether v is what the owner asked for, or what the bridge made
// of it.
func (a *association) same(v *VSI) bool {
	return a.vsi.sameType(v) && (slices.Equal(a.asked, v.Filters) || slices.Equal(a.vsi.Filters, v.Filters))
}

// admit checks a VSI against the edition in use and the number of VSIs.
func (s *Station) admit(v *VSI) error {
	if err := v.Validate(s.edition); err != nil {
		return err
	}
	if s.vsis[v.ID] == nil && len(s.vsis) >= s.cfg.MaxVSIs {
		return ErrTooMany
	}
	return nil
}

func (s *Station) command(now time.Time, v VSI, m Mode) (Output, error) {
	if err := s.admit(&v); err != nil {
		return Output{}, err
	}
	a := s.vsis[v.ID]
	switch {
	case a == nil:
		s.start(now, command{v.clone(), m})
	case a.want == DeAssociate:
		a.next = &command{v.clone(), m}
	case !a.same(&v):
		a.next = &command{v.clone(), m}
		s.withdraw(now, a)
	case m < a.want:
		return Output{}, ErrDowngrade
	default:
		again := a.want == m
		a.want, a.announce = m, true
		if a.lost && again {
			break // requested anyway, no more often for being asked
		}
		if a.have != m && !a.lost {
			a.setupBy = now.Add(s.cfg.SetupTimeout)
		}
		s.request(a)
	}
	return s.finish(now), nil
}

func (s *Station) start(now time.Time, c command) {
	s.begin(&association{
		vsi: c.vsi, asked: slices.Clone(c.vsi.Filters), want: c.mode,
		setupBy: now.Add(s.cfg.SetupTimeout),
	})
}

func (s *Station) begin(a *association) {
	s.vsis[a.vsi.ID] = a
	s.request(a)
}

// request lets a.want go out, as soon as ECP is free and the switch known.
// Answers to what was sent before are strays from here on.
func (s *Station) request(a *association) {
	a.sent, a.answerBy, a.wake = 0, time.Time{}, time.Time{}
	s.enqueue(a)
}

func (s *Station) enqueue(a *association) {
	a.wake = time.Time{}
	if !a.queued {
		a.queued = true
		s.queue = append(s.queue, a)
	}
}

func (s *Station) dequeue(a *association) {
	if a.queued {
		a.queued = false
		s.queue = slices.DeleteFunc(s.queue, func(q *association) bool { return q == a })
	}
}

// withdraw de-associates, if there is anything to be withdrawn and anybody to
// tell.
func (s *Station) withdraw(now time.Time, a *association) {
	a.want, a.setupBy = DeAssociate, time.Time{}
	if !a.offered {
		s.remove(now, a, nil)
		return
	}
	if err := s.Ready(); err != nil {
		s.remove(now, a, err)
		return
	}
	s.request(a)
}

// remove ends a withdrawal and starts what waited for it.
func (s *Station) remove(now time.Time, a *association, err error) {
	delete(s.vsis, a.vsi.ID)
	if !a.quiet {
		s.event(EventRemoved, a, DeAssociate, err)
	}
	if a.next != nil {
		s.start(now, *a.next)
	}
}

// fail reports that the owner's request was not fulfilled and forgets the VSI.
// If the switch may hold it, or grant it late, it is withdrawn.
func (s *Station) fail(now time.Time, a *association, err error) {
	s.event(EventFailed, a, a.want, err)
	a.quiet, a.have, a.err = true, 0, err
	if a.vsi.Validate(s.edition) != nil {
		a.offered = false
	}
	s.withdraw(now, a)
}

// lose reports that an established VSI is gone and requests it again: at once
// the first time, then less and less often until a keepalive succeeds.
func (s *Station) lose(now time.Time, a *association, err error) {
	s.event(EventLost, a, a.have, err)
	a.have, a.lost, a.err = 0, true, err
	a.setupBy = time.Time{}
	s.retry(now, a)
}

func (s *Station) retry(now time.Time, a *association) {
	delay := a.backoff
	a.backoff = min(max(2*a.backoff, minBackoff), maxBackoff)
	if delay == 0 {
		s.request(a)
		return
	}
	s.dequeue(a)
	a.sent, a.answerBy, a.wake = 0, time.Time{}, now.Add(delay)
}

// retryLost asks for all lost VSIs at once, because a switch has turned up.
func (s *Station) retryLost() {
	for _, a := range s.filter(func(a *association) bool { return a.lost }) {
		a.backoff = 0
		s.request(a)
	}
}

// abandon is called when nothing that the switch holds or was asked can be
// relied on any more: the link is down or the edition another.
func (s *Station) abandon(now time.Time, why error) {
	for _, a := range s.filter(func(*association) bool { return true }) {
		a.backoff = 0
		switch {
		case a.want == DeAssociate:
			s.remove(now, a, why)
		case a.have != 0 && !a.lost:
			s.lose(now, a, why)
		default:
			s.request(a)
		}
	}
}

// expire does what is due for the VSIs.
func (s *Station) expire(now time.Time) {
	var keepalive bool
	for _, a := range s.filter(func(a *association) bool {
		return due(now, a.setupBy) || due(now, a.answerBy) || due(now, a.wake)
	}) {
		switch {
		case due(now, a.setupBy):
			s.fail(now, a, s.silence())
		case due(now, a.answerBy):
			s.noAnswer(now, a)
		case due(now, a.wake):
			keepalive = keepalive || a.have != 0
			s.enqueue(a)
		}
	}
	if !keepalive {
		return
	}
	// Keepalives that are nearly due share the ECPDU.
	soon := now.Add(s.timers.Keepalive / 16)
	for _, a := range s.filter(func(a *association) bool {
		return a.have != 0 && a.sent == 0 && due(soon, a.wake)
	}) {
		s.enqueue(a)
	}
}

// filter returns associations in the order of their ids, so that equal input
// gives equal output.
func (s *Station) filter(f func(*association) bool) []*association {
	var l []*association
	for _, a := range s.vsis {
		if f(a) {
			l = append(l, a)
		}
	}
	slices.SortFunc(l, func(a, b *association) int { return a.vsi.ID.compare(b.vsi.ID) })
	return l
}

// silence says why the switch has not answered.
func (s *Station) silence() error {
	if err := s.Ready(); err != nil {
		return err
	}
	if s.neighbor == nil && s.cfg.Edition == EditionAuto {
		return ErrNoEVB
	}
	return ErrNoAnswer
}

func (s *Station) noAnswer(now time.Time, a *association) {
	switch {
	case a.want == DeAssociate:
		s.remove(now, a, s.silence())
	case a.lost:
		s.retry(now, a)
	case a.have == a.want:
		s.lose(now, a, s.silence())
	default:
		s.request(a) // until setupBy
	}
}

// message takes a VDP TLV from the switch.
func (s *Station) message(now time.Time, m *Message) error {
	a := s.vsis[m.VSI.ID]
	if a == nil || !a.vsi.sameType(&m.VSI) {
		return ErrStray
	}
	if !m.Answer(s.edition) && m.Mode == DeAssociate {
		switch {
		case a.want == DeAssociate && a.sent == DeAssociate:
			s.remove(now, a, nil)
		case a.have != 0:
			s.lose(now, a, ErrBridgeDeassociated)
		default:
			// Sent before the switch saw the request that is under way.
			return ErrStray
		}
		return nil
	}
	refusal := m.Mode == DeAssociate && m.Status.Reason() != 0
	if !m.Answer(s.edition) || a.sent == 0 || m.Mode != a.sent && !refusal {
		return ErrStray
	}
	a.status = m.Status
	a.sent, a.answerBy, a.wake = 0, time.Time{}, time.Time{}
	s.dequeue(a) // it may be there for redelivery
	switch {
	case a.want == DeAssociate:
		s.remove(now, a, nil)
	case m.Status.Reason() != 0:
		s.refused(now, a, m.Status)
	case !a.adopt(m.VSI.Filters) && s.edition == Edition2012: // draft peers do not compare filters
		s.fail(now, a, ErrFilterMismatch)
	default:
		s.granted(now, a)
	}
	return nil
}

// adopt takes over the answer's filters if they are the requested ones. VID 0
// lets the bridge choose the VID, and a clear PS bit the priority.
func (a *association) adopt(got []Filter) bool {
	if len(got) != len(a.vsi.Filters) {
		return false
	}
	for i, w := range a.vsi.Filters {
		g := got[i]
		if g.MAC != w.MAC || g.Group != w.Group || w.VID != 0 && g.VID != w.VID ||
			w.PCPValid && (!g.PCPValid || g.PCP != w.PCP) {
			return false
		}
	}
	a.vsi.Filters = got
	return true
}

func (s *Station) granted(now time.Time, a *association) {
	if a.have != a.want || a.announce {
		s.event(EventEstablished, a, a.want, nil)
	} else {
		a.backoff = 0
	}
	a.have, a.lost, a.announce, a.err = a.want, false, false, nil
	a.setupBy = time.Time{}
	a.wake = now.Add(s.timers.Keepalive)
}

func (s *Station) refused(now time.Time, a *association, st Status) {
	err := &RefusedError{Edition: s.edition, Status: st}
	keep := s.edition == Edition2012 && st&StatusKeep != 0
	if s.edition == Edition2012 && st&StatusHard != 0 {
		a.backoff = maxBackoff
	}
	switch {
	case a.lost:
		// A bridge that no longer grants the VID it chose may choose another.
		a.vsi.Filters, a.err = slices.Clone(a.asked), err
		s.retry(now, a)
	case a.have == a.want && keep: // a keepalive; the VSI stays
		s.granted(now, a)
	case a.have == a.want:
		s.lose(now, a, err)
	case a.have != 0 && keep: // no step further, but none back
		s.event(EventFailed, a, a.want, err)
		a.want, a.announce = a.have, false
		s.granted(now, a)
	default:
		s.event(EventFailed, a, a.want, err)
		a.quiet, a.offered = true, false // nothing is left to withdraw
		s.withdraw(now, a)
	}
}
