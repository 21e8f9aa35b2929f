package daemon

import "libvirt-direct/vdp"

// maxDepth bounds the way down from one interface to another: a device on a VLAN of a bond in a
// bridge needs four.
const maxDepth = 8

// A linkTable is what the kernel has, as far as it was told.
type linkTable struct {
	all   map[int]*tableLink
	names map[string]int
	macs  map[vdp.MAC]map[int]struct{}
	vlans map[int]map[int]struct{} // by their master
	round uint64                   // of lists
	whole bool                     // nothing that exists is missing, and nothing is gone
}

type tableLink struct {
	linkInfo
	round uint64 // when it was last told of
}

func newLinkTable() *linkTable {
	return &linkTable{
		all: make(map[int]*tableLink), names: make(map[string]int),
		macs: make(map[vdp.MAC]map[int]struct{}), vlans: make(map[int]map[int]struct{}),
	}
}

// change takes note of a change, and returns what was known before, if anything.
func (t *linkTable) change(l *linkInfo) (old linkInfo) {
	if was := t.all[l.index]; was != nil {
		old = was.linkInfo
		t.forget(&old)
	}
	if l.removed {
		return old
	}
	t.all[l.index] = &tableLink{*l, t.round}
	t.names[l.name] = l.index
	add(t.macs, l.mac, l.index)
	if l.kind == "vlan" && l.master != 0 {
		add(t.vlans, l.master, l.index)
	}
	return old
}

func (t *linkTable) forget(l *linkInfo) {
	delete(t.all, l.index)
	// Another may have its name by now, if its end was missed.
	if t.names[l.name] == l.index {
		delete(t.names, l.name)
	}
	remove(t.macs, l.mac, l.index)
	remove(t.vlans, l.master, l.index)
}

func add[K, E comparable](m map[K]map[E]struct{}, k K, e E) {
	if m[k] == nil {
		m[k] = make(map[E]struct{})
	}
	m[k][e] = struct{}{}
}

func remove[K, E comparable](m map[K]map[E]struct{}, k K, e E) {
	if delete(m[k], e); len(m[k]) == 0 {
		delete(m, k)
	}
}

// begin starts a list.
func (t *linkTable) begin() { t.round++ }

// end ends a list, and returns what was not in it.
func (t *linkTable) end() (gone []linkInfo) {
	for _, l := range t.all {
		if l.round != t.round {
			l.removed = true
			gone = append(gone, l.linkInfo)
		}
	}
	t.whole = true
	return gone
}

// byIndex returns an interface, nil if there is none.
func (t *linkTable) byIndex(index int) *linkInfo {
	if l := t.all[index]; l != nil {
		return &l.linkInfo
	}
	return nil
}

func (t *linkTable) byName(name string) *linkInfo { return t.byIndex(t.names[name]) }

// on reports whether an interface is a port, or leads to it: a macvtap on the port or on its
// VLAN, a TAP in a bridge with one of those, or either on a bond that the port is a slave of.
func (t *linkTable) on(l *linkInfo, port int) bool {
	return t.leads(l.index, port, 0) || t.leads(l.parent, port, 0) || t.leads(l.master, port, 0)
}

// nics returns an interface, or the slaves of a bond.
func (t *linkTable) nics(index int) (nics []linkInfo) {
	l := t.byIndex(index)
	if l == nil {
		return nil
	}
	if l.kind != "bond" {
		return []linkInfo{*l}
	}
	for _, s := range t.all {
		if s.master == index {
			nics = append(nics, s.linkInfo)
		}
	}
	return nics
}

// below returns the names of the hardware that devices with these addresses are or lie on.
func (t *linkTable) below(macs []vdp.MAC) (names []string) {
	for _, m := range macs {
		for i := range t.macs[m] {
			l := t.byIndex(i)
			for n := 0; n < maxDepth && l != nil && l.parent != 0; n++ {
				l = t.byIndex(l.parent)
			}
			if l != nil && l.kind == "" {
				names = append(names, l.name)
			}
		}
	}
	return names
}

func (t *linkTable) leads(index, port, depth int) bool {
	l := t.byIndex(index)
	if l == nil || depth > maxDepth {
		return false
	}
	if index == port {
		return true
	}
	if l.kind == "vlan" {
		return t.leads(l.parent, port, depth+1)
	}
	// The port below, in a bond or a bridge.
	for p, n := t.byIndex(port), 0; p != nil && p.master != 0 && n < maxDepth; p, n = t.byIndex(p.master), n+1 {
		if p.master == index {
			return true
		}
	}
	for v := range t.vlans[index] {
		if t.leads(t.all[v].parent, port, depth+1) {
			return true
		}
	}
	return false
}
