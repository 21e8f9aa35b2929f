//go:build integration

package main_test

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/integration/host/hosttest"
	"libvirt-direct/vdp"
	"libvirt-direct/vdp/vdptest"
)

// switchReady waits until vdpd has seen the switch's EVB TLV.
func switchReady(h *host, p *process) {
	h.Helper()
	hosttest.Eventually(h, 35*time.Second, "EVB TLV", func() bool { return strings.Contains(p.output(), "EVB TLV from the switch") })
}

func TestAgainstLldpadBridge(t *testing.T) {
	h := newHost(t)
	br := h.lldpadBridge2012()
	p := h.vdpd()
	switchReady(h, p)
	l := h.libvirt(p.cmd.Process.Pid)
	v := testVSI(1)
	h.devices(v)
	for _, m := range []vdp.Mode{vdp.PreAssociate, vdp.PreAssociateRR, vdp.Associate} {
		start := time.Now()
		require.Zero(t, l.set(m, v))
		require.Zero(t, l.result(v), m)
		t.Logf("%v: SETLINK to SUCCESS %v", m, time.Since(start))
	}

	const supervision = 15750 * time.Millisecond
	t.Log("keepalives for longer than lldpad's supervision of", supervision)
	time.Sleep(time.Duration(hosttest.Rounds(1, 4))*supervision + 4*time.Second) // the passing of time is what is tested
	require.Zero(t, l.status(v))
	require.NotContains(t, p.output(), "lost")

	t.Log("the bridge restarts")
	br.signal(unix.SIGKILL)
	br = h.lldpadBridge2012()
	hosttest.Eventually(h, 40*time.Second, "association after the bridge's restart", func() bool {
		return strings.Contains(br.output(), "vdp22br_reply") && l.status(v) == 0
	})

	t.Log("the station crashes and restarts")
	p.signal(unix.SIGKILL)
	p = h.vdpd()
	l.pid = p.cmd.Process.Pid
	require.NotEqual(t, -2, l.status(v), "known at once")
	hosttest.Eventually(h, 40*time.Second, "association after the station's restart", func() bool { return l.status(v) == 0 })

	require.Zero(t, l.set(vdp.DeAssociate, v))
	require.Zero(t, l.result(v))
	require.NoError(t, p.signal(unix.SIGTERM))
	require.NoFileExists(t, filepath.Join(h.dir, "lldpad.pid"))
}

func TestAgainstResponder(t *testing.T) {
	for _, ed := range []vdp.Edition{vdp.EditionDraft, vdp.Edition2012} {
		t.Run(ed.String(), func(t *testing.T) {
			h := newHost(t)
			br := h.responder(vdptest.Config{Edition: ed})
			p := h.vdpd()
			switchReady(h, p)
			l := h.libvirt(p.cmd.Process.Pid)
			v := testVSI(1)
			h.devices(v)
			mode := func() (m vdp.Mode) {
				require.NoError(t, br.Do(func(b *vdptest.Bridge) [][]byte { m = b.Mode(v.ID); return nil }))
				return m
			}
			for _, v := range []vdp.VSI{v, testVSI(3), testVSI(4)} {
				start := time.Now()
				require.Zero(t, l.set(vdp.Associate, v))
				require.Zero(t, l.result(v))
				t.Logf("SETLINK to SUCCESS %v (the first may wait for our LLDPDU)", time.Since(start))
			}
			require.Equal(t, vdp.Associate, mode())

			// The switch drops it: libvirt is told, and it comes back by itself.
			require.NoError(t, br.Do(func(b *vdptest.Bridge) [][]byte { return b.DeAssociate(time.Now(), v.ID) }))
			buf := make([]byte, 4096)
			n, from, err := receive(l.event, buf)
			require.NoError(t, err)
			require.Equal(t, uint32(l.pid), from.(*unix.SockaddrNetlink).Pid)
			require.Equal(t, uint16(unix.RTM_SETLINK), binary.NativeEndian.Uint16(buf[4:]))
			require.Equal(t, uint32(l.pid), binary.NativeEndian.Uint32(buf[12:]), "libvirt compares it with the pid file")
			require.Equal(t, byte(3), buf[n-4], "PORT_REQUEST_DISASSOCIATE")
			hosttest.Eventually(h, 20*time.Second, "re-association", func() bool { return mode() == vdp.Associate })

			// So it does after the link was down.
			h.sh("ip", "-n", h.b, "link", "set", bridgeIf, "down")
			require.NoError(t, br.Do(func(b *vdptest.Bridge) [][]byte { b.Restart(); return nil }))
			hosttest.Eventually(h, 20*time.Second, "loss", func() bool { return l.status(v) == -1 })
			require.Equal(t, unix.ENETDOWN, l.set(vdp.Associate, testVSI(2)))
			h.sh("ip", "-n", h.b, "link", "set", bridgeIf, "up")
			hosttest.Eventually(h, 15*time.Second, "association after link up", func() bool { return mode() == vdp.Associate && l.status(v) == 0 })

			require.Zero(t, l.set(vdp.DeAssociate, v))
			require.Zero(t, l.result(v))
			require.Zero(t, mode())

			reply := vdptest.Reply{}
			require.NoError(t, br.Do(func(b *vdptest.Bridge) [][]byte {
				b.Answer = func(vdp.Message) vdptest.Reply { return reply }
				return nil
			}))
			for reason := vdp.Status(1); reason <= 5; reason++ {
				require.NoError(t, br.Do(func(*vdptest.Bridge) [][]byte { reply.Status = reason; return nil }))
				require.Zero(t, l.set(vdp.Associate, v))
				require.Equal(t, int(reason), l.result(v))
			}
		})
	}
}

// The uplink as a port of a Linux bridge without STP, which takes frames to
// 01:80:c2:00:00:00 for itself.
func TestUplinkInLinuxBridge(t *testing.T) {
	h := newHost(t)
	h.responder(vdptest.Config{Edition: vdp.Edition2012})
	h.sh("ip", "-n", h.a, "link", "add", "br0", "type", "bridge", "stp_state", "0")
	h.sh("ip", "-n", h.a, "link", "set", "br0", "up")
	h.sh("ip", "-n", h.a, "link", "set", stationIf, "master", "br0")
	p := h.vdpd()
	switchReady(h, p)
	l := h.libvirt(p.cmd.Process.Pid)
	require.Zero(t, l.set(vdp.Associate, testVSI(1)))
	require.Zero(t, l.result(testVSI(1)))
}

// A guest on a macvtap cannot play the switch.
func TestGuestFramesIgnored(t *testing.T) {
	h := newHost(t)
	h.responder(vdptest.Config{Edition: vdp.Edition2012, NoEVB: true})
	p := h.vdpd()
	h.sh("ip", "-n", h.a, "link", "add", "link", stationIf, "name", "mv0", "type", "macvlan", "mode", "bridge")
	h.sh("ip", "-n", h.a, "link", "set", "mv0", "up")
	fake := vdptest.NewBridge(vdptest.Config{MAC: vdp.MAC{2, 0xee}, Edition: vdp.Edition2012})
	var err error
	h.in(h.a, func() { err = sendRaw("mv0", fake.Tick(time.Now())[0]) })
	require.NoError(t, err)
	l := h.libvirt(p.cmd.Process.Pid)
	require.Equal(t, -2, l.status(testVSI(1)), "vdpd has passed the frame by then")
	require.NotContains(t, p.output(), "EVB TLV from the switch")
}

func TestRefusesBesideLldpad(t *testing.T) {
	h := newHost(t)
	h.lldpad(h.a)
	out, err := exec.Command("ip", "netns", "exec", h.a, vdpdPath, "-config", "/nonexistent", "-uplink", stationIf,
		"-state", filepath.Join(h.dir, "s"), "-pid-file", filepath.Join(h.dir, "p"), "-control", filepath.Join(h.dir, "c")).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "lldpad (or its systemd socket) is active")
	require.NoFileExists(t, filepath.Join(h.dir, "p"))
}

// A state file of a newer vdpd stops an older one before it has touched anything.
func TestRefusesNewerState(t *testing.T) {
	h := newHost(t)
	before := map[string]string{"state.json": "{\"version\":9}\n", "lldpad.pid": "4194305\n"}
	for name, text := range before {
		require.NoError(t, os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o600))
	}
	out, err := exec.Command("ip", "netns", "exec", h.a, vdpdPath, "-config", "/nonexistent", "-uplink", stationIf,
		"-state", filepath.Join(h.dir, "state.json"), "-pid-file", filepath.Join(h.dir, "lldpad.pid"), "-control", h.controlPath()).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "state file of a newer vdpd: version 9")
	after := make(map[string]string)
	entries, err := os.ReadDir(h.dir)
	require.NoError(t, err)
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(h.dir, e.Name()))
		require.NoError(t, err)
		after[e.Name()] = string(b)
	}
	require.Equal(t, before, after)
}

func TestDeassociateOnStop(t *testing.T) {
	h := newHost(t)
	br := h.responder(vdptest.Config{Edition: vdp.EditionDraft})
	conf := filepath.Join(h.dir, "vdpd.toml")
	require.NoError(t, os.WriteFile(conf, []byte("deassociate_on_stop = true\n"), 0o600))
	p := h.vdpd("-config", conf)
	switchReady(h, p)
	l := h.libvirt(p.cmd.Process.Pid)
	for i := range 50 {
		require.Zero(t, l.set(vdp.Associate, testVSI(i)))
	}
	held := func() (n int) {
		require.NoError(t, br.Do(func(b *vdptest.Bridge) [][]byte { n = b.Len(); return nil }))
		return n
	}
	hosttest.Eventually(h, 20*time.Second, "50 VSIs", func() bool { return held() == 50 })
	require.NoError(t, p.signal(unix.SIGTERM))
	require.Zero(t, held())
}

// Our responder against a real station of the draft, lldpad's, driven as
// libvirt drives it.
func TestLldpadStationAgainstResponder(t *testing.T) {
	h := newHost(t)
	br := h.responder(vdptest.Config{Edition: vdp.EditionDraft})
	_, l := h.lldpadStation()
	v := testVSI(1)
	mode := func() (m vdp.Mode) {
		require.NoError(t, br.Do(func(b *vdptest.Bridge) [][]byte { m = b.Mode(v.ID); return nil }))
		return m
	}
	require.Equal(t, vdp.Associate, mode())
	require.Zero(t, l.set(vdp.DeAssociate, v))
	hosttest.Eventually(h, 20*time.Second, "de-association", func() bool { return mode() == 0 })
	require.NoError(t, br.Do(func(b *vdptest.Bridge) [][]byte {
		b.Answer = func(vdp.Message) vdptest.Reply { return vdptest.Reply{Status: vdp.ReasonNoResources} }
		return nil
	}))
	w := testVSI(2)
	require.Zero(t, l.set(vdp.Associate, w))
	require.Equal(t, 2, l.result(w))
}
