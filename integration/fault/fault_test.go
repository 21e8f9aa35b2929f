//go:build integration

package fault

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
)

var (
	seed  = flag.Uint64("seed", 1, "chooses which of the faults are tried")
	cases = flag.Int("cases", hosttest.Rounds(400, 0), "how many faults are tried, of all operations together; 0 is all of them")
	only  = flag.String("only", "", "tries only faults whose description contains this")
)

func TestMain(m *testing.M) {
	host.MaybeInit()
	if os.Getenv(workerVariable) != "" {
		if err := work(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "fault worker:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A worker is this program, once more, on a host of its own.
type worker struct {
	cmd *host.Cmd
	in  *json.Encoder
	out *json.Decoder
}

func (w *worker) do(r request) (a answer, err error) {
	if err = w.in.Encode(r); err == nil {
		err = w.out.Decode(&a)
	}
	return a, err
}

func newWorker(ctx context.Context, t *testing.T, name, bin string) *worker {
	t.Helper()
	p := hosttest.NewPeer(ctx, t, host.Options{Name: name})
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := p.Command(ctx, self)
	cmd.Env = append(cmd.Env, workerVariable+"="+bin)
	cmd.Stderr = t.Output()
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { in.Close(); cmd.Wait() }) // it ends then, or with ctx
	return &worker{cmd, json.NewEncoder(in), json.NewDecoder(bufio.NewReader(out))}
}

func build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, source := range map[string]string{"qemu": "../../hooks/qemu", "libvirt-direct": "../../cmd/libvirt-direct"} {
		c := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, name), source)
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := c.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	return dir
}

// Whatever system call of the hook fails, or is its last: the hook ends in time, with
// status 0 or 1 and at most one line, and what libvirt does next, and then gc or the
// domain's next start, leave the host as it was.
func TestEveryCallFails(t *testing.T) {
	hosttest.Require(t)
	if traced != "" {
		t.Skip(traced)
	}
	until, ok := t.Deadline()
	if until = until.Add(-30 * time.Second); !ok {
		until = time.Now().Add(time.Hour)
	}
	ctx, cancel := context.WithDeadline(t.Context(), until) // so that it ends with a word of what it was at
	t.Cleanup(cancel)
	bin := build(t)
	workers := make([]*worker, 6)
	for i := range workers {
		workers[i] = newWorker(ctx, t, fmt.Sprint("w", i), bin)
	}

	var all []request
	skips := map[string]int{}
	for _, o := range operations {
		op := o.name
		a, err := workers[0].do(request{Op: op})
		require.NoError(t, err)
		require.Empty(t, a.Problems, "%s without a fault", op)
		fs, places, err := faults(a.Calls)
		require.NoError(t, err)
		for _, c := range a.Calls {
			if c.Runtime == "" {
				continue
			}
			skips[c.Name]++
			require.Contains(t, skipped, c.Name, "a system call of %s is to be documented", c.Runtime)
		}
		t.Logf("%s: %d system calls at %d sites of ours, %d faults", op, len(a.Calls), places, len(fs))
		require.Greater(t, places, 40, op)
		for _, f := range fs {
			all = append(all, request{Op: op, Fault: &f})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(skips)) {
		t.Logf("skipped: %d of %s: %s", skips[name], name, skipped[name])
	}
	chosen := choose(all)
	t.Logf("of %d faults at %d sites, %d at %d sites are tried (-seed %d)", len(all), sites(all), len(chosen), sites(chosen), *seed)

	queue := make(chan request)
	go func() {
		defer close(queue)
		for _, r := range chosen {
			select {
			case queue <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	var mu sync.Mutex
	var wg sync.WaitGroup
	tally := map[string]map[string]int{}
	for _, w := range workers {
		wg.Go(func() {
			for r := range queue {
				begin := time.Now()
				a, err := w.do(r)
				mu.Lock()
				if err != nil {
					t.Errorf("%s: worker: %v", r, err)
					mu.Unlock()
					return
				}
				if tally[r.Op] == nil {
					tally[r.Op] = map[string]int{}
				}
				tally[r.Op][a.Result]++
				if a.Again {
					tally[r.Op]["not clean before "+r.Then]++
				}
				if len(a.Problems) > 0 {
					t.Errorf("%s (%v):\n  at %s\n  %s", r, time.Since(begin).Round(time.Millisecond), r.Fault.Call.Site, strings.Join(a.Problems, "\n  "))
				} else if a.Again && (r.Op == "prepare" || r.Op == "start") && testing.Verbose() && *only != "" {
					t.Logf("%s: clean only after %s: %s", r, r.Then, a.Stderr)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	require.NoError(t, ctx.Err())
	missed := 0
	for _, o := range operations {
		t.Logf("%s: %v", o.name, tally[o.name])
		missed += tally[o.name]["not reached"]
	}
	// How often a lock or a device node is waited for differs.
	require.LessOrEqual(t, missed, 5+len(chosen)/20, "calls that were listed and not made again")
}

// sites counts the places in our code, of each operation apart.
func sites(rs []request) int {
	at := map[string]bool{}
	for _, r := range rs {
		at[r.Op+" "+r.Fault.Call.key()] = true
	}
	return len(at)
}

// choose draws the faults to try. Each gets one of what can come next, or with LONG=1 all.
func choose(all []request) []request {
	rnd := rand.New(rand.NewPCG(*seed, 0))
	var chosen []request
	for _, r := range all {
		if !strings.Contains(r.String(), *only) {
			continue
		}
		thens := []string{"gc", "next start"}
		if hosttest.Rounds(1, len(thens)) == 1 {
			thens = []string{thens[rnd.IntN(len(thens))]}
		}
		for _, r.Then = range thens {
			chosen = append(chosen, r)
		}
	}
	rnd.Shuffle(len(chosen), func(i, j int) { chosen[i], chosen[j] = chosen[j], chosen[i] })
	// A second one at a site comes after the first at all others.
	rank, seen := map[*fault]int{}, map[string]int{}
	for _, r := range chosen {
		site := r.Op + r.Fault.Call.key()
		rank[r.Fault] = seen[site]
		seen[site]++
	}
	slices.SortStableFunc(chosen, func(a, b request) int { return rank[a.Fault] - rank[b.Fault] })
	if *cases > 0 {
		chosen = chosen[:min(*cases, len(chosen))]
	}
	return chosen
}
