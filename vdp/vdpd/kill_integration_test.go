//go:build integration

package main_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/integration/host/hosttest"
	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
	"libvirt-direct/vdp/vdptest"
)

// quick are timers of both sides: a keepalive after 1.3 s, an answer within 1.1 s.
var quick = vdp.EVB{Retries: 3, RTE: 12, RWD: 15, RKA: 17}

const quickConfig = `[[uplink]]
name = "` + stationIf + `"
ecp_retries = 3
ecp_rte = 12
vdp_rwd = 15
vdp_rka = 17
`

// A life is that of three VSIs whose owner asks again until it has what it wants: they
// are associated, kept alive, and one is de-associated. At one ECPDU vdpd or the switch
// is killed.
type life struct {
	*host
	ed    vdp.Edition
	at    int           // the ECPDU that kills, 0 for none
	kill  func()        // whom
	bound time.Duration // for both sides to agree

	mu     sync.Mutex
	p      *process
	br     *vdptest.Server
	passed int // ECPDUs
	killed bool
}

// pass kills when the switch may have got the frame, and vdpd has not.
func (l *life) pass(w *wire, toSwitch bool, frame []byte) {
	if isECP(frame) {
		l.mu.Lock()
		l.passed++
		fatal := l.passed == l.at
		l.mu.Unlock()
		if fatal {
			if toSwitch { // it has been sent
				w.carry(l.T, toSwitch, frame)
			}
			l.kill()
			l.mu.Lock()
			l.killed = true
			l.mu.Unlock()
			if toSwitch {
				return
			}
		}
	}
	w.carry(l.T, toSwitch, frame)
}

func (l *life) count() (passed int, killed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.passed, l.killed
}

func (l *life) start() {
	p := l.vdpdOf("-debug", "-config", filepath.Join(l.dir, "vdpd.toml"))
	l.mu.Lock()
	l.p = p
	l.mu.Unlock()
}

// revive starts vdpd again if it was killed.
func (l *life) revive() {
	l.Helper()
	select {
	case <-l.p.end:
		l.start()
	default:
	}
}

// insist asks until it is granted.
func (l *life) insist(what string, ask func(*control.Client) error) {
	l.Helper()
	var err error
	hosttest.Eventually(l, 15*time.Second, what, func() bool {
		l.revive()
		err = ask(control.NewClient(l.controlPath()))
		return err == nil
	})
}

func (l *life) bridge() (modes [3]vdp.Mode, requests int) {
	l.Helper()
	require.NoError(l, l.br.Do(func(b *vdptest.Bridge) [][]byte {
		for i := range modes {
			modes[i] = b.Mode(testVSI(i + 1).ID)
		}
		requests = len(b.Log)
		return nil
	}))
	return modes, requests
}

// agreed is how long it may take to notice that the other side has forgotten all: a
// keepalive and its answer, and as long as vdpd does not listen when it has started.
func agreed(u control.Uplink) time.Duration {
	return time.Duration((u.Timers.Keepalive+u.Timers.Answer)*float64(time.Millisecond)) + 4*time.Second
}

// live goes through the life, and returns how many ECPDUs have passed and how long it
// took in the end until all agreed.
func (l *life) live() (int, time.Duration) {
	l.Helper()
	all := func(c *control.Client) error {
		errs := make([]error, 3)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { _, errs[i] = c.Associate(l.Context(), stationIf, testVSI(i+1)) })
		}
		wg.Wait()
		return errors.Join(errs...)
	}
	l.insist("association", all)
	keptAlive := func() {
		l.Helper()
		_, before := l.bridge()
		hosttest.Eventually(l, l.bound, "keepalives", func() bool {
			l.revive()
			_, now := l.bridge()
			return now >= before+3
		})
	}
	if l.ed == vdp.Edition2012 { // the draft's come in 10 s
		keptAlive()
	}
	l.insist("de-association", func(c *control.Client) error {
		if err := c.DeAssociate(l.Context(), "", testVSI(3).ID); !errors.Is(err, vdp.ErrUnknownVSI) {
			return err
		}
		return nil
	})
	passed, _ := l.count()
	hosttest.Eventually(l, 30*time.Second, "its ECPDU", func() bool {
		l.revive()
		_, killed := l.count()
		return killed || l.at == 0
	})
	begin := time.Now()
	l.revive()
	want := [3]vdp.Mode{vdp.Associate, vdp.Associate}
	var (
		have [3]vdp.Mode
		u    control.Uplink
	)
	l.Cleanup(func() {
		if l.Failed() {
			l.Logf("the switch has %v, vdpd %d of %d VSIs", have, u.Established, u.VSIs)
		}
	})
	hosttest.Eventually(l, l.bound, "agreement", func() bool {
		have, _ = l.bridge()
		u = l.uplink()
		return have == want && u.VSIs == 2 && u.Established == 2
	})
	return passed, time.Since(begin)
}

func newLife(t *testing.T, ed vdp.Edition, at int, victim string) *life {
	t.Helper()
	l := &life{host: makeHost(t), ed: ed, at: at}
	l.kill = func() {
		l.mu.Lock()
		p, br := l.p, l.br
		l.mu.Unlock()
		if victim == "switch" {
			if err := br.Do(func(b *vdptest.Bridge) [][]byte { b.Restart(); return nil }); err != nil {
				t.Error(err)
			}
			return
		}
		if err := p.cmd.Process.Signal(unix.SIGKILL); err != nil {
			t.Error(err)
		}
		<-p.end
	}
	l.wire(l.pass)
	require.NoError(t, os.WriteFile(filepath.Join(l.dir, "vdpd.toml"), []byte(quickConfig), 0o600))
	br := l.responder(vdptest.Config{Edition: ed, EVB: quick})
	l.mu.Lock()
	l.br = br
	l.mu.Unlock()
	l.start()
	l.ready()
	l.bound = agreed(l.uplink())
	return l
}

// Whoever is killed, and at which ECPDU: in the end the switch and vdpd have what the
// VSIs' owner wants.
func TestKilledAtEachECPDU(t *testing.T) {
	requireRoot(t)
	t.Parallel()
	type death struct {
		ed     vdp.Edition
		at     int
		victim string
	}
	var deaths []death
	for _, ed := range []vdp.Edition{vdp.Edition2012, vdp.EditionDraft} {
		t.Run("nobody/"+ed.String(), func(t *testing.T) {
			passed, _ := newLife(t, ed, 0, "").live()
			t.Logf("%d ECPDUs", passed)
			for _, victim := range []string{"vdpd", "switch"} {
				for at := range passed {
					deaths = append(deaths, death{ed, at + 1, victim})
				}
			}
		})
	}
	queue := make(chan death)
	var (
		wg      sync.WaitGroup
		mu      sync.Mutex
		longest time.Duration
	)
	for range 12 {
		wg.Go(func() {
			for d := range queue {
				t.Run(fmt.Sprintf("%s/%v/%d", d.victim, d.ed, d.at), func(t *testing.T) {
					_, took := newLife(t, d.ed, d.at, d.victim).live()
					t.Logf("all agree %v after the end", took.Round(time.Millisecond))
					mu.Lock()
					defer mu.Unlock()
					longest = max(longest, took)
				})
			}
		})
	}
	for _, d := range deaths {
		queue <- d
	}
	close(queue)
	wg.Wait()
	t.Logf("%d deaths; all agree within %v", len(deaths), longest.Round(time.Millisecond))
}
