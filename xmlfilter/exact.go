package xmlfilter

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
	"strings"
)

// nameExact is the attribute of <ld:was> with what leads from the bytes that Undo would
// return to those of the original, where they are not the same: white space, the order of an
// interface's children, <a></a> for <a/>. It holds as long as nobody has edited the domain.
const nameExact = "exact"

// maxExact bounds it: beyond, undoing keeps the meaning, and not the bytes.
const maxExact = 16 << 10

// exactly returns a rewritten document from which Undo gets the original's bytes, as far as it
// was edited by nobody between; original is what d's Undo returns.
func (d *Domain) exactly(doc []byte, again func(exact string) *editor) []byte {
	original := d.undone()
	back, ok := undoneOf(doc)
	if !ok || bytes.Equal(original, back) {
		return doc
	}
	exact := newPatch(back, original)
	if len(exact) > maxExact {
		return doc
	}
	with := again(exact).bytes(d.root)
	if back, ok = undoneOf(with); !ok || !bytes.Equal(original, back) {
		return doc
	}
	return with
}

func undoneOf(doc []byte) ([]byte, bool) {
	d, err := parseUTF8(doc)
	if err != nil {
		return nil, false
	}
	return d.undone(), true
}

// newPatch returns what leads from one text to another: the first one's checksum, and places
// in it with how much goes and what comes.
func newPatch(from, to []byte) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%08x", crc32.ChecksumIEEE(from))
	a, z := pieces(from), pieces(to)
	at := 0
	for len(a) > 0 && len(z) > 0 && bytes.Equal(a[0], z[0]) {
		at, a, z = at+len(a[0]), a[1:], z[1:]
	}
	for len(a) > 0 && len(z) > 0 && bytes.Equal(a[len(a)-1], z[len(z)-1]) {
		a, z = a[:len(a)-1], z[:len(z)-1]
	}
	common := commonPieces(a, z)
	i, k := 0, 0
	for _, c := range append(common, [2]int{len(a), len(z)}) {
		gone, come := bytes.Join(a[i:c[0]], nil), bytes.Join(z[k:c[1]], nil)
		if len(gone)+len(come) > 0 {
			fmt.Fprintf(&b, " %d %d %d:%s", at, len(gone), len(come), come)
		}
		at += len(gone)
		if c[0] < len(a) {
			at += len(a[c[0]])
		}
		i, k = c[0]+1, c[1]+1
	}
	return b.String()
}

// pieces cuts a document into tags and what stands between them.
func pieces(doc []byte) (all [][]byte) {
	for len(doc) > 0 {
		end := bytes.IndexByte(doc, '<')
		if end == 0 {
			if end = bytes.IndexByte(doc, '>') + 1; end == 0 {
				end = len(doc)
			}
		} else if end < 0 {
			end = len(doc)
		}
		all, doc = append(all, doc[:end]), doc[end:]
	}
	return all
}

// maxCompared bounds the work of commonPieces.
const maxCompared = 1 << 20

// commonPieces returns a longest common subsequence, as pairs of indices.
func commonPieces(a, z [][]byte) (pairs [][2]int) {
	if len(a)*len(z) > maxCompared {
		return nil
	}
	length := make([][]int32, len(a)+1)
	for i := range length {
		length[i] = make([]int32, len(z)+1)
	}
	for i, p := range slices.Backward(a) {
		for k, q := range slices.Backward(z) {
			if bytes.Equal(p, q) {
				length[i][k] = length[i+1][k+1] + 1
			} else {
				length[i][k] = max(length[i+1][k], length[i][k+1])
			}
		}
	}
	for i, k := 0, 0; i < len(a) && k < len(z); {
		switch {
		case bytes.Equal(a[i], z[k]):
			pairs = append(pairs, [2]int{i, k})
			i, k = i+1, k+1
		case length[i+1][k] >= length[i][k+1]:
			i++
		default:
			k++
		}
	}
	return pairs
}

// applyPatch returns what a patch makes of a text, and false where it is not for that text.
func applyPatch(from []byte, patch string) ([]byte, bool) {
	sum, rest, _ := strings.Cut(patch, " ")
	if sum != fmt.Sprintf("%08x", crc32.ChecksumIEEE(from)) {
		return nil, false
	}
	var out bytes.Buffer
	at := 0
	for rest != "" {
		head, tail, found := strings.Cut(rest, ":")
		fields := strings.Fields(head)
		if !found || len(fields) != 3 {
			return nil, false
		}
		var n [3]int
		for i, f := range fields {
			v, err := strconv.ParseUint(f, 10, 31)
			if err != nil {
				return nil, false
			}
			n[i] = int(v)
		}
		if n[0] < at || n[0] > len(from) || n[1] > len(from)-n[0] || n[2] > len(tail) {
			return nil, false
		}
		out.Write(from[at:n[0]])
		out.WriteString(tail[:n[2]])
		at, rest = n[0]+n[1], tail[n[2]:]
	}
	out.Write(from[at:])
	return out.Bytes(), true
}

// sameMeaning reports whether two documents differ in nothing but what an exact undo may
// change: whoever may write metadata must not write a domain by it.
func sameMeaning(a, b []byte) bool {
	x, err1 := scan(a)
	y, err2 := scan(b)
	return err1 == nil && err2 == nil && meaning(a, x) == meaning(b, y)
}

// meaning returns an element's text without white space between its parts, and without the
// order of an interface's children.
func meaning(doc []byte, e *element) string {
	if e.name.Space != "" && e.name.Space != Namespace {
		return string(doc[e.start:e.end])
	}
	var parts []string
	for _, c := range e.children {
		if m := meaning(doc, c); m != "" {
			parts = append(parts, m)
		}
	}
	var attrs []string
	for _, a := range e.attr {
		if !isXMLNS(a.Name.Space, a.Name.Local) {
			attrs = append(attrs, fmt.Sprintf("%s:%s=%q", a.Name.Space, a.Name.Local, a.Value))
		}
	}
	inner := text(e)
	empty := len(parts)+len(attrs) == 0 && inner == ""
	if empty && (e.name.Local == "metadata" || e.name.Local == "nics" && e.name.Space == Namespace) {
		return ""
	}
	slices.Sort(attrs)
	if e.name.Local == "interface" {
		slices.Sort(parts)
	}
	return fmt.Sprintf("<%s:%s %s>%q%s</>", e.name.Space, e.name.Local, strings.Join(attrs, " "), inner, strings.Join(parts, ""))
}
