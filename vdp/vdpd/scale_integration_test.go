//go:build integration

package main_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/integration/host/hosttest"
	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
	"libvirt-direct/vdp/vdptest"
)

// A thousand VSIs on one port, and a crash with them.
func TestThousand(t *testing.T) {
	const n = 1000
	for _, peer := range []string{"responder", "lldpad"} {
		t.Run(peer, func(t *testing.T) {
			h := newHost(t)
			if peer == "lldpad" {
				h.lldpadBridge2012()
			} else {
				h.responder(vdptest.Config{Edition: vdp.Edition2012})
			}
			p := h.vdpd()
			switchReady(h, p)
			l := h.libvirt(p.cmd.Process.Pid)
			var guests []vdp.VSI
			for i := range n {
				guests = append(guests, testVSI(i))
			}
			h.devices(guests...)
			before := h.uplink()
			start := time.Now()
			for i := range n {
				require.Zero(t, l.set(vdp.Associate, testVSI(i)))
			}
			asked := time.Since(start)
			hosttest.Eventually(h, 60*time.Second, "1000 associations", func() bool { return h.uplink().Established == n })
			t.Logf("%d VSIs: accepted after %v, associated after %v; %.2f ECP frames sent for each, %.2f received; %d KiB resident", n, asked, time.Since(start),
				float64(h.uplink().Sent.ECP-before.Sent.ECP)/n, float64(h.uplink().Received.ECP-before.Received.ECP)/n, rss(t, p.cmd.Process.Pid))
			require.Zero(t, l.status(testVSI(n-1)))

			hosttest.Eventually(h, 20*time.Second, "state", func() bool {
				b, _ := os.ReadFile(filepath.Join(h.dir, "state.json"))
				return strings.Count(string(b), `"mode"`) >= n
			})
			p.signal(unix.SIGKILL)
			start = time.Now()
			h.vdpd()
			hosttest.Eventually(h, 60*time.Second, "1000 restored", func() bool { return h.uplink().Established == n })
			t.Logf("%d VSIs restored %v after the start", n, time.Since(start))
		})
	}
}

// uplink is vdpd's own view of the port.
func (h *host) uplink() control.Uplink {
	h.Helper()
	u, err := control.NewClient(h.controlPath()).Status(h.Context())
	require.NoError(h, err)
	return u[0]
}

func rss(t *testing.T, pid int) int {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	require.NoError(t, err)
	_, s, _ := strings.Cut(string(b), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(s)[0])
	require.NoError(t, err)
	return kib
}

// vdpd and lldpad by turns as libvirt's station, each in front of a switch of the
// draft, the edition in which lldpad's rtnetlink works.
func TestAgainstLldpadStation(t *testing.T) {
	const (
		rounds = 6
		alone  = 10 // VSIs, one after the other
		batch  = 50 // at once: lldpad's GETLINK has room for about 90
	)
	type station struct {
		name      string
		l         *libvirt
		br        *vdptest.Server
		one, many []time.Duration
		pdus      int
	}
	ours := station{name: "vdpd"}
	h := newHost(t)
	ours.br = h.responder(vdptest.Config{Edition: vdp.EditionDraft})
	p := h.vdpd()
	switchReady(h, p)
	hosttest.Eventually(h, 20*time.Second, "EVB both ways", func() bool { return h.uplink().Error == nil })
	ours.l = h.libvirt(p.cmd.Process.Pid)

	theirs := station{name: "lldpad"}
	other := h.another()
	theirs.br = other.responder(vdptest.Config{Edition: vdp.EditionDraft})
	_, theirs.l = other.lldpadStation()

	measure := func(s *station) {
		// The switch knows when it heard of the last one; asking it again and again would cost the station its processor.
		held := func(want int) (last time.Time) {
			hosttest.Eventually(s.l.host, 60*time.Second, "VSIs at the switch", func() (all bool) {
				require.NoError(t, s.br.Do(func(b *vdptest.Bridge) [][]byte {
					all, last, s.pdus = b.Len() == want, b.Log[len(b.Log)-1].At, b.ECPDUs
					return nil
				}))
				return all
			})
			return last
		}
		for i := range alone {
			start := time.Now()
			require.Zero(t, s.l.set(vdp.Associate, testVSI(i)))
			require.Zero(t, s.l.result(testVSI(i)))
			s.one = append(s.one, time.Since(start))
		}
		held(alone)
		start, before := time.Now(), s.pdus
		for i := range batch {
			require.Zero(t, s.l.set(vdp.Associate, testVSI(alone+i)))
		}
		asked := time.Since(start)
		all := held(alone + batch).Sub(start)
		s.many = append(s.many, all)
		t.Logf("%s: %d at once: asked for after %v, all at the switch after %v, in %d ECPDUs", s.name, batch, asked, all, s.pdus-before)
		for i := range alone + batch {
			require.Zero(t, s.l.set(vdp.DeAssociate, testVSI(i)))
		}
		held(0)
		// lldpad forgets what has ended when it is asked, and then leaves out the next one.
		if s == &theirs {
			hosttest.Eventually(s.l.host, 60*time.Second, "lldpad to forget", func() bool { return s.l.ports() == 0 })
		}
	}
	require.Zero(t, theirs.l.set(vdp.DeAssociate, testVSI(1))) // lldpadStation's
	for range rounds {
		measure(&ours)
		measure(&theirs)
	}
	median := func(d []time.Duration) time.Duration { slices.Sort(d); return d[len(d)/2] }
	for _, s := range []*station{&ours, &theirs} {
		t.Logf("%s: SETLINK to SUCCESS %v (median of %d, %v to %v); %d at once %v (median of %d, %v to %v)", s.name,
			median(s.one), len(s.one), s.one[0], s.one[len(s.one)-1], batch, median(s.many), len(s.many), s.many[0], s.many[len(s.many)-1])
	}
	t.Logf("vdpd/lldpad: SETLINK to SUCCESS %.2f, %d at once %.2f", float64(median(ours.one))/float64(median(theirs.one)),
		batch, float64(median(ours.many))/float64(median(theirs.many)))
}

// lldpadStation runs lldpad as a station of the draft, agreed with the switch.
func (h *host) lldpadStation() (*process, *libvirt) {
	h.Helper()
	p := h.lldpad(h.a)
	h.lldptool(h.a, "-L", "-i", stationIf, "-g", "ncb", "adminStatus=rxtx")
	for _, c := range [][2]string{
		{"vdp", "enableTx=yes"}, {"vdp", "role=station"},
		{"evbCfg", "fmode=reflectiverelay"}, {"evbCfg", "capabilities=rte,ecp,vdp"}, {"evbCfg", "enableTx=yes"},
	} {
		h.lldptool(h.a, "-T", "-i", stationIf, "-g", "ncb", "-V", c[0], "-c", c[1])
	}
	pid, err := strconv.Atoi(strings.TrimSpace(h.sh("ip", "netns", "exec", h.a, "lldptool", "ping")))
	require.NoError(h, err)
	require.NoError(h, unix.Kill(pid, unix.SIGHUP)) // or it stays in the 2012 edition
	l := h.libvirt(pid)
	v := testVSI(1)
	hosttest.Eventually(h, 20*time.Second, "lldpad's readiness", func() bool { return l.set(vdp.Associate, v) == 0 })
	require.Zero(h, l.result(v))
	return p, l
}
