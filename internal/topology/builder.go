package topology

import (
	"cmp"
	"fmt"
	"slices"

	"libvirt-direct/internal/graph"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/ovs"
)

// Nodes have these columns, from the right.
const (
	columnSwitch = 1
	columnNIC    = 2 // and the VSIs, which stand beside the NIC as the ways to the switch
	// From the left, behind the guests:
	columnTap = 1
)

// builder makes a topology's graph.
type builder struct {
	*Topology
	links   []link.Link // by name
	byName  map[string]link.Link
	byIndex map[int]link.Link
	nodes   map[string]*graph.Node
	order   []string
	edges   []graph.Edge
	// macs are the guests' addresses by the node of the device that has them.
	macs map[string]string
}

// Graph draws the topology: guests, what is held for others, uplinks and their switches,
// taps that are nobody's, and whatever these stand on. The same topology gives the same
// graph; the topology is left as it is.
func (t *Topology) Graph() graph.Graph {
	b := &builder{
		Topology: t, byName: map[string]link.Link{}, byIndex: map[int]link.Link{},
		nodes: map[string]*graph.Node{}, macs: map[string]string{},
	}
	b.links = slices.SortedFunc(slices.Values(t.Links), func(x, y link.Link) int { return cmp.Compare(x.Name, y.Name) })
	for _, l := range b.links {
		b.byName[l.Name], b.byIndex[l.Index] = l, l
	}
	for _, g := range t.Guests {
		b.guest(g)
	}
	for _, j := range t.Journals {
		b.journal(j)
	}
	for _, l := range b.links {
		b.unasked(l)
	}
	for _, pf := range t.PFs {
		if l, there := b.byName[pf.Name]; there {
			b.link(l)
		}
	}
	b.stations()
	g := graph.Graph{Edges: b.edges}
	for _, id := range b.order {
		g.Nodes = append(g.Nodes, *b.nodes[id])
	}
	return g
}

// add makes a node, unless it is there.
func (b *builder) add(n graph.Node) (id string, isNew bool) {
	if _, there := b.nodes[n.ID]; there {
		return n.ID, false
	}
	b.nodes[n.ID] = &n
	b.order = append(b.order, n.ID)
	return n.ID, true
}

func (b *builder) edge(from, to string) {
	if e := (graph.Edge{From: from, To: to}); !slices.Contains(b.edges, e) {
		b.edges = append(b.edges, e)
	}
}

func guestID(uuid string) string { return "guest " + uuid }

// guest adds a running domain and what its NICs stand on.
func (b *builder) guest(g Guest) {
	id, _ := b.add(graph.Node{ID: guestID(g.UUID), Class: graph.Guest, Title: g.Name})
	for i, n := range g.NICs {
		below := b.nic(g.UUID, i, n)
		b.edge(id, below)
		b.macs[below] = n.MAC
		lines := &b.nodes[below].Lines
		*lines = slices.Insert(*lines, 0, n.MAC)
	}
}

// nic adds what a NIC is on the host.
func (b *builder) nic(uuid string, index int, n NIC) string {
	if l, there := b.byName[n.Target]; there && n.Target != "" {
		return b.link(l)
	}
	if n.PCI != "" {
		if id, found := b.vfAt(n.PCI); found {
			return id
		}
	}
	for _, h := range b.holdings(uuid) { // libvirt does not show what it took from a pool
		if h.VF == "" || h.NIC != n.MAC && h.NIC != n.ID {
			continue
		}
		// Of two NICs of one MAC each has its own.
		if id, found := b.vfAt(h.VF); found && b.macs[id] == "" {
			return id
		}
	}
	node := graph.Node{ID: fmt.Sprintf("nic %s %d", uuid, index), Class: graph.Other, Title: "type '" + n.Type + "'"}
	if n.Target != "" && n.Type != "user" && n.Type != "vhostuser" {
		node.Title, node.Lines, node.Fault = n.Target, []string{"gone"}, true
	}
	id, _ := b.add(node)
	return id
}

// holdings are what is held for a guest.
func (t *Topology) holdings(uuid string) []Holding {
	i := slices.IndexFunc(t.Journals, func(j Journal) bool { return j.UUID == uuid })
	if i < 0 {
		return nil
	}
	return t.Journals[i].Holdings
}

// journal adds what is held for a guest that does not run, and what of a running one's is
// not as the journal has it.
func (b *builder) journal(j Journal) {
	guest := guestID(j.UUID)
	_, running := b.nodes[guest]
	if !running {
		n := graph.Node{ID: guest, Class: graph.Guest, Title: cmp.Or(j.Name, j.UUID)}
		if b.AllGuests {
			n.Lines, n.Fault = []string{"does not run: libvirt-direct gc"}, true
		}
		if j.Error != "" {
			n.Lines, n.Fault = append(n.Lines, j.Error), true
		}
		b.add(n)
	}
	for _, h := range j.Holdings {
		id := b.holding(h)
		if id == "" {
			continue
		}
		if !running {
			b.edge(guest, id)
		}
		n := b.nodes[id]
		if h.Profile != "" {
			n.Lines = append(n.Lines, "port profile "+h.Profile)
		}
		if h.Difference != "" && !slices.Contains(n.Lines, h.Difference) {
			n.Lines, n.Fault = append(n.Lines, h.Difference), true
		}
	}
}

// holding adds what is held, gone or not, and returns its node; "" for a virtual function
// that is not there.
func (b *builder) holding(h Holding) string {
	if h.VF != "" {
		id, _ := b.vfAt(h.VF)
		return id
	}
	if l, there := b.byName[h.Device]; there {
		return b.link(l)
	}
	id, _ := b.add(graph.Node{ID: deviceID(h.Device), Class: h.Class, Title: h.Device, Fault: true})
	return id
}

// unasked adds a device that need not be any guest's, if it is worth seeing: an uplink, a
// VLAN sub-interface that libvirt-direct has made, or a tap.
func (b *builder) unasked(l link.Link) {
	_, uplink := b.Uplinks[l.Name]
	internal := slices.ContainsFunc(b.VirtualSwitches, func(s ovs.Bridge) bool { return s.Name == l.Name })
	// A tap that is down and of nobody is no guest's: Open vSwitch keeps one.
	tap := isTap(l) && !internal && (l.Up || b.own(l))
	if !tap && !uplink && (l.Kind != "vlan" || !b.own(l)) {
		return
	}
	_, known := b.nodes[deviceID(l.Name)]
	n := b.nodes[b.link(l)]
	if tap && !known && b.AllGuests {
		n.Lines = append(n.Lines, "of no guest of this libvirt")
	}
}
