package hooks

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/hooktest"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/state"
)

// program is the hook and gc on the host of a simulated world.
func program(t *testing.T) hooktest.Program {
	cfg, err := config.Parse("world.toml", []byte(hooktest.Config))
	require.NoError(t, err)
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	station := func(p *hooktest.Process) func(context.Context) (Station, func(), error) {
		return func(context.Context) (Station, func(), error) { return p.Station, func() {}, nil }
	}
	return hooktest.Program{
		Hook: func(ctx context.Context, p *hooktest.Process, c hooktest.Call) (string, error) {
			var out bytes.Buffer
			h := &Hook{
				Config:  func() (*config.Config, error) { return cfg, nil },
				Kernel:  func() (Kernel, func(), error) { return p.Kernel, func() {}, nil },
				Station: station(p), OVS: func() Switch { return p.OVS },
				Journal: state.On("/run/libvirt-direct", p.Disk), Libvirt: p.Libvirt.FS(), Log: log, Privileged: true,
			}
			err := h.Run(ctx, Call{Domain: c.Domain, Op: Op(c.Op), Stdin: strings.NewReader(c.XML), Stdout: &out})
			return out.String(), err
		},
		Collect: func(ctx context.Context, p *hooktest.Process, alive func(context.Context, string) (bool, error)) error {
			c := &Collector{
				Kernel: p.Kernel, Station: station(p), OVS: func() Switch { return p.OVS }, Dir: state.On("/run/libvirt-direct", p.Disk),
				Alive: func(ctx context.Context, uuid, _ string) (bool, error) { return alive(ctx, uuid) },
			}
			_, err := c.Run(ctx)
			return err
		},
	}
}

// tapeLength is how many decisions a seed's story has before it becomes dull.
const tapeLength = 800

// The simulation finds, by seeds from 1 on, what reviews found by reading. The stories of
// the first ones are printed with -v.
func TestSimulationFindsWhatReviewsFound(t *testing.T) {
	for _, fault := range []struct {
		name      string
		invariant string
		is        func(*hooktest.Violation) bool
	}{
		{"1: a refused start changes the VF of the guest that runs", "kept", func(v *hooktest.Violation) bool {
			return strings.Contains(v.What, "of its VF") || strings.Contains(v.What, "is down")
		}},
		{"2: two free choices, two migrations get one VF", "distinct", func(*hooktest.Violation) bool { return true }},
		{"6: an undo that fails keeps a domain from starting", "refused", func(v *hooktest.Violation) bool {
			return strings.Contains(v.What, "Open vSwitch") && !strings.Contains(v.What, "(ovs,")
		}},
	} {
		t.Run(fault.name, func(t *testing.T) {
			prog := program(t)
			for seed := uint64(1); seed <= 200; seed++ {
				if v := hooktest.Play(t, prog, hooktest.Seeded(seed, tapeLength)); v != nil && v.Invariant == fault.invariant && fault.is(v) {
					t.Logf("seed %d: %v", seed, v)
					return
				}
			}
			t.Error("not found")
		})
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
