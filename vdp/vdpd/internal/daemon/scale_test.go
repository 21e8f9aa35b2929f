package daemon

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
	"libvirt-direct/vdp/vdpnl"
	"libvirt-direct/vdp/vdptest"
)

// A scale is a daemon whose ports have established VSIs, in front of bridges in
// memory, with a state file. What it does is done on its first port.
type scale struct {
	d       *Daemon
	p       *port
	bridges []*vdptest.Bridge
	now     time.Time
	file    stateFile
	request []byte
	vsis    int // of all ports
	n       int
}

// newScale makes one, with as many ports as numbers of VSIs.
func newScale(tb testing.TB, vsis []int) *scale {
	tb.Helper()
	s := &scale{now: time.Unix(1e9, 0)}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	s.d = &Daemon{log: log, nl: &endpoint{pid: 99}, watchers: make(map[*watcher]watcher), links: newLinkTable()}
	s.d.evidence = newEvidence(s.d)
	s.file = newFile(filepath.Join(memoryDir(tb), "state.json"))
	s.d.saver = newSaver("", nil, log) // takes note; the file is saved by what measures it
	for i, n := range vsis {
		u := uplinkState{vsis: make(map[vdp.ID]kept)}
		for j := range n {
			v := manyVSIs(j)
			u.vsis[v.ID] = kept{VSI: v, Mode: vdp.Associate}
		}
		br := vdptest.NewBridge(vdptest.Config{MAC: vdp.MAC{2, 0xbb, byte(i)}, Edition: vdp.EditionDraft})
		p := newPort(Uplink{Name: fmt.Sprint("eth", i), Edition: "draft"}, u, log)
		p.saver = s.d.saver
		s.d.ports, s.bridges = append(s.d.ports, p), append(s.bridges, br)
		out, err := p.attach(s.now, 3+i, vdp.MAC{2, 0xaa, byte(i)}, 1500, func(f []byte) error {
			for _, g := range br.Handle(s.now, f) {
				s.d.frame(s.now, p, g)
			}
			return nil
		})
		require.NoError(tb, err)
		s.d.apply(s.now, p, out)
		s.d.apply(s.now, p, p.link(s.now, true))
		for _, g := range br.Tick(s.now) {
			s.d.frame(s.now, p, g)
		}
	}
	for i, p := range s.d.ports {
		for end := s.now.Add(time.Minute); p.status(s.now).Established < vsis[i] && s.now.Before(end); s.now = s.now.Add(2 * time.Millisecond) {
			s.d.tick(s.now)
			for _, g := range s.bridges[i].Tick(s.now) {
				s.d.frame(s.now, p, g)
			}
		}
		require.Equal(tb, vsis[i], p.status(s.now).Established, p.cfg.Name)
		s.vsis += vsis[i]
	}
	s.p = s.d.ports[0]
	records, _ := s.d.saver.take()
	require.NoError(tb, s.file.save(records))
	require.Equal(tb, len(vsis)+s.vsis, len(s.file.live))
	v := manyVSIs(vsis[0] / 2)
	s.request = (&vdpnl.Request{Header: vdpnl.Header{Seq: 1}, Ifname: s.p.cfg.Name, Set: &vdpnl.Set{Mode: vdp.Associate, VSI: v}}).Marshal()
	tb.Cleanup(func() { s.file.close() })
	return s
}

// memoryDir is in memory, as /run is.
func memoryDir(tb testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "vdpd")
	if err != nil {
		return tb.TempDir()
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// tick is a deadline that has come.
func (s *scale) tick() {
	s.d.deadlines.set(s.p, s.now)
	s.d.tick(s.now)
	s.d.wait(s.now)
}

// change is a request of libvirt's for a VSI, and the switch's answer.
func (s *scale) change(tb testing.TB) {
	s.now = s.now.Add(10 * time.Millisecond)
	before := s.p.results.latest.Front().Value.(*resultEntry)
	replies := s.d.request(s.now, s.request)
	after := s.p.results.latest.Front().Value.(*resultEntry)
	if r, err := vdpnl.ParseReply(replies[0]); err != nil || r.Errno != unix.Errno(0) || !after.done {
		tb.Fatal(r, err, before, after)
	}
	s.bridges[0].Log = s.bridges[0].Log[:0]
}

// save is what the state file costs for one change.
func (s *scale) save(tb testing.TB) {
	s.n++
	k := kept{VSI: manyVSIs(s.n % 10), Mode: vdp.Associate}
	if err := s.file.save([]record{{Uplink: s.p.cfg.Name, Set: &k}}); err != nil {
		tb.Fatal(err)
	}
}

func BenchmarkScale(b *testing.B) {
	for _, size := range []struct{ ports, vsis int }{{1, 10}, {64, 10}, {64, 1000}} {
		b.Run(fmt.Sprintf("%dx%d", size.ports, size.vsis), func(b *testing.B) {
			s := newScale(b, slices.Repeat([]int{size.vsis}, size.ports))
			b.Run("tick", func(b *testing.B) {
				for b.Loop() {
					s.tick()
				}
			})
			b.Run("change", func(b *testing.B) {
				for b.Loop() {
					s.change(b)
				}
			})
			b.Run("save", func(b *testing.B) {
				for b.Loop() {
					s.save(b)
				}
			})
			b.Run("status", func(b *testing.B) {
				for b.Loop() {
					s.p.status(s.now)
				}
			})
			b.Run("getlink", func(b *testing.B) {
				for b.Loop() {
					vdpnl.Status(vdpnl.Header{}, 1, 2, s.p.results.ports())
				}
			})
			b.Run("list", func(b *testing.B) {
				c := s.serve(b)
				for b.Loop() {
					s.list(b, c)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size.ports*size.vsis), "ns/VSI")
			})
		})
	}
}

// serve opens a control socket. Nothing else is done with the daemon from then
// on.
func (s *scale) serve(tb testing.TB) *control.Client {
	path := filepath.Join(memoryDir(tb), "control")
	socket, err := listenControl(path, "", s.d)
	require.NoError(tb, err)
	s.d.work = make(chan func(time.Time))
	ctx, cancel := context.WithCancel(tb.Context())
	served := make(chan error)
	go func() { served <- socket.serve(ctx) }()
	ran := make(chan struct{})
	go func() {
		defer close(ran)
		for {
			select {
			case f := <-s.d.work:
				f(s.now)
			case <-ctx.Done():
				return
			}
		}
	}()
	tb.Cleanup(func() {
		cancel()
		<-served
		<-ran
	})
	return control.NewClient(path)
}

// list is "vsi list", from the request to the last VSI in the client's memory.
func (s *scale) list(tb testing.TB, c *control.Client) {
	l, err := c.List(tb.Context(), "")
	if err != nil || len(l) != s.vsis {
		tb.Fatal(len(l), s.vsis, err)
	}
}

// What is done often costs the same with 10 VSIs and with 64,000, within 10 %.
// Both are measured in turn, in small portions, and the medians compared: what
// else the machine does hits either. It is for "make long".
func TestScale(t *testing.T) {
	small := newScale(t, []int{10})
	small.tick()
	small.change(t)
	small.save(t)
	if os.Getenv("LONG") != "1" {
		t.Skip("for make long")
	}
	busy := newScale(t, slices.Repeat([]int{1000}, 64))
	for against, large := range map[string]*scale{
		"64x1000":                  busy,
		"10 and 63x1000 of others": newScale(t, append([]int{10}, slices.Repeat([]int{1000}, 63)...)),
	} {
		for name, f := range map[string]func(s *scale){
			"tick":   func(s *scale) { s.tick() },
			"change": func(s *scale) { s.change(t) },
			"save":   func(s *scale) { s.save(t) },
		} {
			t.Run(name+" with "+against, func(t *testing.T) { sameCost(t, small, large, f) })
		}
	}
	t.Run("list", func(t *testing.T) {
		const limit = 3 * time.Microsecond
		c := busy.serve(t)
		best := time.Duration(math.MaxInt64)
		for range 20 {
			start := time.Now()
			busy.list(t, c)
			best = min(best, time.Since(start)/64000)
		}
		t.Logf("list: %v for each VSI", best)
		require.LessOrEqual(t, best, limit)
	})
}

func sameCost(t *testing.T, small, large *scale, f func(s *scale)) {
	const portions, portion = 1000, 20
	best := math.Inf(1)
	for range 5 {
		var took [2][]time.Duration
		for range portions {
			for i, s := range []*scale{small, large} {
				start := time.Now()
				for range portion {
					f(s)
				}
				took[i] = append(took[i], time.Since(start)/portion)
			}
		}
		slices.Sort(took[0])
		slices.Sort(took[1])
		a, b := took[0][portions/2], took[1][portions/2]
		t.Logf("%v with 10 VSIs, %v", a, b)
		if best = min(best, float64(b)/float64(a)); best <= 1.1 {
			return
		}
	}
	t.Errorf("%.2f times the cost with 10 VSIs", best)
}
