package topology

import (
	"fmt"
	"slices"
	"strings"

	"libvirt-direct/internal/graph"
	"libvirt-direct/internal/link"
)

// PF is a physical function with its virtual functions. Its JSON is that of `libvirt-direct
// vf show`.
type PF struct {
	Name   string `json:"name"`
	Driver string `json:"driver,omitempty"`
	VFs    []VF   `json:"vfs"`
}

// VF is a virtual function: who has it, what is wanted of it, and what its driver says.
type VF struct {
	Number int             `json:"number"`
	Device string          `json:"device"` // PCI address
	Driver string          `json:"driver,omitempty"`
	Netdev string          `json:"netdev,omitempty"`
	Owner  string          `json:"owner,omitempty"` // a domain's name
	Used   string          `json:"used,omitempty"`  // what the kernel shows of a use
	Wanted link.VFSettings `json:"wanted"`
	Read   link.VFSettings `json:"read"`
}

// node is the virtual function's box.
func (v *VF) node(pf string) graph.Node {
	n := graph.Node{ID: fmt.Sprintf("vf %s %d", pf, v.Number), Class: graph.VF, Title: fmt.Sprintf("VF %d of %s", v.Number, pf)}
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
	return n
}

// vf adds the virtual function that is meant, and its PF.
func (b *builder) vf(meant func(VF) bool) (id string, found bool) {
	for _, pf := range b.PFs {
		i := slices.IndexFunc(pf.VFs, meant)
		if i < 0 {
			continue
		}
		id, isNew := b.add(pf.VFs[i].node(pf.Name))
		if l, there := b.byName[pf.Name]; there && isNew {
			b.edge(id, b.link(l))
		}
		return id, true
	}
	return "", false
}

// vfAt adds the virtual function at a PCI address.
func (b *builder) vfAt(address string) (id string, found bool) {
	return b.vf(func(v VF) bool { return v.Device == address })
}

// free counts the VFs that have a network device here, which those bound to vfio have
// not, on which nothing stands.
func (b *builder) free(pf PF) (n int) {
	for _, v := range pf.VFs {
		dev, there := b.byName[v.Netdev]
		if there && v.Owner == "" && !slices.ContainsFunc(b.Links, func(l link.Link) bool { return l.Parent == dev.Index && !l.ParentElsewhere }) {
			n++
		}
	}
	return n
}
