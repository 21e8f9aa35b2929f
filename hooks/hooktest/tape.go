package hooktest

import "math/rand/v2"

// Tape holds the decisions of a story. Behind its end every decision is 0.
type Tape struct {
	b []byte
	i int
}

// NewTape plays the octets b.
func NewTape(b []byte) *Tape { return &Tape{b: b} }

// Seeded is n octets drawn from a seed: the same ones in every run.
func Seeded(seed uint64, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)}).Read(b) // never fails
	return b
}

// Next returns a decision from 0 to n-1.
func (t *Tape) Next(n int) int {
	if t.i >= len(t.b) || n < 2 {
		return 0
	}
	t.i++
	return int(t.b[t.i-1]) % n
}

// Rarely is true once in n decisions, and never for octet 0. n is at most 256.
func (t *Tape) Rarely(n int) bool {
	if t.i >= len(t.b) {
		return false
	}
	t.i++
	return int(t.b[t.i-1]) > 255-256/n
}

// Shrink returns a shorter or duller tape that still makes bad true: without blocks, with
// zeros in place of octets, with smaller ones. It asks no more than some hundred times.
func Shrink(b []byte, bad func([]byte) bool) []byte {
	tries := 800
	try := func(c []byte) bool {
		if tries--; tries < 0 || !bad(c) {
			return false
		}
		b = c
		return true
	}
	for progress := true; progress; {
		progress = false
		for size := len(b) / 2; size > 0; size /= 2 {
			for at := 0; at+size <= len(b); {
				cut := append(append([]byte{}, b[:at]...), b[at+size:]...)
				if try(cut) {
					progress = true
				} else {
					at += size
				}
			}
			for at := 0; at+size <= len(b); at += size {
				zero := append([]byte{}, b...)
				clear(zero[at : at+size])
				if string(zero) != string(b) && try(zero) {
					progress = true
				}
			}
		}
		for at := range len(b) {
			for at < len(b) && b[at] > 1 {
				half := append([]byte{}, b...)
				half[at] /= 2
				if !try(half) {
					break
				}
				progress = true
			}
		}
	}
	return b
}
