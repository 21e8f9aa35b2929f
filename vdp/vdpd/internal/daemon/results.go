package daemon

import (
	"container/list"
	"iter"
	"time"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/vdpnl"
)

const (
	// resultTTL is how long the end of a VSI can be read back: libvirt polls
	// for 10 s at most.
	resultTTL = 30 * time.Second

	// maxEnded bounds the ends that are remembered. Further ones push out the
	// oldest.
	maxEnded = 4096
)

// A result is how far libvirt's last request for a VSI has come.
type result struct {
	header   vdpnl.Header
	done     bool
	response uint16
	expires  time.Time // zero while the station has the VSI
}

// results are what RTM_GETLINK tells of a port: every VSI that the station has,
// and for a while those that it had.
type results struct {
	byID   map[vdp.ID]*resultEntry
	latest list.List // of *resultEntry, in the order of their last changes
	ended  list.List // of those that expire, in the order of their ends
}

type resultEntry struct {
	result
	id             vdp.ID
	latest, ending *list.Element // ending is nil while the result does not expire
}

func newResults() results { return results{byID: make(map[vdp.ID]*resultEntry)} }

// get returns a VSI's result, the zero one if there is none.
func (r *results) get(id vdp.ID) result {
	if e := r.byID[id]; e != nil {
		return e.result
	}
	return result{}
}

// put makes a result the latest. Those that expire have to come in the order in
// which they do.
func (r *results) put(id vdp.ID, x result) {
	e := r.byID[id]
	if e == nil {
		e = &resultEntry{id: id}
		e.latest = r.latest.PushFront(e)
		r.byID[id] = e
	} else {
		r.latest.MoveToFront(e.latest)
	}
	if e.ending != nil {
		r.ended.Remove(e.ending)
		e.ending = nil
	}
	e.result = x
	if x.expires.IsZero() {
		return
	}
	e.ending = r.ended.PushBack(e)
	if r.ended.Len() > maxEnded {
		r.drop(r.ended.Front().Value.(*resultEntry).id)
	}
}

func (r *results) drop(id vdp.ID) {
	e := r.byID[id]
	if e == nil {
		return
	}
	delete(r.byID, id)
	r.latest.Remove(e.latest)
	if e.ending != nil {
		r.ended.Remove(e.ending)
	}
}

// next returns when expire has something to do; the zero time means never.
func (r *results) next() time.Time {
	if e := r.ended.Front(); e != nil {
		return e.Value.(*resultEntry).expires
	}
	return time.Time{}
}

// expire drops what is past its time.
func (r *results) expire(now time.Time) {
	for t := r.next(); !t.IsZero() && !now.Before(t); t = r.next() {
		r.drop(r.ended.Front().Value.(*resultEntry).id)
	}
}

// ports are the answer to RTM_GETLINK, the latest change first.
func (r *results) ports() iter.Seq[vdpnl.Port] {
	return func(yield func(vdpnl.Port) bool) {
		for l := r.latest.Front(); l != nil; l = l.Next() {
			e := l.Value.(*resultEntry)
			if !yield(vdpnl.Port{ID: e.id, Done: e.done, Response: e.response}) {
				return
			}
		}
	}
}
