//go:build vm

package qbg

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host/hosttest"
	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
	"libvirt-direct/vdp/vdptest"
)

// An unmodified domain on one end of a wire, a switch on the other.
func TestDomain(t *testing.T) {
	requireMachine(t)
	ctx := hosttest.Deadline(t, 8*time.Minute)
	h := newFixture(ctx, t, "a")
	h.take("eth0")
	br := newBridge(t, "eth1")
	h.noHook()
	h.startLibvirtd()
	require.NoError(t, h.Define(ctx, domain("g").XML()))
	h.defineOwned()

	t.Run("faults", func(t *testing.T) { faults(h.in(t), &bridge{br.Server, t}) })

	for _, ed := range []vdp.Edition{vdp.EditionDraft, vdp.Edition2012} {
		t.Run("vdpd "+ed.String(), func(t *testing.T) {
			h, br := h.in(t), &bridge{br.Server, t}
			br.set(ed)
			stop := h.startVDPD()
			h.ready(ed)
			begin := time.Now()
			h.MustVirsh("start", "g")
			t.Logf("virsh start: %v", time.Since(begin))
			require.Equal(t, vdp.Associate, br.mode())
			asked := br.log()
			require.Equal(t, []vdp.Mode{vdp.Associate}, modes(asked))
			require.Equal(t, vsi, asked[0].Message.VSI)
			list, err := h.vdpd().Show(ctx, vsi.ID)
			require.NoError(t, err)
			require.Equal(t, "established", list[0].State)
			t.Logf("\n%s%s", h.MustRun(program(t, "libvirt-direct"), "vsi", "uplinks"), h.MustRun(program(t, "libvirt-direct"), "vsi", "list"))

			deassociated(h, br)

			// A guest outlives the station, and so does its VSI.
			stop()
			stop = h.startVDPD()
			h.established()

			h.MustVirsh("destroy", "g")
			require.Zero(t, br.mode())
			require.Equal(t, []vdp.Mode{vdp.Associate, vdp.DeAssociate}, modes(br.log()))
			_, err = h.vdpd().Show(ctx, vsi.ID)
			require.ErrorIs(t, err, vdp.ErrUnknownVSI)

			stop()
			endsMeanwhile(h, br)
			refused(h, br)
			if ed == vdp.Edition2012 {
				ownedNIC(h, br, "prepare 1", "prepare 2", "stopped 1", "stopped 2")
				crowded(h, br)
			}
		})
	}

	t.Run("lldpad draft", func(t *testing.T) {
		h, br := h.in(t), &bridge{br.Server, t}
		br.set(vdp.EditionDraft)
		h.startLldpad()
		begin := time.Now()
		h.MustVirsh("start", "g")
		t.Logf("virsh start: %v", time.Since(begin))
		require.Equal(t, vdp.Associate, br.mode())
		asked := br.log()
		require.Equal(t, vsi, asked[len(asked)-1].Message.VSI)
		h.MustVirsh("destroy", "g")
		require.Zero(t, br.mode())
		refused(h, br)
		ownedNIC(h, br, "prepare 2", "stopped 1")
	})
}

// faults are those that docs/802.1Qbg.md explains by what virsh and libvirtd say.
func faults(h *fixture, br *bridge) {
	start := func(virsh, log string) {
		h.T.Helper()
		before, err := os.ReadFile(h.LogFile())
		require.NoError(h.T, err)
		_, err = h.Virsh(h.Ctx, "start", "g")
		require.ErrorContains(h.T, err, virsh)
		all, err := os.ReadFile(h.LogFile())
		require.NoError(h.T, err)
		require.Contains(h.T, string(all[len(before):]), log)
		h.T.Logf("%s", all[len(before):])
	}
	const failed = "sending of PortProfileRequest failed"
	start(failed, "Error opening file /var/run/lldpad.pid")

	br.do(func(b *vdptest.Bridge) [][]byte { b.NoEVB = true; return nil })
	h.startVDPD()
	hosttest.Eventually(h.T, 10*time.Second, "end of the time in which the switch may still turn up", func() bool {
		u, err := h.vdpd().Status(h.Ctx)
		return err == nil && u[0].Link && time.Since(u[0].LinkSince) > 5*time.Second
	})
	start(failed, "error during virtual port configuration of ifindex 2: No such device or address")
	h.MustRun("ip", "link", "set", nic, "down")
	hosttest.Eventually(h.T, 5*time.Second, "link down", func() bool {
		u, err := h.vdpd().Status(h.Ctx)
		return err == nil && !u[0].Link
	})
	start(failed, "error during virtual port configuration of ifindex 2: Network is down")
	h.MustRun("ip", "link", "set", nic, "up")
	h.MustRun("ip", "link", "set", nic+".100", "up")

	br.set(vdp.Edition2012)
	br.do(func(b *vdptest.Bridge) [][]byte { b.NoEVB, b.NoAck = false, true; return nil })
	h.ready(vdp.Edition2012)
	// A switch that has acknowledged the request may take longer than libvirt waits.
	start("error 261 during port-profile setlink", "error 261 during port-profile setlink")
	br.do(func(b *vdptest.Bridge) [][]byte { b.NoAck = false; return nil })
}

// crowded is a port with 1,000 VSIs: the answer to libvirt's RTM_GETLINK has several messages,
// of which libvirt reads the first.
func crowded(h *fixture, br *bridge) {
	const n = 1000
	all := func(f func(v vdp.VSI) error) {
		h.T.Helper()
		const clients = 32 // vdpd has room for 64
		failed := make(chan error, clients)
		for c := range clients {
			go func() {
				var err error
				for i := c; i < n && err == nil; i += clients {
					v := vsi
					v.ID = vdp.UUID([16]byte{0xfa, 14: byte(i >> 8), 15: byte(i)})
					v.Filters = []vdp.Filter{{MAC: vdp.MAC{2, 0xfa, 0, 0, byte(i >> 8), byte(i)}, VID: 100}}
					err = f(v)
				}
				failed <- err
			}()
		}
		for range clients {
			require.NoError(h.T, <-failed)
		}
	}
	c := h.vdpd()
	all(func(v vdp.VSI) error { _, err := c.Associate(h.Ctx, nic, v); return err })
	begin := time.Now()
	h.MustVirsh("start", "g")
	h.T.Logf("virsh start beside %d VSIs: %v", n, time.Since(begin))
	require.Equal(h.T, vdp.Associate, br.mode())
	list, err := c.List(h.Ctx, nic)
	require.NoError(h.T, err)
	require.Equal(h.T, n+1, len(list))
	h.MustVirsh("destroy", "g")
	require.Zero(h.T, br.mode())
	all(func(v vdp.VSI) error { return c.DeAssociate(h.Ctx, nic, v.ID) })
}

func (h *fixture) established() {
	h.T.Helper()
	hosttest.Eventually(h.T, 35*time.Second, "association", func() bool {
		l, err := h.vdpd().Show(h.Ctx, vsi.ID)
		return err == nil && l[0].State == "established"
	})
}

// endsMeanwhile ends a guest while no station runs that libvirt could tell. The next one sees the
// macvtap of a guest that lives, and misses that of one that does not.
func endsMeanwhile(h *fixture, br *bridge) {
	stop := h.startVDPD()
	hosttest.Eventually(h.T, 35*time.Second, "EVB", func() bool { return h.vdpd().Ready(h.Ctx, nic) == nil })
	h.MustVirsh("start", "g")
	stop()
	stop = h.startVDPD()
	time.Sleep(8 * time.Second) // the passing of time is what is tested: 5 s for a guest that does not show
	h.established()
	list, err := h.vdpd().Show(h.Ctx, vsi.ID)
	require.NoError(h.T, err)
	require.Equal(h.T, control.OwnerLibvirt, list[0].Owner)
	stop()
	h.MustVirsh("destroy", "g")
	require.Equal(h.T, vdp.Associate, br.mode(), "nobody has told the switch")
	h.startVDPD()
	hosttest.Eventually(h.T, 20*time.Second, "the end of the VSI", func() bool { return br.mode() == 0 })
	br.log()
}

// deassociated has the switch drop the VSI: it comes back without anybody's doing.
func deassociated(h *fixture, br *bridge) {
	events, err := h.vdpd().Subscribe(h.Ctx)
	require.NoError(h.T, err)
	defer events.Close()
	br.do(func(b *vdptest.Bridge) [][]byte { return b.DeAssociate(time.Now(), vsi.ID) })
	var e control.Event
	for _, want := range []string{"lost", "established"} {
		e, err = events.Next()
		require.NoError(h.T, err)
		require.Equal(h.T, want, e.Type)
	}
	require.Equal(h.T, vdp.Associate, br.mode())
	require.NoError(h.T, h.WaitState(h.Ctx, "g", libvirt.DomainRunning))
}

// refused has the switch refuse: the start fails with its reason, and nothing stays.
func refused(h *fixture, br *bridge) {
	br.do(func(b *vdptest.Bridge) [][]byte {
		b.Answer = func(vdp.Message) vdptest.Reply { return vdptest.Reply{Status: vdp.ReasonNoResources} }
		return nil
	})
	_, err := h.Virsh(h.Ctx, "start", "g")
	require.ErrorContains(h.T, err, fmt.Sprintf("error %d during port-profile setlink on interface %s", vdp.ReasonNoResources, nic))
	h.T.Log(err)
	require.Zero(h.T, br.mode())
	require.NotContains(h.T, h.MustRun("ip", "-br", "link"), "macvtap")
	require.Equal(h.T, "shut off", strings.TrimSpace(h.MustVirsh("domstate", "g")))
}

// startLldpad runs lldpad as a station of the draft, which needs the settings in
// this order, and then to be told to read them.
func (h *fixture) startLldpad() {
	h.T.Helper()
	h.MustRun("mkdir", "-p", "/var/lib/lldpad")
	h.MustStart("lldpad", "-t")
	hosttest.Eventually(h.T, 10*time.Second, "lldpad", func() bool {
		_, err := h.Run(h.Ctx, "lldptool", "ping")
		return err == nil
	})
	h.MustRun("lldptool", "-L", "-i", nic, "-g", "ncb", "adminStatus=rxtx")
	for _, c := range [][2]string{
		{"vdp", "enableTx=yes"}, {"vdp", "role=station"},
		{"evbCfg", "fmode=reflectiverelay"}, {"evbCfg", "capabilities=rte,ecp,vdp"}, {"evbCfg", "enableTx=yes"},
	} {
		h.MustRun("lldptool", "-T", "-i", nic, "-g", "ncb", "-V", c[0], "-c", c[1])
	}
	pid, err := h.lldpadPid()
	require.NoError(h.T, err)
	h.MustRun("kill", "-HUP", fmt.Sprint(pid))
	// Both EVB TLVs, and then VDP's own start.
	hosttest.Eventually(h.T, 40*time.Second, "EVB TLV at lldpad", func() bool {
		time.Sleep(time.Second) // lldpad has one thread: do not keep it busy
		out, err := h.Run(h.Ctx, "lldptool", "-t", "-i", nic, "-g", "ncb", "-V", "evbCfg")
		return err == nil && strings.Contains(out, "configured capabilities: (0x7) RTE ECP VDP")
	})
}
