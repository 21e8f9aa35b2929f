package vdp

import (
	"container/list"
	"maps"
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

	queued *list.Element // in Station.queue
	sent   Mode          // request without an answer; 0 for none
	taken  bool          // the switch has acknowledged the owner's request
	// An answer to a de-association that had none may still be under way until then.
	deafTo time.Time

	setupAt   time.Time     // when the owner asked
	setupBy   time.Time     // when the owner's request has failed
	firstAt   time.Time     // when that went out first
	answerBy  time.Time     // when the last one has failed
	askedAt   time.Time     // when that went out
	wake      time.Time     // when to send: keepalive, retry or redelivery
	keepalive bool          // wake is for a keepalive
	grantedAt time.Time     // the last answer
	backoff   time.Duration // before the next retry

	due   time.Time // the first of setupBy, answerBy and wake
	place int       // in Station.due, from 1; 0 for none
}

// A command waits for the de-association of a VSI with the same id.
type command struct {
	vsi  VSI
	mode Mode
}

func (a *association) report() VSIStatus {
	return VSIStatus{VSI: a.vsi.clone(), Mode: a.want, Have: a.have, State: a.state(), Status: a.status, Err: a.err}
}

func (a *association) state() State {
	switch {
	case a.want == DeAssociate:
		return StateWithdrawing
	case a.have == a.want:
		return StateEstablished
	case a.lost:
		return StateLost
	}
	return StateRequesting
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
	if v.FilterFormat.hasGroup() && !s.groups && s.neighbor != nil {
		return ErrNoGroups
	}
	return s.admitLost(v)
}

// admitLost is admit for a VSI that may wait for a switch that understands it.
func (s *Station) admitLost(v *VSI) error {
	if err := v.Validate(s.cfg.Edition); err != nil {
		return err
	}
	if v.FilterFormat.hasGroup() && !s.cfg.EVB.GroupIDs {
		return ErrNoGroups
	}
	if s.vsis[v.ID] == nil && len(s.vsis) >= s.cfg.MaxVSIs {
		return ErrTooMany
	}
	return nil
}

// sendable checks a message against what the switch takes.
func (s *Station) sendable(m *Message) error {
	if err := m.validate(s.edition); err != nil {
		return err
	}
	if m.VSI.FilterFormat.hasGroup() && !s.groups {
		return ErrNoGroups
	}
	return nil
}

// unsendable ends a request that the switch would not understand. A VSI that was
// understood before waits for a switch that does.
func (s *Station) unsendable(now time.Time, a *association, err error) {
	a.backoff = max(a.backoff, minBackoff)
	switch {
	case a.want == DeAssociate:
		s.remove(now, a, err)
	case a.lost:
		a.err = err
		s.retry(now, a)
	case a.have != 0:
		s.lose(now, a, err)
	default:
		s.fail(now, a, err)
	}
}

func (s *Station) command(now time.Time, v VSI, m Mode) (Output, error) {
	if err := s.admit(&v); err != nil {
		return Output{}, err
	}
	a := s.vsis[v.ID]
	switch {
	case a == nil:
		s.start(now, command{v.clone(), m}, time.Time{})
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
			a.setupAt, a.firstAt, a.taken = now, time.Time{}, false
			s.limit(a)
		}
		s.request(a)
	}
	return s.finish(now), nil
}

func (s *Station) start(now time.Time, c command, deafTo time.Time) {
	a := &association{vsi: c.vsi, asked: slices.Clone(c.vsi.Filters), want: c.mode, setupAt: now, deafTo: deafTo}
	s.limit(a)
	s.begin(a)
}

func (s *Station) begin(a *association) {
	s.vsis[a.vsi.ID] = a
	s.request(a)
}

// request lets a.want go out, as soon as ECP is free and the switch known. An
// answer to the same request that went out before counts for it: the switch may
// be slow.
func (s *Station) request(a *association) {
	if a.sent != a.want {
		a.sent = 0
	}
	a.answerBy = time.Time{}
	s.enqueue(a)
}

func (s *Station) enqueue(a *association) {
	a.wake, a.keepalive = time.Time{}, false
	if a.queued == nil {
		a.queued = s.queue.PushBack(a)
	}
	s.due.plan(a)
}

func (s *Station) dequeue(a *association) {
	if a.queued != nil {
		s.queue.Remove(a.queued)
		a.queued = nil
	}
}

// offer notes that a.want goes out now.
func (s *Station) offer(now time.Time, a *association) {
	a.sent, a.offered = a.want, true
	if a.answerBy.IsZero() {
		a.askedAt, a.answerBy = now, now.Add(s.answerTime(a))
	}
	if a.firstAt.IsZero() {
		a.firstAt = now
	}
	switch {
	case a.want == DeAssociate:
		a.setupBy = time.Time{}
	case a.have == a.want:
		// Whether or not its answers arrive, the switch is to hear of the VSI.
		a.wake = now.Add(s.timers.Keepalive)
	}
	s.due.plan(a)
}

// acknowledged gives the switch time to ask its VSI manager.
func (s *Station) acknowledged(a *association) {
	if a.sent != 0 && a.sent == a.want && s.vsis[a.vsi.ID] == a {
		a.taken = true
		if !a.setupBy.IsZero() {
			s.limit(a)
		}
		s.due.plan(a)
	}
}

// limit sets the end of the owner's request: as late as the switch may need, once it has
// acknowledged it.
func (s *Station) limit(a *association) {
	d := s.cfg.SetupTimeout
	if a.want == DeAssociate {
		d = max(d, s.timers.Answer)
	}
	a.setupBy = a.setupAt.Add(d)
	if t := a.firstAt.Add(s.timers.Answer); a.taken && t.After(a.setupBy) {
		a.setupBy = t
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
	if !s.link || s.edition == EditionAuto {
		s.remove(now, a, s.Ready())
		return
	}
	// For the switch to be known again, and ECP to be free.
	a.setupAt = now
	s.limit(a)
	s.request(a)
}

// remove ends a withdrawal and starts what waited for it.
func (s *Station) remove(now time.Time, a *association, err error) {
	s.dequeue(a)
	s.due.drop(a)
	delete(s.vsis, a.vsi.ID)
	if !a.quiet {
		s.event(EventRemoved, a, DeAssociate, err)
	}
	if a.next == nil {
		return
	}
	var deafTo time.Time
	if err != nil && a.sent == DeAssociate {
		deafTo = now.Add(s.timers.Answer)
	}
	s.start(now, *a.next, deafTo)
}

// fail reports that the owner's request was not fulfilled and forgets the VSI.
// If the switch may hold it, or grant it late, it is withdrawn.
func (s *Station) fail(now time.Time, a *association, err error) {
	s.event(EventFailed, a, a.want, err)
	a.quiet, a.have, a.err = true, 0, err
	if s.sendable(&Message{Mode: DeAssociate, VSI: a.vsi}) != nil {
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
	a.answerBy, a.wake, a.keepalive = time.Time{}, now.Add(delay), false
	s.due.plan(a)
}

// requestAll asks for everything at once, because a switch has turned up that may
// know of nothing.
func (s *Station) requestAll(now time.Time) {
	for _, a := range s.all() {
		a.backoff = 0
		if a.want == DeAssociate { // it may leave again before we have agreed
			a.setupAt = now
			s.limit(a)
		}
		s.request(a)
	}
}

// abandon is called when nothing that the switch holds or was asked can be
// relied on any more: the link is down or the edition another.
func (s *Station) abandon(now time.Time, why error) {
	for _, a := range s.all() {
		a.backoff, a.sent = 0, 0
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
	keepalives := false
	for _, a := range s.dueBy(now) {
		switch {
		case due(now, a.setupBy) && a.want == DeAssociate:
			s.remove(now, a, s.silence())
		case due(now, a.setupBy):
			s.fail(now, a, s.silence())
		case due(now, a.answerBy):
			s.noAnswer(now, a)
		default:
			keepalives = keepalives || a.keepalive
			s.enqueue(a)
		}
	}
	if !keepalives {
		return
	}
	// Keepalives that are nearly due share the ECPDU.
	for _, a := range s.dueBy(now.Add(s.timers.Keepalive / 16)) {
		if a.keepalive {
			s.enqueue(a)
		}
	}
}

// dueBy returns the associations that are due by t.
func (s *Station) dueBy(t time.Time) []*association {
	var l []*association
	s.due.until(t, func(a *association) { l = append(l, a) })
	return byID(l)
}

func (s *Station) all() []*association { return byID(slices.Collect(maps.Values(s.vsis))) }

// byID sorts associations, so that equal input gives equal output.
func byID(l []*association) []*association {
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
	a.backoff = min(a.backoff, s.timers.Keepalive) // the answers may be what is lost
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
		case a.have != 0 && a.want != DeAssociate:
			a.sent = 0
			s.lose(now, a, ErrBridgeDeassociated)
		default:
			// Sent before the switch saw the request that is under way, or will be.
			return ErrStray
		}
		return nil
	}
	ends := m.Mode == DeAssociate
	switch {
	case !m.Answer(s.edition), ends && a.sent != DeAssociate && now.Before(a.deafTo):
		return ErrStray
	case ends && a.sent == 0 && a.have != 0 && a.want != DeAssociate:
		// Somebody has spoken to the switch in our name.
		s.lose(now, a, ErrBridgeDeassociated)
		return nil
	case a.sent == 0, m.Mode != a.sent && !ends:
		return ErrStray
	}
	a.status = m.Status
	refused := m.Mode != a.sent || m.Status.Reason() != 0
	a.sent, a.answerBy, a.wake, a.keepalive = 0, time.Time{}, time.Time{}, false
	s.dequeue(a) // it may be there for redelivery
	s.due.plan(a)
	switch {
	case a.want == DeAssociate:
		s.remove(now, a, nil)
	case refused:
		s.refused(now, a, m)
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
	a.grantedAt, a.wake, a.keepalive = now, now.Add(s.timers.Keepalive), true
	s.due.plan(a)
}

func (s *Station) refused(now time.Time, a *association, m *Message) {
	st := m.Status
	var err error = &RefusedError{Edition: s.edition, Status: st}
	if st.Reason() == 0 {
		err = ErrBridgeDeassociated // its answer is De-associate, without a reason
	}
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
