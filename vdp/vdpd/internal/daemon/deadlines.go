package daemon

import (
	"container/heap"
	"time"
)

// deadlines are those of ports, each of which has one or none, as a heap: the
// soonest is the first.
type deadlines []deadline

type deadline struct {
	at time.Time
	p  *port
}

// set takes note of a port's deadline; the zero time is none.
func (d *deadlines) set(p *port, at time.Time) {
	switch i := p.place - 1; {
	case at.IsZero() && i < 0:
	case at.IsZero():
		heap.Remove(d, i)
	case i < 0:
		heap.Push(d, deadline{at, p})
	default:
		(*d)[i].at = at
		heap.Fix(d, i)
	}
}

// next returns the soonest deadline and its port; there is none if that is nil.
func (d deadlines) next() (time.Time, *port) {
	if len(d) == 0 {
		return time.Time{}, nil
	}
	return d[0].at, d[0].p
}

// Len, Less, Swap, Push and Pop are heap.Interface.
func (d deadlines) Len() int           { return len(d) }
func (d deadlines) Less(i, j int) bool { return d[i].at.Before(d[j].at) }
func (d deadlines) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].p.place, d[j].p.place = i+1, j+1
}

// Push is heap.Interface.
func (d *deadlines) Push(x any) {
	*d = append(*d, x.(deadline))
	(*d)[len(*d)-1].p.place = len(*d)
}

// Pop is heap.Interface.
func (d *deadlines) Pop() any {
	last := len(*d) - 1
	x := (*d)[last]
	(*d)[last] = deadline{}
	*d = (*d)[:last]
	x.p.place = 0
	return x
}
