//go:build integration

package main_test

import (
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

// mode is how far a VSI has come at the switch.
func mode(h *host, br *vdptest.Server, v vdp.VSI) (m vdp.Mode) {
	h.Helper()
	require.NoError(h, br.Do(func(b *vdptest.Bridge) [][]byte { m = b.Mode(v.ID); return nil }))
	return m
}

// during is the host for a subtest, with which ends what that starts.
func (h *host) during(t *testing.T) *host {
	sub := *h
	sub.T = t
	return &sub
}

func (h *host) ifindex(name string) int {
	h.Helper()
	s, _, _ := strings.Cut(h.sh("ip", "-n", h.a, "-o", "link", "show", "dev", name), ":")
	i, err := strconv.Atoi(s)
	require.NoError(h, err)
	return i
}

// The uplink's interface is renamed, put into a bridge, given another address, removed, made
// again and moved to another namespace.
func TestUplinkIsADevice(t *testing.T) {
	h := newHost(t)
	p := h.vdpd()
	l := h.libvirt(p.cmd.Process.Pid)
	v := testVSI(1)
	c := control.NewClient(h.controlPath())
	eventually := func(what string, f func(u control.Uplink) bool) {
		h.Helper()
		hosttest.Eventually(h, 40*time.Second, what, func() bool { return f(h.uplink()) })
	}
	change := func(args ...string) {
		h.Helper()
		h.sh(append([]string{"ip", "-n", h.a, "link"}, args...)...)
	}
	rename := func(from, to string) {
		h.Helper()
		change("set", from, "down")
		change("set", from, "name", to)
		change("set", to, "up")
	}

	t.Run("as long as it exists", func(t *testing.T) {
		h.during(t).responder(vdptest.Config{Edition: vdp.Edition2012})
		switchReady(h, p)
		_, err := c.Associate(t.Context(), stationIf, v)
		require.NoError(t, err)
		rename(stationIf, "wan0")
		eventually("association under another name", func(u control.Uplink) bool { return u.Device == "wan0" && u.Established == 1 })
		require.NoError(t, c.Ready(t.Context(), "wan0"))
		require.NoError(t, c.Ready(t.Context(), stationIf))
		// libvirt's messages have the configured name and the index here.
		require.Zero(t, l.set(vdp.Associate, testVSI(2)))
		require.Zero(t, l.result(testVSI(2)))
		require.Zero(t, l.set(vdp.DeAssociate, testVSI(2)))
		rename("wan0", stationIf)
		eventually("the name back", func(u control.Uplink) bool { return u.Device == stationIf && u.Established == 1 })

		before := h.uplink()
		change("add", "br0", "type", "bridge")
		change("set", stationIf, "master", "br0")
		change("set", stationIf, "nomaster")
		require.Equal(t, before.LinkSince, h.uplink().LinkSince, "in a bridge and out of it it is the same")

		change("set", stationIf, "address", "02:aa:00:00:00:77")
		eventually("the new address", func(u control.Uplink) bool { return u.MAC == "02:aa:00:00:00:77" && u.Established == 1 })
	})

	removed := h.uplink().Ifindex
	change("del", stationIf)
	eventually("the removal", func(u control.Uplink) bool { return u.Ifindex == 0 && u.Error != nil })
	require.ErrorIs(t, c.Ready(t.Context(), stationIf), control.ErrNoInterface)
	require.Equal(t, unix.ENODEV, l.set(vdp.Associate, testVSI(2)))
	change("add", stationIf, "address", "02:aa:00:00:00:01", "type", "veth",
		"peer", "name", bridgeIf, "netns", h.b, "address", "02:bb:00:00:00:01")
	change("set", stationIf, "up")
	h.sh("ip", "-n", h.b, "link", "set", bridgeIf, "up")
	eventually("the new one", func(u control.Uplink) bool { return u.Ifindex == h.ifindex(stationIf) && u.Link })
	require.NotEqual(t, removed, h.uplink().Ifindex)
	br := h.responder(vdptest.Config{Edition: vdp.Edition2012}) // on the new wire
	eventually("association by the new one", func(u control.Uplink) bool { return u.Established == 1 })
	require.Equal(t, vdp.Associate, mode(h, br, v))

	change("set", stationIf, "netns", h.b)
	eventually("the move", func(u control.Uplink) bool { return u.Ifindex == 0 })
	h.sh("ip", "-n", h.b, "link", "set", stationIf, "netns", h.a)
	change("set", stationIf, "up")
	eventually("association after the return", func(u control.Uplink) bool { return u.Established == 1 })
}

// A guest of libvirt's ends while nobody tells vdpd: it runs, or is started again after that.
// One that runs on, and a VSI made by hand, stay.
func TestVSIEndsWithItsGuest(t *testing.T) {
	h := newHost(t)
	br := h.responder(vdptest.Config{Edition: vdp.Edition2012})
	p := h.vdpd()
	switchReady(h, p)
	l := h.libvirt(p.cmd.Process.Pid)
	guests := []vdp.VSI{testVSI(1), testVSI(2), testVSI(3)}
	devices := h.devices(guests...)
	for _, v := range guests {
		require.Zero(t, l.set(vdp.Associate, v))
		require.Zero(t, l.result(v))
	}
	byHand := testVSI(4)
	c := control.NewClient(h.controlPath())
	_, err := c.Associate(t.Context(), stationIf, byHand)
	require.NoError(t, err)
	owner := func(v vdp.VSI) control.Owner {
		all, err := c.Show(t.Context(), v.ID)
		require.NoError(t, err)
		return all[0].Owner
	}
	require.Equal(t, control.OwnerHand, owner(byHand))
	require.Equal(t, control.OwnerLibvirt, owner(guests[0]))

	start := time.Now()
	h.sh("ip", "-n", h.a, "link", "del", devices[0])
	hosttest.Eventually(h, time.Minute, "the end of the first VSI", func() bool { return mode(h, br, guests[0]) == 0 })
	took := time.Since(start)
	require.Greater(t, took, 29*time.Second)
	t.Logf("taken back after %v", took)
	require.Contains(t, p.output(), "its guest is gone")
	require.Equal(t, vdp.Associate, mode(h, br, guests[1]))

	p.signal(unix.SIGKILL)
	h.sh("ip", "-n", h.a, "link", "del", devices[1])
	start = time.Now()
	p = h.vdpd()
	l.pid = p.cmd.Process.Pid
	hosttest.Eventually(h, 20*time.Second, "the end of the second VSI", func() bool { return mode(h, br, guests[1]) == 0 })
	t.Logf("taken back %v after vdpd's start", time.Since(start))
	require.Equal(t, owner(byHand), control.OwnerHand)
	hosttest.Eventually(h, 40*time.Second, "both others", func() bool { return h.uplink().Established == 2 })
	require.Equal(t, 1, strings.Count(p.output(), "its guest is gone"))
	require.Equal(t, vdp.Associate, mode(h, br, guests[2]))
	require.Equal(t, vdp.Associate, mode(h, br, byHand))
}
