package daemon

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
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
	n       int
}

// newScale makes one. The first port has as many VSIs as the others.
func newScale(tb testing.TB, ports, vsis int) *scale {
	tb.Helper()
	s := &scale{now: time.Unix(1e9, 0)}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	s.d = &Daemon{log: log, nl: &endpoint{pid: 99}, watchers: make(map[*watcher]watcher)}
	s.file = newFile(filepath.Join(shortDir(tb), "state.json"))
	s.d.saver = newSaver("", nil, log) // takes note; the file is saved by what measures it
	for i := range ports {
		u := uplinkState{vsis: make(map[vdp.ID]kept)}
		for j := range vsis {
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
		for end := s.now.Add(time.Minute); p.status().Established < vsis && s.now.Before(end); s.now = s.now.Add(2 * time.Millisecond) {
			s.d.tick(s.now)
			for _, g := range s.bridges[i].Tick(s.now) {
				s.d.frame(s.now, p, g)
			}
		}
		require.Equal(tb, vsis, p.status().Established, p.cfg.Name)
	}
	s.p = s.d.ports[0]
	require.NoError(tb, s.file.save(s.d.saver.take()))
	require.Equal(tb, ports*(vsis+1), len(s.file.live))
	v := manyVSIs(vsis / 2)
	s.request = (&vdpnl.Request{Header: vdpnl.Header{Seq: 1}, Ifname: s.p.cfg.Name, Set: &vdpnl.Set{Mode: vdp.Associate, VSI: v}}).Marshal()
	tb.Cleanup(func() { s.file.close() })
	return s
}

// shortDir is in memory, as /run is.
func shortDir(tb testing.TB) string {
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
			s := newScale(b, size.ports, size.vsis)
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
	path := filepath.Join(shortDir(tb), "control")
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
	if want := len(s.d.ports) * s.p.status().VSIs; err != nil || len(l) != want {
		tb.Fatal(len(l), want, err)
	}
}
