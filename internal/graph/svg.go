package graph

import (
	"encoding/xml"
	"fmt"
	"math"
	"strings"
	"unicode/utf8"
)

// Measures of the picture in px. A monospace digit is 0.6 em wide.
const (
	fontSize   = 12
	digit      = 0.6 * fontSize
	lineHeight = 16
	padding    = 8
	rowGap     = 14
	columnGap  = 64
	margin     = 16
	// longest is how many characters of a text are shown; the tooltip has all.
	longest = 44
)

// SVG returns the graph as a picture that stands for itself: no style sheet, no
// script, no font of its own.
func SVG(g Graph) string {
	l := lay(g, func(n Node) float64 { return float64(1+len(n.Lines))*lineHeight + 2*padding - 4 }, rowGap)

	left, width := make([]float64, len(l.columns)), make([]float64, len(l.columns))
	x, bottom := float64(margin), 0.0
	for c, order := range l.columns {
		left[c] = x
		for _, i := range order {
			bottom = math.Max(bottom, l.cells[i].y+l.cells[i].height/2)
			if n := l.cells[i].node; n >= 0 {
				for _, text := range append([]string{g.Nodes[n].Title}, g.Nodes[n].Lines...) {
					width[c] = math.Max(width[c], float64(utf8.RuneCountInString(short(text)))*digit+2*padding)
				}
			}
		}
		x += width[c] + columnGap
	}
	x = math.Max(x-columnGap, margin) + margin

	var b strings.Builder
	w, h := math.Ceil(x), math.Ceil(bottom+2*margin)
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f %.0f\" font-family=\"monospace\" font-size=\"%d\">\n", w, h, w, h, fontSize)
	b.WriteString("<defs><marker id=\"arrow\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" fill=\"#555\"/></marker></defs>\n")
	fmt.Fprintf(&b, "<rect width=\"%.0f\" height=\"%.0f\" fill=\"#fff\"/>\n", w, h)

	_, edges := g.numbered()
	b.WriteString("<g fill=\"none\" stroke=\"#555\" stroke-width=\"1.2\">\n")
	for i, path := range l.paths {
		from := l.cells[path[0]]
		x, y := left[from.column]+width[from.column], margin+from.y
		fmt.Fprintf(&b, "<path d=\"M%.0f %.0f", x, y)
		for _, p := range path[1:] {
			to := l.cells[p]
			toX, toY := left[to.column], margin+to.y
			middle := (x + toX) / 2
			fmt.Fprintf(&b, "C%.0f %.0f %.0f %.0f %.0f %.0f", middle, y, middle, toY, toX, toY)
			x, y = toX, toY
			if to.node < 0 { // straight through the column
				x += width[to.column]
				fmt.Fprintf(&b, "H%.0f", x)
			}
		}
		b.WriteString("\"")
		if edges[i].Dashed {
			b.WriteString(" stroke-dasharray=\"5 4\"")
		}
		b.WriteString(" marker-end=\"url(#arrow)\"/>\n")
	}
	b.WriteString("</g>\n")

	for _, c := range l.cells {
		if c.node < 0 {
			continue
		}
		n := g.Nodes[c.node]
		x, y := left[c.column], margin+c.y-c.height/2
		stroke, strokeWidth := "#555", "1"
		if n.Fault {
			stroke, strokeWidth = faultColour, "2.5"
		}
		fmt.Fprintf(&b, "<g><title>%s</title>\n", escape(strings.Join(append([]string{n.Title}, n.Lines...), ", ")))
		fmt.Fprintf(&b, "<rect x=\"%.0f\" y=\"%.0f\" width=\"%.0f\" height=\"%.0f\" rx=\"5\" fill=\"%s\" stroke=\"%s\" stroke-width=\"%s\"/>\n",
			x, y, width[c.column], c.height, fill(n.Class), stroke, strokeWidth)
		y += padding + fontSize - 2
		fmt.Fprintf(&b, "<text x=\"%.0f\" y=\"%.0f\" font-weight=\"bold\" xml:space=\"preserve\">%s</text>\n", x+padding, y, escape(short(n.Title)))
		for _, line := range n.Lines {
			y += lineHeight
			fmt.Fprintf(&b, "<text x=\"%.0f\" y=\"%.0f\" xml:space=\"preserve\">%s</text>\n", x+padding, y, escape(short(line)))
		}
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// short cuts a text that would make its column too wide.
func short(s string) string {
	r := []rune(clean(s))
	if len(r) > longest {
		return string(r[:longest-1]) + "…"
	}
	return string(r)
}

func escape(s string) string {
	var b strings.Builder
	// A strings.Builder takes everything.
	_ = xml.EscapeText(&b, []byte(clean(s)))
	return b.String()
}
