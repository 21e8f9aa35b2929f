package hooks

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/hooktest"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/journal"
)

// program is the hook and gc on the host of a simulated world.
func program(t *testing.T) hooktest.Program {
	cfg, err := config.Parse("world.toml", []byte(hooktest.Config))
	require.NoError(t, err)
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	station := func(p *hooktest.Process) func(context.Context) (step.Station, func(), error) {
		return func(context.Context) (step.Station, func(), error) { return p.Station, func() {}, nil }
	}
	return hooktest.Program{
		Hook: func(ctx context.Context, p *hooktest.Process, c hooktest.Call) (string, error) {
			var out bytes.Buffer
			h := &Hook{
				Config:  func() (*config.Config, error) { return cfg, nil },
				Kernel:  func() (step.Kernel, func(), error) { return p.Kernel, func() {}, nil },
				Station: station(p), OVS: func() step.Switch { return p.OVS },
				Journal: journalOf(p), Libvirt: p.Libvirt, Log: log, Privileged: true,
			}
			err := h.Run(ctx, Call{Domain: c.Domain, Op: step.Op(c.Op), Stdin: strings.NewReader(c.XML), Stdout: &out})
			return out.String(), err
		},
		Collect: func(ctx context.Context, p *hooktest.Process, alive func(context.Context, string) (bool, error)) error {
			c := &Collector{
				Kernel: p.Kernel, Station: station(p), OVS: func() step.Switch { return p.OVS }, Dir: journalOf(p), Libvirt: p.Libvirt,
				Alive: func(ctx context.Context, uuid, _ string) (bool, error) { return alive(ctx, uuid) },
			}
			_, err := c.Run(ctx)
			return err
		},
	}
}

// journalOf is a process's journal, on whose host the clock began with the story.
func journalOf(p *hooktest.Process) *journal.Dir {
	d := journal.On("/run/libvirt-direct", p.Disk)
	d.Clock = p.Clock
	return d
}

// tapeLength is how many decisions a seed's story has before it becomes dull.
const tapeLength = 800

var seeds = flag.Int("seeds", 2000, "how many stories TestSeeds plays")

// Stories of consecutive seeds break no invariant. The first that does is told as short as
// it can be made, with its tape, for testdata/tapes.
func TestSeeds(t *testing.T) {
	const share = 4
	for part := range share {
		t.Run(fmt.Sprint(part), func(t *testing.T) {
			t.Parallel()
			prog := program(t)
			for seed := part + 1; seed <= *seeds; seed += share {
				tape := hooktest.Seeded(uint64(seed), tapeLength)
				if v := hooktest.Play(t, prog, tape); v != nil {
					same := func(b []byte) bool {
						short := hooktest.Play(t, prog, b)
						return short != nil && short.Invariant == v.Invariant
					}
					tape = hooktest.Shrink(tape, same)
					t.Fatalf("seed %d: %v\ntape %s", seed, hooktest.Play(t, prog, tape), hooktest.Line(tape))
				}
			}
		})
	}
}

// tapes are those that once told a story that went wrong, a line each.
func tapes(t testing.TB) [][]byte {
	text, err := os.ReadFile("testdata/tapes/failed")
	require.NoError(t, err)
	var all [][]byte
	for line := range strings.Lines(string(text)) {
		tape, err := hooktest.FromLine(line)
		require.NoError(t, err)
		all = append(all, tape)
	}
	return all
}

func TestTapesThatOnceFailed(t *testing.T) {
	prog := program(t)
	for _, tape := range tapes(t) {
		if v := hooktest.Play(t, prog, tape); v != nil {
			t.Errorf("%s: %v", hooktest.Line(tape), v)
		}
	}
}

// FuzzWorld looks for stories by what they make the hook do. go test -fuzz=FuzzWorld
// finds and shortens one; its tape belongs into testdata/tapes then.
func FuzzWorld(f *testing.F) {
	for _, tape := range tapes(f) {
		f.Add(tape)
	}
	f.Fuzz(func(t *testing.T, tape []byte) {
		if v := hooktest.Play(t, program(t), tape[:min(len(tape), 4096)]); v != nil {
			t.Fatal(v)
		}
	})
}

var seed = flag.Int("seed", 0, "the seed whose story TestSeed tells, with each boundary")

// One story, for who looks into it.
func TestSeed(t *testing.T) {
	if *seed == 0 {
		return
	}
	prog := program(t)
	prog.Trace = true
	if v := hooktest.Play(t, prog, hooktest.Seeded(uint64(*seed), tapeLength)); v != nil {
		t.Fatal(v)
	}
}

// crashPoints is where the journals of commit aa6990d lie, taken at each point at which
// its hook could be killed, with the host that they are about.
const crashPoints = "testdata/aa6990d.jsonl"

func TestWriteCrashPoints(t *testing.T) {
	if !*update { // as at the commit that they are about, and never again
		return
	}
	var out bytes.Buffer
	seen := map[string]bool{}
	for _, s := range hooktest.CrashPoints(t, program(t)) {
		line, err := json.Marshal(s)
		require.NoError(t, err)
		if len(s.Disk) == 0 { // nothing is left
			continue
		}
		unnamed := s
		unnamed.Name = ""
		key, err := json.Marshal(unnamed)
		require.NoError(t, err)
		if !seen[string(key)] {
			seen[string(key)] = true
			out.Write(append(line, '\n'))
		}
	}
	require.NoError(t, os.WriteFile(crashPoints, out.Bytes(), 0o644))
}

func TestJournalsOfEachCrashPointEndAtTheBaseline(t *testing.T) {
	data, err := os.ReadFile(crashPoints)
	require.NoError(t, err)
	prog := program(t)
	for _, line := range bytes.Split(bytes.TrimSpace(data), []byte("\n")) {
		var s hooktest.Snapshot
		require.NoError(t, json.Unmarshal(line, &s))
		if v := hooktest.Resume(t, prog, s); v != nil {
			t.Errorf("%s: %v", s.Name, v)
		}
	}
}
