package graph

import (
	"cmp"
	"math"
	"slices"
)

// cell is a place in a column: a node, or a point through which an edge passes a
// column (node -1).
type cell struct {
	node        int
	column      int
	left, right []int // the cells in the neighbouring columns that edges join it to
	height      float64
	y           float64 // of its middle
}

// layout is a graph with a place for each of its parts. Edges have the cells that
// they go through, both ends included.
type layout struct {
	cells   []cell
	columns [][]int // cells from top to bottom
	paths   [][]int // as Graph.numbered's edges
}

// lay places a graph as Sugiyama, Tagawa and Toda do: nodes get columns by their
// longest path, edges over several columns a point in each, and the order within a
// column follows the neighbours' until fewer edges do not cross any more.
func lay(g Graph, height func(Node) float64, gap float64) layout {
	number, edges := g.numbered()
	column := columns(g, number, edges)
	l := layout{columns: make([][]int, slices.Max(append(column, -1))+1)}
	add := func(node, column int, h float64) int {
		l.cells = append(l.cells, cell{node: node, column: column, height: h})
		i := len(l.cells) - 1
		l.columns[column] = append(l.columns[column], i)
		return i
	}
	for i, n := range g.Nodes {
		add(i, column[i], height(n))
	}
	for _, e := range edges {
		from, to := number[e.From], number[e.To]
		path := []int{from}
		for c := column[from] + 1; c < column[to]; c++ {
			path = append(path, add(-1, c, 1))
		}
		path = append(path, to)
		l.paths = append(l.paths, path)
		for i := 1; i < len(path); i++ {
			a, b := path[i-1], path[i]
			l.cells[a].right = append(l.cells[a].right, b)
			l.cells[b].left = append(l.cells[b].left, a)
		}
	}
	l.order()
	l.place(gap)
	return l
}

// columns numbers the nodes' columns from 0, none of them empty.
func columns(g Graph, number map[string]int, edges []Edge) []int {
	column := make([]int, len(g.Nodes))
	for i, n := range g.Nodes {
		column[i] = n.FromLeft
	}
	// In a graph without circles this ends by itself; in one with circles nodes on
	// them have any column.
	for range g.Nodes {
		for _, e := range edges {
			column[number[e.To]] = max(column[number[e.To]], column[number[e.From]]+1)
		}
	}
	width := 0
	for i, n := range g.Nodes {
		width = max(width, column[i]+max(n.FromRight, 1))
	}
	used := make([]bool, width)
	for i, n := range g.Nodes {
		if n.FromRight > 0 {
			column[i] = width - n.FromRight
		}
		used[column[i]] = true
	}
	skipped := make([]int, width)
	for c := 1; c < width; c++ {
		skipped[c] = skipped[c-1]
		if !used[c-1] {
			skipped[c]++
		}
	}
	for i := range column {
		column[i] -= skipped[column[i]]
	}
	return column
}

func (l *layout) order() {
	best, fewest := l.columns, math.MaxInt
	for round := range 12 {
		if n := l.crossings(); n < fewest {
			best, fewest = clone(l.columns), n
		}
		rank := make([]float64, len(l.cells))
		sort := func(c int, neighbours func(cell) []int) {
			for _, order := range l.columns {
				for i, at := range order {
					rank[at] = float64(i)
				}
			}
			wish := map[int]float64{}
			for _, i := range l.columns[c] {
				wish[i] = mean(neighbours(l.cells[i]), rank, rank[i])
			}
			slices.SortStableFunc(l.columns[c], func(a, b int) int { return cmp.Compare(wish[a], wish[b]) })
		}
		if round%2 == 0 {
			for c := 1; c < len(l.columns); c++ {
				sort(c, func(x cell) []int { return x.left })
			}
		} else {
			for c := len(l.columns) - 2; c >= 0; c-- {
				sort(c, func(x cell) []int { return x.right })
			}
		}
	}
	l.columns = best
}

func clone(columns [][]int) [][]int {
	all := make([][]int, len(columns))
	for i := range columns {
		all[i] = slices.Clone(columns[i])
	}
	return all
}

// crossings counts the pairs of edges that cross between neighbouring columns.
func (l *layout) crossings() int {
	rank := make([]int, len(l.cells))
	for _, order := range l.columns {
		for i, at := range order {
			rank[at] = i
		}
	}
	count := 0
	for _, order := range l.columns {
		var ends []int // of the edges to the right, by their beginnings
		for _, at := range order {
			to := make([]int, 0, len(l.cells[at].right))
			for _, r := range l.cells[at].right {
				to = append(to, rank[r])
			}
			slices.Sort(to)
			for _, end := range to {
				for _, above := range ends {
					if above > end {
						count++
					}
				}
			}
			ends = append(ends, to...)
		}
	}
	return count
}

// place sets each cell's y near its neighbours', none nearer to another than gap.
func (l *layout) place(gap float64) {
	y := make([]float64, len(l.cells))
	settle := func(order []int, wish func(i int) float64) {
		wishes := make([]float64, len(order))
		offset := make([]float64, len(order))
		for k, i := range order {
			if k > 0 {
				offset[k] = offset[k-1] + (l.cells[order[k-1]].height+l.cells[i].height)/2 + gap
			}
			wishes[k] = wish(i) - offset[k]
		}
		for k, v := range nondecreasing(wishes) {
			y[order[k]] = v + offset[k]
		}
	}
	for _, order := range l.columns {
		settle(order, func(int) float64 { return 0 })
	}
	for round := range 12 {
		for c := range l.columns {
			if round%2 == 1 {
				c = len(l.columns) - 1 - c
			}
			settle(l.columns[c], func(i int) float64 {
				x := l.cells[i]
				switch {
				case round >= 8:
					return mean(append(slices.Clone(x.left), x.right...), y, y[i])
				case round%2 == 0:
					return mean(x.left, y, y[i])
				}
				return mean(x.right, y, y[i])
			})
		}
	}
	top := math.Inf(1)
	for i, x := range l.cells {
		top = min(top, y[i]-x.height/2)
	}
	for i := range l.cells {
		l.cells[i].y = y[i] - top
	}
}

// mean is that of the values at some places, or otherwise if there are none.
func mean(places []int, values []float64, otherwise float64) float64 {
	if len(places) == 0 {
		return otherwise
	}
	sum := 0.0
	for _, p := range places {
		sum += values[p]
	}
	return sum / float64(len(places))
}

// nondecreasing returns the sequence without descents that is nearest to v by the sum
// of squares: neighbours that descend are pooled (isotonic regression).
func nondecreasing(v []float64) []float64 {
	type pool struct {
		sum   float64
		count int
	}
	var pools []pool
	for _, x := range v {
		p := pool{x, 1}
		for len(pools) > 0 {
			last := pools[len(pools)-1]
			if last.sum/float64(last.count) <= p.sum/float64(p.count) {
				break
			}
			p = pool{p.sum + last.sum, p.count + last.count}
			pools = pools[:len(pools)-1]
		}
		pools = append(pools, p)
	}
	out := make([]float64, 0, len(v))
	for _, p := range pools {
		for range p.count {
			out = append(out, p.sum/float64(p.count))
		}
	}
	return out
}
