package daemon

import "time"

// deadlines are those of ports, each of which has one or none, as a heap: the
// soonest is the first.
type deadlines []deadline

type deadline struct {
	at time.Time
	p  *port
}

// set takes note of a port's deadline; the zero time is none.
func (d *deadlines) set(p *port, at time.Time) {
	h, i, x := *d, p.place-1, deadline{at, p}
	switch {
	case at.IsZero() && i < 0:
	case at.IsZero():
		p.place = 0
		last := h[len(h)-1]
		h[len(h)-1] = deadline{}
		if *d = h[:len(h)-1]; last.p != p {
			d.move(i, last)
		}
	case i < 0:
		*d = append(h, x)
		d.up(len(h), x)
	default:
		d.move(i, x)
	}
}

// move puts x where it belongs, from the place i that is free.
func (d deadlines) move(i int, x deadline) {
	if i > 0 && x.at.Before(d[(i-1)/2].at) {
		d.up(i, x)
	} else {
		d.down(i, x)
	}
}

func (d deadlines) up(i int, x deadline) {
	for i > 0 {
		parent := (i - 1) / 2
		if !x.at.Before(d[parent].at) {
			break
		}
		d.put(i, d[parent])
		i = parent
	}
	d.put(i, x)
}

func (d deadlines) down(i int, x deadline) {
	for {
		child := 2*i + 1
		if child >= len(d) {
			break
		}
		if child+1 < len(d) && d[child+1].at.Before(d[child].at) {
			child++
		}
		if !d[child].at.Before(x.at) {
			break
		}
		d.put(i, d[child])
		i = child
	}
	d.put(i, x)
}

func (d deadlines) put(i int, x deadline) {
	d[i] = x
	x.p.place = i + 1
}

// next returns the soonest deadline and its port; there is none if that is nil.
func (d deadlines) next() (time.Time, *port) {
	if len(d) == 0 {
		return time.Time{}, nil
	}
	return d[0].at, d[0].p
}
