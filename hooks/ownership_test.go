package hooks

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/hooktest"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
	"libvirt-direct/xmlfilter"
)

// One place answers who has what: nobody else asks the kernel who uses a virtual function,
// or looks through the claims.
func TestOneAnswerToWhoHasWhat(t *testing.T) {
	asks := []string{"VFUses", "VFUsed", "VFUseAt", "Claims", "Claimed"}
	found := 0
	require.NoError(t, filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (slices.Contains([]string{"../internal/link", "../internal/journal", "../hooks/hooktest", "../.git", "../.cache"}, path)):
			return filepath.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if sel, ok := call.Fun.(*ast.SelectorExpr); ok && slices.Contains(asks, sel.Sel.Name) {
					found++
					if !slices.Contains([]string{
						"../hooks/ownership.go", "../hooks/step/vfhands.go", // before, and when it is put back
						"../vdp/vdpd/internal/daemon/guests.go", // whose a VSI is, and no VF
					}, path) {
						t.Errorf("%s asks %s by itself", path, sel.Sel.Name)
					}
				}
			}
			return true
		})
		return nil
	}))
	require.Positive(t, found, "what is looked for has another name by now")
}

// The kernel holds a lock while it lists what a card says of its VFs. A domain without VFs
// never asks for that; else it is asked once before and once after each change.
func TestVFsAreReadNoMoreThanNeeded(t *testing.T) {
	for name, c := range map[string]struct {
		doc   string
		reads map[step.Op]int
	}{
		"no VF":    {domain(uuidA, "", direct(mac1, "ens1f1", "vepa")), nil},
		"plain VF": {domain(uuidA, "", direct(mac1, "vf0", "passthrough")), nil},
		// The baseline; once before and once behind each of trust and vlan; twice behind what puts them back.
		"managed": {domain(uuidA, vfWords(mac1, "trust='yes' vlan='42'"), direct(mac1, "vf0", "passthrough")), map[step.Op]int{step.Prepare: 1, step.Start: 1, step.Release: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newVFWorld(t)
			reads, dumps := 0, 0
			w.kernel.Gate = func(p hooktest.Point) error {
				switch p.Op {
				case "read the VFs of":
					reads++
				case "list":
					dumps++
				}
				return nil
			}
			for _, op := range []step.Op{step.Prepare, step.Start, step.Stopped, step.Release} {
				reads = 0
				w.must(op, c.doc)
				require.Equal(t, c.reads[op], reads, op)
				if op == step.Prepare && strings.Contains(c.doc, "vf0") {
					w.vfRuns(0, 90, mac1, 0)
				}
				if op == step.Stopped && strings.Contains(c.doc, "vf0") {
					w.vfEnds(0, 90)
				}
				require.Zero(t, dumps, "no hook lists all links")
			}
		})
	}
}

// crowd fills a journal with guests that hold a macvtap and a VLAN each.
func crowd(tb testing.TB, dir *journal.Dir, guests int) {
	tb.Helper()
	for i := range guests {
		uuid := fmt.Sprintf("%08x-0000-4000-8000-000000000001", i+1)
		j := dir.New(uuid, fmt.Sprintf("guest %d", i))
		for k, s := range []step.Step{
			{NIC: mac1, Kind: &step.VLAN{Name: "nicb.7", Parent: "nicb", ID: 7, ParentIndex: 9, Index: 77, Made: true}},
			{NIC: mac1, Kind: &step.Macvtap{Name: fmt.Sprintf("ldt%d", i), Lower: "nicb.7", Mode: "bridge", MAC: mac1, Index: 1000 + i}},
		} {
			resource, shared := s.Resource()
			e := journal.Entry{Resource: resource, Shared: shared, Gen: k, Phase: journal.Done}
			var err error
			e.Step, err = json.Marshal(s)
			require.NoError(tb, err)
			j.Entries = append(j.Entries, e)
		}
		require.NoError(tb, dir.Save(j))
	}
}

// An operation reads the journals that a hint names, and no others: what it costs does not
// grow with the guests of the host.
func TestCostDoesNotGrowWithTheGuests(t *testing.T) {
	for name, doc := range map[string]string{
		"plain macvtap": domain(uuidA, "", direct(mac1, "ens1f1", "vepa")),
		"plain VF":      domain(uuidA, "", direct(mac1, "vf0", "passthrough")),
		"own VLAN":      domain(uuidA, "", direct(mac1, "ens1f1.100", "vepa")),
		"free VF":       domain(uuidA, vfWords(mac1, "own='hook' uplink='fast' mode='passthrough'"), owned(mac1, "ldt1")),
	} {
		t.Run(name, func(t *testing.T) {
			cost := map[int]map[step.Op]int{}
			for _, guests := range []int{10, 500} {
				w := newVFWorld(t)
				disk := hooktest.NewDisk()
				w.hook.Journal = journal.On(w.journal, disk)
				require.NoError(t, w.hook.Journal.Make())
				crowd(t, w.hook.Journal, guests)
				cost[guests] = map[step.Op]int{}
				for _, op := range []step.Op{step.Prepare, step.Start, step.Stopped, step.Release} {
					disk.Gate = func(hooktest.Point) error { cost[guests][op]++; return nil }
					w.must(op, doc)
				}
			}
			require.Equal(t, cost[10], cost[500])
		})
	}
}

// A free choice among 256 virtual functions, of which all but the last are claimed and
// used, on a host with 1,000 guests.
func BenchmarkFreeChoice(b *testing.B) {
	k := hooktest.NewKernel("ens1f0")
	k.AddVFs("ens1f0", 256)
	dir, err := journal.Open(filepath.Join(b.TempDir(), "journal"))
	require.NoError(b, err)
	crowd(b, dir, 1000-255)
	for n := range 255 {
		v := k.Function(n)
		lower, err := k.ByName(b.Context(), v.Netdev)
		require.NoError(b, err)
		k.Add(link.Link{Name: fmt.Sprintf("macvtap%d", n), Kind: "macvtap", Mode: "passthrough", Parent: lower.Index})
		j := dir.New(fmt.Sprintf("%08x-0000-4000-8000-0000000000ff", n), "guest")
		e := journal.Entry{Resource: step.VFResource(v.VFPlace), Gen: 1, Phase: journal.Planned}
		e.Step, err = json.Marshal(step.Step{NIC: mac1, Kind: &step.VF{VFPlace: v.VFPlace, PFName: "ens1f0"}})
		require.NoError(b, err)
		j.Started, j.Entries = true, []journal.Entry{e}
		require.NoError(b, dir.Save(j))
	}
	cfg, err := config.Parse("test.toml", []byte(vfConfig))
	require.NoError(b, err)
	d, err := xmlfilter.Parse([]byte(domain(uuidA, "", direct(mac1, "fast", "passthrough"))))
	require.NoError(b, err)
	for b.Loop() {
		host, err := Survey(b.Context(), k, cfg, Records{Journal: dir}, d)
		if err != nil || len(host.Free["fast"]) != 1 {
			b.Fatal(host.Free, err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/choice")
}

// BenchmarkLife is a start and an end of a guest on a shared VLAN, beside others.
func BenchmarkLife(b *testing.B) {
	for _, guests := range []int{10, 2000} {
		b.Run(fmt.Sprint(guests, " guests"), func(b *testing.B) {
			k := hooktest.NewKernel("nica")
			dir, err := journal.Open(filepath.Join(b.TempDir(), "journal"))
			require.NoError(b, err)
			crowd(b, dir, guests)
			cfg, err := config.Parse("test.toml", nil)
			require.NoError(b, err)
			h := &Hook{
				Config: func() (*config.Config, error) { return cfg, nil }, Kernel: func() (step.Kernel, func(), error) { return k, func() {}, nil },
				OVS: func() step.Switch { return hooktest.NewOVS("") }, Journal: dir, Log: slog.New(slog.DiscardHandler), Privileged: true,
			}
			doc := domain(uuidA, "", direct(mac1, "nica.100", "vepa"))
			for b.Loop() {
				for _, op := range []step.Op{step.Prepare, step.Start, step.Stopped, step.Release} {
					if err := h.Run(b.Context(), Call{Domain: "vm", Op: op, Stdin: strings.NewReader(doc), Stdout: io.Discard}); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
