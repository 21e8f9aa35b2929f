// Package graph writes layered graphs, drawn from left to right, as Graphviz's DOT, as
// Mermaid or as SVG. Its functions are pure: the same graph gives the same bytes.
package graph

import (
	"fmt"
	"strings"
	"unicode"
)

// Graph is what is drawn. Edges whose ends are no nodes are left out.
type Graph struct {
	Nodes []Node
	Edges []Edge
}

// Node is a box. Texts may hold anything; what cannot be shown is replaced.
type Node struct {
	ID    string // unique in the graph; not shown
	Class string // one of the classes of Classes; others are drawn grey
	Title string
	Lines []string // below the title
	Fault bool     // drawn so that it is seen
	// FromRight is the column, 1 being the last; 0 is as far left as the edges and
	// FromLeft allow.
	FromRight int
	FromLeft  int
}

// Edge leads from left to right.
type Edge struct {
	From, To string // IDs
	Dashed   bool
}

// Classes of nodes.
const (
	Guest  = "guest"
	Tap    = "tap"
	VLAN   = "vlan"
	Bridge = "bridge"
	VF     = "vf"
	NIC    = "nic"
	VSI    = "vsi"
	Switch = "switch"
	Other  = "other"
)

// fill is the colour of a class, as #rrggbb; texts are black on it.
func fill(class string) string {
	switch class {
	case Guest:
		return "#fde9b8"
	case Tap:
		return "#d5e8f7"
	case VLAN:
		return "#e3dcf5"
	case Bridge:
		return "#d6efd8"
	case VF:
		return "#cdebe9"
	case NIC:
		return "#e4e4e4"
	case VSI:
		return "#f8d9e3"
	case Switch:
		return "#cfd8dc"
	}
	return "#f4f4f4"
}

const faultColour = "#c00000"

// numbered returns the number of each node by ID, and the edges whose ends exist.
func (g Graph) numbered() (map[string]int, []Edge) {
	number := map[string]int{}
	for i, n := range g.Nodes {
		number[n.ID] = i
	}
	var edges []Edge
	for _, e := range g.Edges {
		_, from := number[e.From]
		_, to := number[e.To]
		if from && to {
			edges = append(edges, e)
		}
	}
	return number, edges
}

// clean replaces what no format can show.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, strings.ToValidUTF8(s, string(unicode.ReplacementChar)))
}

// label is all of a node's text.
func (n Node) label(quote *strings.Replacer, lineBreak string) string {
	text := quote.Replace(clean(n.Title))
	for _, l := range n.Lines {
		text += lineBreak + quote.Replace(clean(l))
	}
	return text
}

// DOT returns the graph in the language of Graphviz.
func DOT(g Graph) string {
	// In a label "\" begins an escape (\N, \l …) and "&" an HTML entity.
	quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`, `&`, `&amp;`)
	number, edges := g.numbered()
	var b strings.Builder
	b.WriteString("digraph \"libvirt-direct\" {\n\trankdir=LR\n\tnode [shape=box, style=\"filled,rounded\", fontname=monospace, fontsize=10]\n\tedge [color=\"#555555\"]\n")
	for i, n := range g.Nodes {
		text := n.label(quote, `\n`)
		fmt.Fprintf(&b, "\tn%d [label=\"%s\", fillcolor=\"%s\"", i, text, fill(n.Class))
		if n.Fault {
			fmt.Fprintf(&b, ", color=\"%s\", penwidth=2", faultColour)
		}
		b.WriteString("]\n")
	}
	for _, e := range edges {
		fmt.Fprintf(&b, "\tn%d -> n%d", number[e.From], number[e.To])
		if e.Dashed {
			b.WriteString(" [style=dashed]")
		}
		b.WriteString("\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// Mermaid returns the graph as a flowchart in the language of Mermaid, which
// Markdown viewers draw.
func Mermaid(g Graph) string {
	// Entities have "#" where HTML has "&"; a backquote begins Markdown.
	quote := strings.NewReplacer(`#`, `#35;`, `"`, `#quot;`, `<`, `#lt;`, `>`, `#gt;`, `&`, `#amp;`, "`", `#96;`)
	number, edges := g.numbered()
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	for i, n := range g.Nodes {
		text := n.label(quote, `<br/>`)
		fmt.Fprintf(&b, "  n%d[\"%s\"]\n", i, text)
		fmt.Fprintf(&b, "  style n%d fill:%s,color:#000", i, fill(n.Class))
		if n.Fault {
			fmt.Fprintf(&b, ",stroke:%s,stroke-width:3px", faultColour)
		}
		b.WriteString("\n")
	}
	for _, e := range edges {
		arrow := "-->"
		if e.Dashed {
			arrow = "-.->"
		}
		fmt.Fprintf(&b, "  n%d %s n%d\n", number[e.From], arrow, number[e.To])
	}
	return b.String()
}
