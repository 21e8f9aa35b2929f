package topology

import (
	"fmt"
	"slices"
	"strings"

	"libvirt-direct/internal/graph"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/ovs"
)

func deviceID(name string) string { return "link " + name }

// isTap reports whether a link is a guest's end: QEMU or a program like it reads from it.
func isTap(l link.Link) bool { return l.Kind == "tun" || l.Kind == "macvtap" || l.Kind == "ipvtap" }

// own reports whether libvirt-direct has made a device.
func (t *Topology) own(l link.Link) bool {
	return t.OwnAlias != "" && strings.HasPrefix(l.Alias, t.OwnAlias)
}

// link adds a network device and what is below it. One that is a virtual function or an
// Open vSwitch bridge is added as that.
func (b *builder) link(l link.Link) string {
	if id, found := b.vf(func(v VF) bool { return v.Netdev == l.Name }); found {
		return id
	}
	if i := slices.IndexFunc(b.VirtualSwitches, func(s ovs.Bridge) bool { return s.Name == l.Name }); i >= 0 { // its internal port
		return b.virtualSwitch(b.VirtualSwitches[i])
	}
	id, isNew := b.add(b.deviceNode(l))
	if isNew {
		b.below(id, l)
	}
	return id
}

// deviceNode is the box of a network device.
func (b *builder) deviceNode(l link.Link) graph.Node {
	n := kindNode(l)
	n.Lines = append(n.Lines, b.remarks(l)...)
	if text := trouble(l); text != "" {
		n.Lines, n.Fault = append(n.Lines, text), true
	}
	return n
}

// kindNode is the box of a network device as its kind has it.
func kindNode(l link.Link) graph.Node {
	n := graph.Node{ID: deviceID(l.Name), Title: l.Name, FromLeft: columnTap}
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
		n.Class, n.FromRight, n.Lines = graph.NIC, columnNIC, []string{l.MAC}
		if l.Kind != "" {
			n.Lines = append(n.Lines, l.Kind)
		}
	}
	return n
}

// remarks are what others than the kernel know of a device.
func (b *builder) remarks(l link.Link) (lines []string) {
	if uplink := b.Uplinks[l.Name]; uplink != "" {
		lines = append(lines, "uplink "+uplink)
	}
	if b.own(l) {
		lines = append(lines, "made by libvirt-direct")
	}
	for _, pf := range b.PFs {
		if pf.Name == l.Name {
			lines = append(lines, fmt.Sprintf("%d VFs, %d free", len(pf.VFs), b.free(pf)))
		}
	}
	if s, tag, found := b.switchOf(l.Name); found && tag != 0 {
		lines = append(lines, fmt.Sprintf("VLAN %d in %s", tag, s.Name))
	}
	return lines
}

// trouble says why nothing passes through a device, "" where something may.
func trouble(l link.Link) string {
	switch {
	case !l.Up:
		return "down"
	case !l.Carrier && l.Kind != "bridge": // an empty bridge has none, rightly
		return "no carrier"
	}
	return ""
}

// below adds what is below a device: its parent, the bridge that a tap is a port of, and
// the ports by which frames leave a bridge or bond.
func (b *builder) below(id string, l link.Link) {
	// A NIC, veth for instance, may have a parent that it does not stand on.
	if parent, there := b.byIndex[l.Parent]; there && !l.ParentElsewhere && b.nodes[id].Class != graph.NIC {
		b.edge(id, b.link(parent))
	}
	if master, there := b.byIndex[l.Master]; there && isTap(l) {
		b.edge(id, b.link(master))
	}
	for _, port := range b.links {
		if port.Master == l.Index && !isTap(port) {
			b.edge(id, b.link(port))
		}
	}
	if s, _, found := b.switchOf(l.Name); found && isTap(l) {
		b.edge(id, b.virtualSwitch(s))
	}
}

// switchOf returns the Open vSwitch bridge that a device is a port of, and the device's
// VLAN in it, 0 for none.
func (t *Topology) switchOf(device string) (s ovs.Bridge, tag int, found bool) {
	for _, s := range t.VirtualSwitches {
		for _, d := range s.Devices {
			if d.Name == device && s.Name != device {
				return s, d.Tag, true
			}
		}
	}
	return ovs.Bridge{}, 0, false
}

// virtualSwitch adds an Open vSwitch bridge and the devices by which it leaves the host.
func (b *builder) virtualSwitch(s ovs.Bridge) string {
	n := graph.Node{ID: deviceID(s.Name), Class: graph.Bridge, FromLeft: columnTap, Title: s.Name, Lines: []string{"Open vSwitch"}}
	if uplink := b.Uplinks[s.Name]; uplink != "" {
		n.Lines = append(n.Lines, "uplink "+uplink)
	}
	id, isNew := b.add(n)
	for _, d := range s.Devices {
		if l, there := b.byName[d.Name]; there && isNew && !isTap(l) && l.Kind != "openvswitch" {
			b.edge(id, b.link(l))
		}
	}
	return id
}
