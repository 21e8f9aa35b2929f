package antispoof

import "golang.org/x/sys/unix"

// label is a place in a program that jumps lead to; its number is its index in program.labels.
type label int

// next is the label of the instruction that follows.
const next label = -1

// program is a classic BPF program whose jumps are still to labels.
type program struct {
	ops    []op
	labels []int // which op each label stands before
}

type op struct {
	code        uint16
	k           uint32
	yes, no     label
	conditional bool
	always      bool // a jump to yes
}

func (p *program) label() label {
	p.labels = append(p.labels, -1)
	return label(len(p.labels) - 1)
}

func (p *program) place(l label) { p.labels[l] = len(p.ops) }

func (p *program) do(code uint16, k uint32) { p.ops = append(p.ops, op{code: code, k: k}) }

// load is a load into A, of unix.BPF_W, BPF_H or BPF_B octets with unix.BPF_ABS, BPF_IND, BPF_LEN or BPF_MEM.
func (p *program) load(mode uint16, k uint32) { p.do(unix.BPF_LD|mode, k) }

// when jumps to yes or no by a comparison of A with k: unix.BPF_JEQ, BPF_JGT, BPF_JGE or BPF_JSET.
func (p *program) when(cond uint16, k uint32, yes, no label) {
	p.ops = append(p.ops, op{code: unix.BPF_JMP | cond | unix.BPF_K, k: k, yes: yes, no: no, conditional: true})
}

func (p *program) jump(to label) {
	p.ops = append(p.ops, op{code: unix.BPF_JMP | unix.BPF_JA, yes: to, always: true})
}

func (p *program) ret(verdict uint32) { p.do(unix.BPF_RET|unix.BPF_K, verdict) }

// assemble resolves the jumps. A conditional jump reaches 255 instructions; one that leads farther leads to an
// unconditional jump behind it, which has 32 bits. Labels are always ahead.
func (p *program) assemble() []unix.SockFilter {
	far := make([][2]bool, len(p.ops)) // whether an op's yes, no needs that
	at := make([]int, len(p.ops)+1)
	target := func(i int, l label) int {
		if l == next {
			return at[i+1]
		}
		return at[p.labels[l]]
	}
	for again := true; again; {
		again = false
		for i, f := range far {
			at[i+1] = at[i] + 1
			for _, long := range f {
				if long {
					at[i+1]++
				}
			}
		}
		for i, o := range p.ops {
			if !o.conditional {
				continue
			}
			for side, l := range [2]label{o.yes, o.no} {
				if !far[i][side] && target(i, l)-at[i]-1 > 255 {
					far[i][side], again = true, true
				}
			}
		}
	}
	out := make([]unix.SockFilter, 0, at[len(p.ops)])
	for i, o := range p.ops {
		f := unix.SockFilter{Code: o.code, K: o.k}
		if o.always {
			f.K = uint32(target(i, o.yes) - at[i] - 1)
		}
		out = append(out, f)
		if !o.conditional {
			continue
		}
		cond := &out[len(out)-1]
		sides := [2]*uint8{&cond.Jt, &cond.Jf}
		var tail []unix.SockFilter
		for side, l := range [2]label{o.yes, o.no} {
			if far[i][side] {
				*sides[side] = uint8(len(tail))
				here := at[i] + 1 + len(tail)
				tail = append(tail, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(target(i, l) - here - 1)})
			} else {
				*sides[side] = uint8(target(i, l) - at[i] - 1)
			}
		}
		out = append(out, tail...)
	}
	return out
}
