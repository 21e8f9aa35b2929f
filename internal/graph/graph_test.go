package graph

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// texts returns the character data of the SVG's <text> elements.
func texts(t *testing.T, svg string) (all []string) {
	t.Helper()
	in := false
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			return all
		}
		require.NoError(t, err)
		switch x := tok.(type) {
		case xml.StartElement:
			in = x.Name.Local == "text"
		case xml.EndElement:
			in = false
		case xml.CharData:
			if in {
				all = append(all, string(x))
			}
		}
	}
}

func FuzzTextsStayTexts(f *testing.F) {
	for _, s := range []string{"vm1", `"><script>`, "]]>", "\\N\\", `"]; n1 -> n0 [x="`, "a\nb\x00\xff", "&amp;", "`x`", "n1[\"x\"]", "#quot;", "<br/>"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		g := Graph{Nodes: []Node{{ID: s, Title: s, Lines: []string{s}}, {ID: s + "2"}}, Edges: []Edge{{From: s, To: s + "2"}, {From: s, To: "nothing"}}}
		require.Equal(t, short(s)+short(s), strings.Join(texts(t, SVG(g)), ""))
		dot := DOT(g)
		require.Equal(t, 8, strings.Count(dot, "\n"), dot)
		// Outside of "…" there is nothing of s.
		line := strings.Split(dot, "\n")[4]
		require.True(t, strings.HasPrefix(line, "\tn0 [label=\""), line)
		rest := line[len("\tn0 [label=\""):]
		for rest[0] != '"' {
			if rest[0] == '\\' {
				rest = rest[1:]
			}
			rest = rest[1:]
		}
		require.Equal(t, `", fillcolor="#f4f4f4"]`, rest)
		mermaid := Mermaid(g)
		require.Equal(t, 6, strings.Count(mermaid, "\n"))
		label := strings.TrimSuffix(strings.TrimPrefix(strings.Split(mermaid, "\n")[1], `  n0["`), `"]`)
		require.NotContains(t, strings.ReplaceAll(label, "<br/>", ""), `"`)
		require.Equal(t, 1, strings.Count(label, "<"))
	})
}

// Whatever the graph, boxes do not overlap and edges that can lead to the right do.
func TestLayout(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		g := Graph{}
		n := random.IntN(30)
		for i := range n {
			g.Nodes = append(g.Nodes, Node{ID: fmt.Sprint(i), Lines: make([]string, random.IntN(4)), FromRight: max(0, random.IntN(6)-3)})
		}
		for range random.IntN(2*n + 1) {
			a, b := random.IntN(n), random.IntN(n)
			if a < b && g.Nodes[a].FromRight == 0 {
				g.Edges = append(g.Edges, Edge{From: fmt.Sprint(a), To: fmt.Sprint(b)})
			}
		}
		height := func(n Node) float64 { return float64(10 + 10*len(n.Lines)) }
		l := lay(g, height, 5)
		seen := 0
		for c, order := range l.columns {
			require.NotEmpty(t, order)
			for i, at := range order {
				x := l.cells[at]
				require.Equal(t, c, x.column)
				require.GreaterOrEqual(t, x.y-x.height/2, -1e-6)
				if x.node >= 0 {
					seen++
				}
				if i > 0 {
					above := l.cells[order[i-1]]
					require.GreaterOrEqual(t, x.y-x.height/2, above.y+above.height/2+5-1e-6)
				}
			}
		}
		require.Equal(t, n, seen)
		for i, e := range g.Edges {
			if path := l.paths[i]; g.Nodes[path[0]].FromRight == 0 && g.Nodes[path[len(path)-1]].FromRight == 0 {
				require.Less(t, l.cells[path[0]].column, l.cells[path[len(path)-1]].column, "%v", e)
			}
		}
	}
}

func TestCirclesEnd(t *testing.T) {
	g := Graph{Nodes: []Node{{ID: "a"}, {ID: "b"}}, Edges: []Edge{{From: "a", To: "b"}, {From: "b", To: "a"}, {From: "a", To: "a"}}}
	texts(t, SVG(g))
}

func TestFewerCrossings(t *testing.T) {
	g := Graph{Nodes: []Node{{ID: "a"}, {ID: "b"}, {ID: "y"}, {ID: "x"}}, Edges: []Edge{{From: "a", To: "x"}, {From: "b", To: "y"}}}
	l := lay(g, func(Node) float64 { return 10 }, 5)
	require.Zero(t, l.crossings())
	require.Equal(t, [][]int{{0, 1}, {3, 2}}, l.columns)
}

func TestNondecreasing(t *testing.T) {
	require.Equal(t, []float64{1, 2, 2, 2, 5}, nondecreasing([]float64{1, 3, 2, 1, 5}))
	require.Empty(t, nondecreasing(nil))
}
