package topology

import (
	"cmp"
	"fmt"
	"slices"

	"libvirt-direct/internal/graph"
	"libvirt-direct/vdp/control"
)

// stations adds vdpd's uplinks, the switch ports at their other ends, and the VSIs.
func (b *builder) stations() {
	ports := map[string]string{}
	for i := range b.Stations {
		u := &b.Stations[i]
		ports[u.Name], _ = b.add(switchNode(u))
		if l, there := b.byName[u.Name]; there {
			b.edge(b.link(l), ports[u.Name])
		}
	}
	for i := range b.VSIs {
		if port, known := ports[b.VSIs[i].Uplink]; known {
			b.vsi(&b.VSIs[i], port)
		}
	}
}

// switchNode is the box of the switch port that an uplink is wired to.
func switchNode(u *control.Uplink) graph.Node {
	n := graph.Node{ID: "switch " + u.Name, Class: graph.Switch, FromRight: columnSwitch, Title: "switch at " + u.Name}
	if u.Switch != nil {
		n.Title = "switch " + u.Switch.Chassis
		n.Lines = append(n.Lines, "port "+u.Switch.Port, "802.1Qbg, edition "+u.Edition)
		if u.Switch.ReflectiveRelay {
			n.Lines = append(n.Lines, "reflective relay")
		}
	}
	if u.Error != nil {
		n.Lines, n.Fault = append(n.Lines, cmp.Or(u.Error.Unwrap(), error(u.Error)).Error()), true // without what to do
	}
	return n
}

// vsi adds a VSI between the guests' devices whose frames it is for and its switch port.
func (b *builder) vsi(v *control.VSIStatus, port string) {
	id, _ := b.add(graph.Node{
		ID: "vsi " + v.Uplink + " " + v.VSI.ID, Class: graph.VSI, FromRight: columnNIC, Fault: v.State != "established",
		Title: "VSI " + v.VSI.ID,
		Lines: []string{v.StateText(), v.VSI.FilterText(), fmt.Sprintf("manager %s, type %d version %d", v.VSI.Manager, v.VSI.TypeID, v.VSI.TypeVersion)},
	})
	b.edges = append(b.edges, graph.Edge{From: id, To: port, Dashed: true})
	for _, from := range b.order {
		mac := b.macs[from]
		if mac == "" || !slices.ContainsFunc(v.VSI.Filters, func(f control.Filter) bool { return f.MAC == mac }) {
			continue
		}
		if b.leads(from, deviceID(v.Uplink)) {
			b.edges = append(b.edges, graph.Edge{From: from, To: id, Dashed: true})
		}
	}
}

// leads reports whether edges lead from one node to another.
func (b *builder) leads(from, to string) bool {
	if from == to {
		return true
	}
	for _, e := range b.edges {
		if e.From == from && !e.Dashed && b.leads(e.To, to) {
			return true
		}
	}
	return false
}
