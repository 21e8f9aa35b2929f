package vdptest

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"time"
)

// A Tape decides everything in a [Play]: what station, switch and wire are like, and then
// what happens, step by step. What a step does depends on its own octets alone, so that
// the others mean the same without it.
type Tape struct {
	Head  Head
	Steps []Step
}

const (
	headLen = 16
	stepLen = 6
)

// A Head says what station, switch and wire are like. Zeros are what is usual.
type Head [headLen]byte

// A Step is a pause, an action and what else the action has to decide.
type Step [stepLen]byte

// Seeded is a tape of n steps drawn from a seed: the same one in every run.
func Seeded(seed uint64, n int) Tape {
	b := make([]byte, headLen+n*stepLen)
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	_, _ = rand.NewChaCha8(key).Read(b) // never fails
	return TapeOf(b)
}

// TapeOf makes a tape of octets. Those that are no whole step are left out.
func TapeOf(b []byte) Tape {
	var t Tape
	b = b[copy(t.Head[:], b):]
	for ; len(b) >= stepLen; b = b[stepLen:] {
		t.Steps = append(t.Steps, Step(b))
	}
	return t
}

// Bytes is what TapeOf makes the tape of.
func (t Tape) Bytes() []byte {
	b := slices.Clone(t.Head[:])
	for _, s := range t.Steps {
		b = append(b, s[:]...)
	}
	return b
}

// String is the tape in one line, as a file of tapes has it.
func (t Tape) String() string { return base64.StdEncoding.EncodeToString(t.Bytes()) }

var errTape = errors.New("a tape is 16 octets and 6 for each step, in base64")

// ParseTape reads what String writes.
func ParseTape(s string) (Tape, error) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(b) < headLen || (len(b)-headLen)%stepLen != 0 {
		return Tape{}, errTape
	}
	return TapeOf(b), nil
}

// pause is the time before the step: mostly milliseconds or seconds, at times long
// enough for a keepalive or two.
func (s Step) pause() time.Duration {
	n := time.Duration(s[0])
	switch {
	case n < 96:
		return n * n * 20 * time.Microsecond // up to 180 ms
	case n < 208:
		return (n - 95) * 40 * time.Millisecond // up to 4.5 s
	}
	return (n - 207) * time.Second // up to 48 s
}

// random is what the step draws from.
func (s Step) random() *rand.Rand {
	var b [8]byte
	copy(b[:], s[1:])
	return rand.New(rand.NewPCG(binary.LittleEndian.Uint64(b[:]), 0x5e))
}

// Shrink returns a shorter or plainer tape for which bad is true still: fewer steps,
// shorter pauses, a more usual head. It asks some hundred times.
func Shrink(t Tape, bad func(Tape) bool) Tape {
	tries := 1500
	try := func(c Tape) bool {
		tries--
		if tries < 0 || !bad(c) {
			return false
		}
		t = c
		return true
	}
	for progress := true; progress && tries > 0; {
		progress = false
		for size := max(len(t.Steps)/2, 1); size > 0; size /= 2 {
			for at := 0; at+size <= len(t.Steps); {
				if try(Tape{t.Head, slices.Delete(slices.Clone(t.Steps), at, at+size)}) {
					progress = true
				} else {
					at += size
				}
			}
		}
		octets := func(n int, get func(*Tape, int) *byte) {
			for i := range n {
				for _, plainer := range []func(byte) byte{
					func(byte) byte { return 0 },
					func(b byte) byte { return b / 2 },
					func(b byte) byte { return b - 1 },
				} {
					for *get(&t, i) != 0 {
						c := Tape{t.Head, slices.Clone(t.Steps)}
						b := get(&c, i)
						*b = plainer(*b)
						if !try(c) {
							break
						}
						progress = true
					}
				}
			}
		}
		octets(headLen, func(t *Tape, i int) *byte { return &t.Head[i] })
		octets(len(t.Steps), func(t *Tape, i int) *byte { return &t.Steps[i][0] })
	}
	return t
}
