package vdptest

import (
	"math/rand/v2"
	"time"

	"libvirt-direct/vdp"
)

// An owner is who wants VSIs: libvirt and the daemon, which keeps them across a restart.
type owner struct {
	slots       [5]slot
	supervision time.Duration // the longest that the switch has had
}

// A slot is one VSI.
type slot struct {
	id     vdp.ID
	want   vdp.Mode // 0: not wanted
	vsi    vdp.VSI
	kept   vdp.Mode // as it is in the daemon's state file
	stored vdp.VSI
	ending bool      // the owner has asked for its end, and has not heard of it
	since  time.Time // when want, or what the switch does with it, last changed

	reply  Reply
	failed error // why the last request failed
}

func (o *owner) init() {
	for i := range o.slots {
		o.slots[i] = slot{id: vdp.UUID([16]byte{0xfa, 15: byte(i + 1)}), since: epoch}
	}
}

func (o *owner) slot(id vdp.ID) *slot {
	for i := range o.slots {
		if o.slots[i].id == id {
			return &o.slots[i]
		}
	}
	return nil
}

// takes reports whether the switch grants it.
func (s *slot) takes(p *play) bool {
	groups := p.br.Edition == vdp.Edition2012 && p.br.EVB.BridgeGroupID && p.cfg.EVB.GroupIDs
	return s.reply == (Reply{}) && (groups || s.vsi.FilterFormat != vdp.FilterGroupMACVID)
}

// answer is the switch's decision.
func (o *owner) answer(m vdp.Message) Reply {
	s := o.slot(m.VSI.ID)
	if s == nil || m.Mode == vdp.DeAssociate {
		return Reply{}
	}
	r := s.reply
	r.VID = 7
	return r
}

// variant is one of the parameter sets that a VSI may have.
func (s *slot) variant(n int, group bool) vdp.VSI {
	v := vdp.VSI{
		ID: s.id, Manager: vdp.ManagerID{byte(12 + n%2)}, TypeID: 0x123456, TypeVersion: uint8(n), FilterFormat: vdp.FilterMACVID,
		Filters: []vdp.Filter{{MAC: vdp.MAC{0x52, 0x54, 0, 0, byte(n), s.id.Octets[15]}, VID: 100}},
	}
	switch {
	case n == 2:
		v.Filters[0].VID = 0
	case n == 3 && group:
		v.FilterFormat, v.Filters[0].Group = vdp.FilterGroupMACVID, 5000
	}
	return v
}

// command asks the station for something.
func (o *owner) command(p *play, r *rand.Rand) {
	s := &o.slots[r.IntN(len(o.slots))]
	what, n := r.IntN(8), r.IntN(8)
	if p.st == nil {
		return
	}
	if what < 2 {
		s.end(p)
		return
	}
	v, m := s.vsi, vdp.Associate
	if s.want == 0 || n < 4 {
		v = s.variant(n%4, p.tape.Head[7]&4 != 0)
	}
	ask := p.st.Associate
	switch what {
	case 2:
		m, ask = vdp.PreAssociate, p.st.PreAssociate
	case 3:
		m, ask = vdp.PreAssociateRR, p.st.PreAssociateRR
	}
	out, err := ask(p.now, v)
	p.tell("owner asks for %v of %d.%d: %v", m, s.id.Octets[15], v.TypeVersion, err)
	if err == nil {
		s.set(p, m, v)
		s.ending = false
	}
	p.do(out)
}

func (s *slot) set(p *play, m vdp.Mode, v vdp.VSI) {
	s.want, s.vsi, s.since, s.failed = m, v, p.now, nil
}

// ask asks for the association of a VSI that is not wanted so far.
func (s *slot) ask(p *play, variant int) (asked bool) {
	v := s.variant(variant, false)
	out, err := p.st.Associate(p.now, v)
	p.tell("owner asks for %v of %d.%d: %v", vdp.Associate, s.id.Octets[15], v.TypeVersion, err)
	if err == nil {
		s.set(p, vdp.Associate, v)
		s.ending = false
	}
	p.do(out)
	return err == nil
}

// end de-associates.
func (s *slot) end(p *play) {
	out, err := p.st.DeAssociate(p.now, s.id)
	p.tell("owner de-associates %d: %v", s.id.Octets[15], err)
	if err == nil {
		s.set(p, 0, vdp.VSI{})
		s.ending = true
	}
	p.do(out)
}

func (s *slot) established(p *play) bool {
	st, _ := p.st.VSI(s.id)
	return s.want != 0 && st.State == vdp.StateEstablished && st.Have == s.want && p.br.Mode(s.id) == s.want
}

// event is what the daemon and libvirt make of an event.
func (o *owner) event(p *play, e *vdp.Event) {
	s := o.slot(e.VSI.ID)
	if s == nil {
		p.violated("events are about what the owner asked for", "%v of %v", e.Type, e.VSI.ID)
		return
	}
	same := s.want != 0 && s.vsi.Manager == e.VSI.Manager && s.vsi.TypeVersion == e.VSI.TypeVersion
	switch e.Type {
	case vdp.EventEstablished:
		if !same || e.Mode > s.want {
			p.violated("events are about what the owner asked for", "established %v of %v, wanted is %v of %v", e.Mode, e.VSI, s.want, s.vsi)
		}
		s.kept, s.stored = e.Mode, e.VSI
	case vdp.EventFailed:
		st, ok := p.st.VSI(s.id)
		if !ok || st.Have == 0 {
			s.kept = 0
		}
		switch {
		case !same:
		case ok && st.Have != 0 && st.State == vdp.StateEstablished:
			s.set(p, st.Have, s.vsi)
		default:
			if s.takes(p) && s.since.Sub(latest(p.disturbed, p.terms)) > p.bound() {
				p.violated("what the switch takes does not fail", "%d: %v", s.id.Octets[15], e.Err)
			}
			s.set(p, 0, vdp.VSI{})
			s.failed = e.Err
		}
	case vdp.EventLost:
		if s.want == 0 {
			p.violated("events are about what the owner asked for", "lost %v of %v, which is not wanted", e.Mode, e.VSI)
		}
		if s.takes(p) && (p.last || p.now.Sub(latest(s.since, p.disturbed, p.terms)) > p.bound()) {
			p.violated("what is established stays so", "lost %d: %v", s.id.Octets[15], e.Err)
		}
	case vdp.EventRemoved:
		s.kept, s.ending = 0, false
	}
}

// restore gives the station what the daemon has kept.
func (o *owner) restore(p *play) (out vdp.Output) {
	for i := range o.slots {
		s := &o.slots[i]
		if s.want != 0 || s.kept != 0 {
			s.set(p, s.kept, s.stored)
		}
		if s.kept == 0 {
			s.ending = false
			continue
		}
		more, err := p.st.Restore(p.now, s.stored, s.kept)
		p.tell("restored %v of %d.%d: %v", s.kept, s.id.Octets[15], s.stored.TypeVersion, err)
		if err != nil {
			s.kept = 0
			s.set(p, 0, vdp.VSI{})
		}
		out.Frames = append(out.Frames, more.Frames...)
		out.Events = append(out.Events, more.Events...)
	}
	return out
}

// again repeats the wish for an end that the restart has swallowed.
func (o *owner) again(p *play) {
	for i := range o.slots {
		s := &o.slots[i]
		if !s.ending {
			continue
		}
		out, err := p.st.DeAssociate(p.now, s.id)
		p.tell("owner de-associates %d once more: %v", s.id.Octets[15], err)
		s.set(p, 0, vdp.VSI{})
		p.do(out)
	}
}

// policy changes what the switch thinks of a VSI.
func (o *owner) policy(p *play, r *rand.Rand) {
	s := &o.slots[r.IntN(len(o.slots))]
	s.since = p.now
	s.reply = Reply{}
	switch r.IntN(6) {
	case 0:
		s.reply.Status = vdp.ReasonNoResources
	case 1:
		s.reply.Status = vdp.ReasonNoManager | vdp.StatusKeep
	case 2:
		s.reply.Status = vdp.ReasonInvalidFormat | vdp.StatusHard
	case 3:
		s.reply.DeAssociate = true
	}
	p.tell("the switch's answer about %d is %+v", s.id.Octets[15], s.reply)
}

// check compares what the owner wants with what station and switch have.
func (o *owner) check(p *play) {
	bound, release := p.bound(), p.release()
	for i := range o.slots {
		s := &o.slots[i]
		unwanted := p.now.Sub(latest(s.since, p.terms))
		calm := p.now.Sub(latest(s.since, p.disturbed))
		st, ok := p.st.VSI(s.id)
		switch {
		case s.want != 0 && !ok:
			p.violated("what is wanted is held", "%d, wanted since %v", s.id.Octets[15], s.since.Sub(epoch))
		case s.want == 0 && ok && unwanted > release:
			p.violated("what nobody wants is gone", "the station holds %d %v, not wanted since %v", s.id.Octets[15], st.State, s.since.Sub(epoch))
		case s.want == 0 && p.br.Mode(s.id) != 0 && min(unwanted, calm) > release:
			p.violated("what nobody wants is gone", "the switch holds %d, not wanted since %v", s.id.Octets[15], s.since.Sub(epoch))
		case s.want != 0 && s.takes(p) && calm > bound:
			if st.State != vdp.StateEstablished || st.Have != s.want || p.br.Mode(s.id) != s.want {
				p.violated("what is wanted is associated in time", "%d wanted %v since %v, last trouble %v, bound %v: station %v %v %v, switch %v", s.id.Octets[15], s.want,
					s.since.Sub(epoch), p.disturbed.Sub(epoch), bound, st.State, st.Have, st.Err, p.br.Mode(s.id))
			}
		}
	}
}
