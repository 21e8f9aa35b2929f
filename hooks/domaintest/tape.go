// Package domaintest makes libvirt domains for tests: documents as people, management
// programs and libvirt itself write them, the hosts on which they are defined, and what
// libvirt makes of a document that it is given.
package domaintest

import "math/rand/v2"

// Tape decides: a document is what it says. It is read from the front, and beyond its end
// there are only zeros, so that a shorter tape makes a duller document.
type Tape struct{ left []byte }

// NewTape returns the tape with these bytes.
func NewTape(b []byte) *Tape { return &Tape{b} }

// tapeLength suffices for nearly all documents.
const tapeLength = 1024

// SeedTape returns the bytes of a tape drawn from a seed.
func SeedTape(seed uint64) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24), byte(seed >> 32)})
	b := make([]byte, tapeLength)
	_, _ = r.Read(b) // never fails
	return b
}

// Next returns a number from 0 to n-1; 0 is always the dullest choice.
func (t *Tape) Next(n int) int {
	if len(t.left) == 0 {
		return 0
	}
	b := t.left[0]
	t.left = t.left[1:]
	return int(b) * n / 256
}

// One is true in one of n cases.
func (t *Tape) One(n int) bool { return t.Next(n) == n-1 && n > 1 }

// Of returns one of some texts; the first is the dullest.
func (t *Tape) Of(texts ...string) string { return texts[t.Next(len(texts))] }
