package vdp

import (
	"container/heap"
	"time"
)

// dueHeap has the associations that wait for a moment, the next one first.
type dueHeap []*association

// next returns the first moment, zero for none.
func (h dueHeap) next() time.Time {
	if len(h) == 0 {
		return time.Time{}
	}
	return h[0].due
}

// until calls f with what is due by t, in no order. f must not change the heap.
func (h dueHeap) until(t time.Time, f func(*association)) { h.walk(0, t, f) }

func (h dueHeap) walk(i int, t time.Time, f func(*association)) {
	if i >= len(h) || h[i].due.After(t) {
		return
	}
	f(h[i])
	h.walk(2*i+1, t, f)
	h.walk(2*i+2, t, f)
}

// plan puts an association where its deadlines want it.
func (h *dueHeap) plan(a *association) {
	var due time.Time
	for _, t := range [...]time.Time{a.setupBy, a.answerBy, a.wake} {
		if !t.IsZero() && (due.IsZero() || t.Before(due)) {
			due = t
		}
	}
	was := a.place
	switch a.due = due; {
	case !due.IsZero() && was == 0:
		heap.Push(h, a)
	case !due.IsZero():
		heap.Fix(h, was-1)
	case was != 0:
		heap.Remove(h, was-1)
	}
}

// drop takes an association out.
func (h *dueHeap) drop(a *association) {
	if a.place != 0 {
		heap.Remove(h, a.place-1)
	}
}

// Len, Less, Swap, Push and Pop are heap.Interface.
func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i+1, j+1
}

// Push is heap.Interface.
func (h *dueHeap) Push(x any) {
	a := x.(*association)
	*h = append(*h, a)
	a.place = len(*h)
}

// Pop is heap.Interface.
func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	a := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	a.place = 0
	return a
}
