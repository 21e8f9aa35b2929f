package vdptest

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"libvirt-direct/vdp"
)

// A view is everything that can be seen of a station.
type view struct {
	has       bool
	neighbor  vdp.Neighbor
	edition   vdp.Edition
	timers    vdp.Timers
	ready     error
	next      time.Time
	vsis      []vdp.VSIStatus
	conflicts []vdp.Neighbor
}

func (p *play) view() (v view) {
	v.neighbor, v.has = p.st.Neighbor()
	v.edition, v.timers, v.ready, v.next = p.st.Edition(), p.st.Timers(), p.st.Ready(), p.st.Next()
	v.vsis, v.conflicts = p.st.VSIs(), p.st.Conflicts()
	return v
}

func (v *view) equal(w *view) bool {
	return v.has == w.has && sameNeighbor(&v.neighbor, &w.neighbor) && v.edition == w.edition && v.timers == w.timers &&
		v.ready == w.ready && v.next.Equal(w.next) && slices.EqualFunc(v.vsis, w.vsis, sameVSI) &&
		slices.EqualFunc(v.conflicts, w.conflicts, func(a, b vdp.Neighbor) bool { return sameNeighbor(&a, &b) })
}

func sameVSI(a, b vdp.VSIStatus) bool {
	return a.VSI.Equal(&b.VSI) && a.Mode == b.Mode && a.Have == b.Have && a.State == b.State && a.Status == b.Status && a.Err == b.Err
}

func sameNeighbor(a, b *vdp.Neighbor) bool {
	return a.Edition == b.Edition && a.Source == b.Source && bytes.Equal(a.Chassis, b.Chassis) && bytes.Equal(a.Port, b.Port) &&
		same(a.EVB, b.EVB) && same(a.Draft, b.Draft) && a.Group == b.Group && a.Until.Equal(b.Until)
}

func same[T comparable](a, b *T) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

func (v view) String() string {
	s := fmt.Sprintf("neighbour %v %s, edition %v, timers %v, ready %v, next %v, vsis", v.has, neighbor(&v.neighbor), v.edition, v.timers, v.ready, v.next.Sub(epoch))
	for _, v := range v.vsis {
		s += fmt.Sprintf(" %v", v)
	}
	for _, c := range v.conflicts {
		s += ", conflict " + neighbor(&c)
	}
	return s
}

func neighbor(n *vdp.Neighbor) string {
	s := fmt.Sprintf("%v %v %x %x", n.Edition, n.Source, n.Chassis, n.Port)
	if n.EVB != nil {
		s += fmt.Sprintf(" %v", *n.EVB)
	}
	if n.Draft != nil {
		s += fmt.Sprintf(" %v", *n.Draft)
	}
	return s + fmt.Sprintf(" to %v", n.Group)
}

func (p *play) isSwitch(n *vdp.Neighbor) bool {
	return string(n.Chassis) == string(p.br.chassis()) && string(n.Port) == string(p.br.port()) && n.Group == vdp.NearestCustomerBridge
}
