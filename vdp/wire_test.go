package vdp_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/vdp/vdptest"
)

var (
	seeds = flag.Int("seeds", 2000, "how many tapes TestSeeds plays")
	seed  = flag.Int("seed", 0, "the seed whose tape TestSeed plays and tells")
	tape  = flag.String("tape", "", "the tape that TestSeed plays and tells")
)

// tapeSteps is how many steps a seed's tape has.
const tapeSteps = 60

// Tapes of consecutive seeds break no invariant. The first that does is shrunk, and told
// with its tape, for testdata/tapes.
func TestSeeds(t *testing.T) {
	const share = 4
	for part := range share {
		t.Run(fmt.Sprint(part), func(t *testing.T) {
			t.Parallel()
			for seed := part + 1; seed <= *seeds; seed += share {
				tape := vdptest.Seeded(uint64(seed), tapeSteps)
				if v := vdptest.Play(tape, nil); v != nil {
					t.Fatalf("seed %d: %v\n%s", seed, v, shrunk(tape, v))
				}
			}
		})
	}
}

// shrunk tells the shortest tape that breaks the same invariant.
func shrunk(tape vdptest.Tape, v *vdptest.Violation) string {
	tape = vdptest.Shrink(tape, func(c vdptest.Tape) bool {
		w := vdptest.Play(c, nil)
		return w != nil && w.Invariant == v.Invariant
	})
	var told []string
	v = vdptest.Play(tape, func(line string) { told = append(told, line) })
	const most = 60
	if n := len(told); n > most {
		told = append([]string{fmt.Sprintf("(%d lines before)", n-most)}, told[n-most:]...)
	}
	return fmt.Sprintf("shrunk to %d steps: %v\n%s\ntape %v", len(tape.Steps), v, strings.Join(told, "\n"), tape)
}

// One tape, for who looks into it.
func TestSeed(t *testing.T) {
	played := vdptest.Seeded(uint64(*seed), tapeSteps)
	switch {
	case *tape != "":
		var err error
		played, err = vdptest.ParseTape(*tape)
		require.NoError(t, err)
	case *seed == 0:
		return
	}
	if v := vdptest.Play(played, func(line string) { t.Log(line) }); v != nil {
		t.Fatal(v)
	}
}

// tapes are those that once broke an invariant, a line each.
func tapes(t testing.TB) (all []vdptest.Tape) {
	text, err := os.ReadFile("testdata/tapes/failed")
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		tape, err := vdptest.ParseTape(line)
		require.NoError(t, err)
		all = append(all, tape)
	}
	return all
}

func TestTapesThatOnceFailed(t *testing.T) {
	for _, tape := range tapes(t) {
		if v := vdptest.Play(tape, nil); v != nil {
			t.Errorf("%v: %v", tape, v)
		}
	}
}

// FuzzWire looks for tapes by what they make the station do.
func FuzzWire(f *testing.F) {
	for _, tape := range tapes(f) {
		f.Add(tape.Bytes())
	}
	for seed := range uint64(8) {
		f.Add(vdptest.Seeded(seed+1, tapeSteps).Bytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if v := vdptest.Play(vdptest.TapeOf(b[:min(len(b), 1024)]), nil); v != nil {
			t.Fatal(v)
		}
	})
}
