package daemon

import (
	"container/heap"
	"time"
)

// deadlines are the ports that have one, as a heap: the soonest is the first.
type deadlines []*port

func (d deadlines) Len() int           { return len(d) }
func (d deadlines) Less(i, j int) bool { return d[i].due.Before(d[j].due) }

func (d deadlines) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].place, d[j].place = i+1, j+1
}

// Push is for package heap.
func (d *deadlines) Push(x any) {
	p := x.(*port)
	*d = append(*d, p)
	p.place = len(*d)
}

// Pop is for package heap.
func (d *deadlines) Pop() any {
	last := len(*d) - 1
	p := (*d)[last]
	(*d)[last] = nil
	*d = (*d)[:last]
	p.place = 0
	return p
}

// set takes note of a port's deadline; the zero time is none.
func (d *deadlines) set(p *port, due time.Time) {
	in := p.place > 0
	switch {
	case due.IsZero():
		if in {
			heap.Remove(d, p.place-1)
		}
	case !in:
		p.due = due
		heap.Push(d, p)
	case !due.Equal(p.due):
		p.due = due
		heap.Fix(d, p.place-1)
	}
}

// take removes and returns the ports whose deadlines have come.
func (d *deadlines) take(now time.Time) (due []*port) {
	for len(*d) > 0 && !now.Before((*d)[0].due) {
		due = append(due, heap.Pop(d).(*port))
	}
	return due
}

// next returns the soonest deadline, the zero time if there is none.
func (d deadlines) next() time.Time {
	if len(d) == 0 {
		return time.Time{}
	}
	return d[0].due
}
