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
				return strings.Count(string(b), `"mode"`) == n
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

// vdpd and lldpad in turn as libvirt's station in front of one switch of the
// draft, the edition in which lldpad's rtnetlink works.
func TestAgainstLldpadStation(t *testing.T) {
	const (
		one   = 30 // one after the other
		batch = 80 // at once: lldpad's GETLINK has room for about 90
	)
	h := newHost(t)
	br := h.responder(vdptest.Config{Edition: vdp.EditionDraft})
	held := func() (n, pdus int) {
		require.NoError(t, br.Do(func(b *vdptest.Bridge) [][]byte { n, pdus = b.Len(), b.ECPDUs; return nil }))
		return n, pdus
	}
	measure := func(name string, l *libvirt) (latency, all time.Duration) {
		var times []time.Duration
		for i := range one {
			start := time.Now()
			require.Zero(t, l.set(vdp.Associate, testVSI(i)))
			require.Zero(t, l.result(testVSI(i)))
			times = append(times, time.Since(start))
		}
		slices.Sort(times)
		_, before := held()
		start := time.Now()
		for i := range batch - one {
			require.Zero(t, l.set(vdp.Associate, testVSI(one+i)))
		}
		hosttest.Eventually(h, 60*time.Second, "all VSIs at the switch", func() bool { n, _ := held(); return n == batch })
		all = time.Since(start)
		_, pdus := held()
		t.Logf("%s: SETLINK to SUCCESS %v (median of %d, %v to %v); %d at once %v, in %d ECPDUs", name, times[one/2], one, times[0], times[one-1],
			batch-one, all, pdus-before)
		for i := range batch {
			require.Zero(t, l.set(vdp.DeAssociate, testVSI(i)))
		}
		hosttest.Eventually(h, 60*time.Second, "no VSI at the switch", func() bool { n, _ := held(); return n == 0 })
		return times[one/2], all
	}

	p := h.vdpd()
	switchReady(h, p)
	hosttest.Eventually(h, 20*time.Second, "EVB both ways", func() bool { return h.uplink().Error == nil })
	ours, oursAll := measure("vdpd", h.libvirt(p.cmd.Process.Pid))
	require.NoError(t, p.signal(unix.SIGTERM))

	_, l := h.lldpadStation()
	theirs, theirsAll := measure("lldpad", l)
	t.Logf("vdpd/lldpad: SETLINK to SUCCESS %.2f, %d at once %.2f", float64(ours)/float64(theirs), batch-one, float64(oursAll)/float64(theirsAll))
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
