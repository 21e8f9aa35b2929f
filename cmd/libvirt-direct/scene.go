package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"libvirt-direct/hooks"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/graph"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/ovs"
	"libvirt-direct/vdp/control"
	"libvirt-direct/xmlfilter"
)

// scene is what graph draws: the host as libvirt, the kernel, the journal and vdpd
// have it.
type scene struct {
	guests   []*xmlfilter.Domain // as they run
	libvirt  bool                // guests has all that run
	links    []link.Link
	pfs      []pfStatus
	held     []hooks.DomainStatus
	uplinks  map[string]string // names from the configuration, by device
	bridges  []ovs.Bridge
	stations []control.Uplink
	vsis     []control.VSIStatus
}

// Nodes have these columns, from the right.
const (
	columnSwitch = 1
	columnNIC    = 2 // and the VSIs, which stand beside the NIC as the ways to the switch
	// From the left, behind the guests:
	columnTap = 1
)

// painter makes a scene's graph.
type painter struct {
	*scene
	byName  map[string]link.Link
	byIndex map[int]link.Link
	nodes   map[string]*graph.Node
	order   []string
	edges   []graph.Edge
	// macs are the guests' addresses by the node of the device that has them.
	macs map[string]string
}

// graph is pure: the same scene gives the same graph.
func (s *scene) graph() graph.Graph {
	p := &painter{
		scene: s, byName: map[string]link.Link{}, byIndex: map[int]link.Link{},
		nodes: map[string]*graph.Node{}, macs: map[string]string{},
	}
	slices.SortFunc(s.links, func(a, b link.Link) int { return cmp.Compare(a.Name, b.Name) })
	for _, l := range s.links {
		p.byName[l.Name], p.byIndex[l.Index] = l, l
	}
	for _, d := range s.guests {
		p.guest(d)
	}
	p.journal()
	for _, l := range s.links {
		_, uplink := s.uplinks[l.Name]
		ours := l.Kind == "vlan" && strings.HasPrefix(l.Alias, step.Alias)
		// A tap that is down and of nobody is no guest's: Open vSwitch keeps one.
		idle := !l.Up && !strings.HasPrefix(l.Alias, step.Alias)
		internal := slices.ContainsFunc(s.bridges, func(b ovs.Bridge) bool { return b.Name == l.Name })
		if tap := isTap(l) && !internal && !idle; tap || uplink || ours {
			_, known := p.nodes[linkID(l)]
			n := p.node(p.link(l))
			if tap && !known && s.libvirt {
				n.Lines = append(n.Lines, "of no guest of this libvirt")
			}
		}
	}
	for _, pf := range s.pfs {
		if l, there := p.byName[pf.Name]; there {
			p.link(l)
		}
	}
	p.switches()
	g := graph.Graph{Edges: p.edges}
	for _, id := range p.order {
		g.Nodes = append(g.Nodes, *p.nodes[id])
	}
	return g
}

func (p *painter) node(id string) *graph.Node { return p.nodes[id] }

// add makes a node, unless it is there.
func (p *painter) add(n graph.Node) (id string, isNew bool) {
	if _, there := p.nodes[n.ID]; there {
		return n.ID, false
	}
	p.nodes[n.ID] = &n
	p.order = append(p.order, n.ID)
	return n.ID, true
}

func (p *painter) edge(from, to string) {
	if e := (graph.Edge{From: from, To: to}); !slices.Contains(p.edges, e) {
		p.edges = append(p.edges, e)
	}
}

func linkID(l link.Link) string { return "link " + l.Name }

// isTap reports whether a link is a guest's end: QEMU or a program like it reads from it.
func isTap(l link.Link) bool { return l.Kind == "tun" || l.Kind == "macvtap" || l.Kind == "ipvtap" }

// guest adds a running domain and what its NICs stand on.
func (p *painter) guest(d *xmlfilter.Domain) {
	id, _ := p.add(graph.Node{ID: "guest " + d.UUID, Class: graph.Guest, Title: d.Name})
	for i := range d.NICs {
		n := &d.NICs[i]
		below := p.nic(d, n)
		p.edge(id, below)
		p.macs[below] = n.MAC
		lines := &p.node(below).Lines
		*lines = slices.Insert(*lines, 0, n.MAC)
	}
}

// nic adds what a NIC is on the host.
func (p *painter) nic(d *xmlfilter.Domain, n *xmlfilter.NIC) string {
	if l, there := p.byName[n.Target]; there && n.Target != "" {
		return p.link(l)
	}
	if id, found := p.vf(func(v vfStatus) bool { return n.Source.PCI != "" && v.Device == n.Source.PCI }); found {
		return id
	}
	for _, h := range p.heldFor(d.UUID) { // libvirt does not show what it took from a pool
		if of, is := h.Kind.(*step.VF); is && h.NIC == n.MAC {
			if id, found := p.vf(func(v vfStatus) bool { return v.Device == of.Device }); found {
				return id
			}
		}
	}
	node := graph.Node{ID: fmt.Sprintf("nic %s %d", d.UUID, n.Index), Class: graph.Other, Title: "type '" + n.Type + "'"}
	if n.Target != "" && n.Type != "user" && n.Type != "vhostuser" {
		node.Title, node.Lines, node.Fault = n.Target, []string{"gone"}, true
	}
	id, _ := p.add(node)
	return id
}

func (p *painter) heldFor(uuid string) []hooks.Held {
	for _, d := range p.held {
		if d.UUID == uuid {
			return d.Held
		}
	}
	return nil
}

// virtualSwitch returns the Open vSwitch bridge that has a device, which the kernel
// does not show, and the device's VLAN in it.
func (p *painter) virtualSwitch(device string) (bridge ovs.Bridge, tag int, found bool) {
	for _, b := range p.bridges {
		for _, d := range b.Devices {
			if d.Name == device && b.Name != device {
				return b, d.Tag, true
			}
		}
	}
	return ovs.Bridge{}, 0, false
}

// addSwitch adds an Open vSwitch bridge and the devices by which it leaves the host.
func (p *painter) addSwitch(b ovs.Bridge) string {
	n := graph.Node{ID: "link " + b.Name, Class: graph.Bridge, FromLeft: columnTap, Title: b.Name, Lines: []string{"Open vSwitch"}}
	if uplink := p.uplinks[b.Name]; uplink != "" {
		n.Lines = append(n.Lines, "uplink "+uplink)
	}
	id, isNew := p.add(n)
	for _, d := range b.Devices {
		if l, there := p.byName[d.Name]; there && isNew && !isTap(l) && l.Kind != "openvswitch" {
			p.edge(id, p.link(l))
		}
	}
	return id
}

// link adds a network device and what is below it.
func (p *painter) link(l link.Link) string {
	if id, found := p.vf(func(v vfStatus) bool { return v.Netdev == l.Name }); found {
		return id
	}
	for _, b := range p.bridges {
		if b.Name == l.Name { // its internal port
			return p.addSwitch(b)
		}
	}
	n := graph.Node{ID: linkID(l), Title: l.Name, FromLeft: columnTap}
	var ports []link.Link // of a bridge or bond
	for _, other := range p.links {
		if other.Master == l.Index {
			ports = append(ports, other)
		}
	}
	switch l.Kind {
	case "macvtap", "ipvtap", "macvlan":
		n.Class, n.Lines = graph.Tap, []string{strings.TrimSpace(l.Kind + " " + l.Mode)}
	case "tun":
		n.Class, n.Lines = graph.Tap, []string{"tap"}
	case "vlan":
		n.Class, n.Lines = graph.VLAN, []string{fmt.Sprintf("VLAN %d", l.VLANID)}
	case "bridge", "bond", "team":
		n.Class, n.Lines = graph.Bridge, []string{l.Kind}
	default:
		n.Class, n.FromRight = graph.NIC, columnNIC
		n.Lines = append(n.Lines, l.MAC)
		if l.Kind != "" {
			n.Lines = append(n.Lines, l.Kind)
		}
	}
	if uplink := p.uplinks[l.Name]; uplink != "" {
		n.Lines = append(n.Lines, "uplink "+uplink)
	}
	if strings.HasPrefix(l.Alias, step.Alias) {
		n.Lines = append(n.Lines, "made by libvirt-direct")
	}
	for _, pf := range p.pfs {
		if pf.Name == l.Name {
			n.Lines = append(n.Lines, fmt.Sprintf("%d VFs, %d free", len(pf.VFs), p.free(pf)))
		}
	}
	bridge, tag, bridged := p.virtualSwitch(l.Name)
	if tag != 0 {
		n.Lines = append(n.Lines, fmt.Sprintf("VLAN %d in %s", tag, bridge.Name))
	}
	switch {
	case !l.Up:
		n.Lines, n.Fault = append(n.Lines, "down"), true
	case !l.Carrier && l.Kind != "bridge": // an empty bridge has none, rightly
		n.Lines, n.Fault = append(n.Lines, "no carrier"), true
	}
	id, isNew := p.add(n)
	if !isNew {
		return id
	}
	if parent, there := p.byIndex[l.Parent]; there && !l.ParentElsewhere && n.FromRight == 0 {
		p.edge(id, p.link(parent))
	}
	if master, there := p.byIndex[l.Master]; there && isTap(l) {
		p.edge(id, p.link(master))
	}
	for _, port := range ports {
		if !isTap(port) {
			p.edge(id, p.link(port))
		}
	}
	if bridged && isTap(l) {
		p.edge(id, p.addSwitch(bridge))
	}
	return id
}

// free counts the VFs that have a network device here, which those bound to vfio have
// not, on which nothing stands.
func (p *painter) free(pf pfStatus) (n int) {
	for _, v := range pf.VFs {
		dev, there := p.byName[v.Netdev]
		if there && v.Owner == "" && !slices.ContainsFunc(p.links, func(l link.Link) bool { return l.Parent == dev.Index && !l.ParentElsewhere }) {
			n++
		}
	}
	return n
}

// vf adds the virtual function that is meant, and its PF.
func (p *painter) vf(meant func(vfStatus) bool) (id string, found bool) {
	for _, pf := range p.pfs {
		i := slices.IndexFunc(pf.VFs, meant)
		if i < 0 {
			continue
		}
		v := pf.VFs[i]
		n := graph.Node{ID: fmt.Sprintf("vf %s %d", pf.Name, v.Number), Class: graph.VF, Title: fmt.Sprintf("VF %d of %s", v.Number, pf.Name)}
		switch {
		case v.Netdev != "":
			n.Lines = append(n.Lines, v.Netdev+", "+v.Device)
		case v.Driver != "":
			n.Lines = append(n.Lines, v.Driver+", "+v.Device)
		default:
			n.Lines = append(n.Lines, v.Device)
		}
		for text := range strings.SplitSeq(v.Wanted.String(), ", ") {
			if text != "" {
				n.Lines = append(n.Lines, text)
			}
		}
		id, isNew := p.add(n)
		if l, there := p.byName[pf.Name]; there && isNew {
			p.edge(id, p.link(l))
		}
		return id, true
	}
	return "", false
}

// journal adds what is held for domains that do not run, and what is not as the
// journal has it.
func (p *painter) journal() {
	for _, d := range p.held {
		guest := "guest " + d.UUID
		_, running := p.nodes[guest]
		if !running {
			n := graph.Node{ID: guest, Class: graph.Guest, Title: cmp.Or(d.Name, d.UUID)}
			if p.libvirt {
				n.Lines, n.Fault = []string{"does not run: libvirt-direct gc"}, true
			}
			if d.Error != "" {
				n.Lines, n.Fault = append(n.Lines, d.Error), true
			}
			p.add(n)
		}
		for _, h := range d.Held {
			id := p.holds(h)
			if id == "" {
				continue
			}
			if !running {
				p.edge(guest, id)
			}
			n := p.node(id)
			if port, is := h.Kind.(*step.Port); is {
				n.Lines = append(n.Lines, "port profile "+port.Profile)
			}
			if h.Difference != "" && !slices.Contains(n.Lines, h.Difference) {
				n.Lines, n.Fault = append(n.Lines, h.Difference), true
			}
		}
	}
}

// holds adds the device that a step is about, gone or not, and returns its node; ""
// where it is about none.
func (p *painter) holds(h hooks.Held) string {
	name, class := "", ""
	switch k := h.Kind.(type) {
	case *step.VF:
		id, _ := p.vf(func(v vfStatus) bool { return v.Device == k.VFPlace.Device })
		return id
	case *step.Port:
		if k.PF != "" {
			id, _ := p.vf(func(v vfStatus) bool { return v.Device == k.VFPlace.Device })
			return id
		}
		name, class = k.Device, graph.NIC
	case *step.VLAN:
		name, class = k.Name, graph.VLAN
	case *step.AltName:
		name, class = k.Device, graph.NIC
	case *step.Macvtap:
		name, class = k.Name, graph.Tap
	case *step.Tap:
		name, class = k.Name, graph.Tap
	case *step.OVSPort:
		name, class = k.Name, graph.Tap
	default: // a VSI is drawn as the station has it
		return ""
	}
	if l, there := p.byName[name]; there {
		return p.link(l)
	}
	id, _ := p.add(graph.Node{ID: "link " + name, Class: class, Title: name, Fault: true})
	return id
}

// switches adds vdpd's uplinks, the switch ports at their other ends, and the VSIs.
func (p *painter) switches() {
	ports := map[string]string{}
	for _, u := range p.stations {
		n := graph.Node{ID: "switch " + u.Name, Class: graph.Switch, FromRight: columnSwitch, Title: "switch at " + u.Name}
		if u.Switch != nil {
			n.Title = "switch " + u.Switch.Chassis
			n.Lines = append(n.Lines, "port "+u.Switch.Port, "802.1Qbg, edition "+u.Edition)
			if u.Switch.ReflectiveRelay {
				n.Lines = append(n.Lines, "reflective relay")
			}
		}
		if u.Error != nil {
			n.Lines, n.Fault = append(n.Lines, u.Error.Error()), true
		}
		ports[u.Name], _ = p.add(n)
		if l, there := p.byName[u.Name]; there {
			p.edge(p.link(l), ports[u.Name])
		}
	}
	for i := range p.vsis {
		v := &p.vsis[i]
		port, known := ports[v.Uplink]
		if !known {
			continue
		}
		id, _ := p.add(graph.Node{
			ID: "vsi " + v.Uplink + " " + v.VSI.ID, Class: graph.VSI, FromRight: columnNIC, Fault: v.State != "established",
			Title: "VSI " + v.VSI.ID,
			Lines: []string{stateText(v), filters(&v.VSI), fmt.Sprintf("manager %s, type %d version %d", v.VSI.Manager, v.VSI.TypeID, v.VSI.TypeVersion)},
		})
		p.edges = append(p.edges, graph.Edge{From: id, To: port, Dashed: true})
		for _, from := range p.order {
			if mac := p.macs[from]; mac != "" && slices.ContainsFunc(v.VSI.Filters, func(f control.Filter) bool { return f.MAC == mac }) &&
				p.leads(from, "link "+v.Uplink) {
				p.edges = append(p.edges, graph.Edge{From: from, To: id, Dashed: true})
			}
		}
	}
}

// leads reports whether edges lead from one node to another.
func (p *painter) leads(from, to string) bool {
	if from == to {
		return true
	}
	for _, e := range p.edges {
		if e.From == from && !e.Dashed && p.leads(e.To, to) {
			return true
		}
	}
	return false
}
