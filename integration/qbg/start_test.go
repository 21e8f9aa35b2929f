//go:build vm

package qbg

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/stretchr/testify/require"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
	"libvirt-direct/vdp/vdptest"
)

// An unmodified domain on one end of a wire, a switch on the other.
func TestDomain(t *testing.T) {
	requireMachine(t)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	s := newSite(ctx, t, "a")
	s.take("eth0")
	br := newBridge(t, "eth1")
	s.noHook()
	s.startLibvirtd()
	require.NoError(t, s.Define(ctx, domain("g").XML()))
	s.defineOwned()

	t.Run("faults", func(t *testing.T) { faults(s.in(t), &bridge{br.Server, t}) })

	for _, ed := range []vdp.Edition{vdp.EditionDraft, vdp.Edition2012} {
		t.Run("vdpd "+ed.String(), func(t *testing.T) {
			s, br := s.in(t), &bridge{br.Server, t}
			br.set(ed)
			stop := s.startVDPD()
			s.ready(ed)
			begin := time.Now()
			s.virsh("start", "g")
			t.Logf("virsh start: %v", time.Since(begin))
			require.Equal(t, vdp.Associate, br.mode())
			asked := br.log()
			require.Equal(t, []vdp.Mode{vdp.Associate}, modes(asked))
			require.Equal(t, vsi, asked[0].Message.VSI)
			list, err := s.vdpd().Show(ctx, vsi.ID)
			require.NoError(t, err)
			require.Equal(t, "established", list[0].State)
			t.Logf("\n%s%s", s.run(program(t, "libvirt-direct"), "vsi", "uplinks"), s.run(program(t, "libvirt-direct"), "vsi", "list"))

			deassociated(s, br)

			// A guest outlives the station, and so does its VSI.
			stop()
			s.startVDPD()
			s.established()

			s.virsh("destroy", "g")
			require.Zero(t, br.mode())
			require.Equal(t, []vdp.Mode{vdp.Associate, vdp.DeAssociate}, modes(br.log()))
			_, err = s.vdpd().Show(ctx, vsi.ID)
			require.ErrorIs(t, err, vdp.ErrUnknownVSI)

			refused(s, br)
			if ed == vdp.Edition2012 {
				ownedNIC(s, br, "prepare 1", "prepare 2", "stopped 1", "stopped 2", "release 1", "release 2")
			}
		})
	}

	t.Run("lldpad draft", func(t *testing.T) {
		s, br := s.in(t), &bridge{br.Server, t}
		br.set(vdp.EditionDraft)
		s.startLldpad()
		begin := time.Now()
		s.virsh("start", "g")
		t.Logf("virsh start: %v", time.Since(begin))
		require.Equal(t, vdp.Associate, br.mode())
		asked := br.log()
		require.Equal(t, vsi, asked[len(asked)-1].Message.VSI)
		s.virsh("destroy", "g")
		require.Zero(t, br.mode())
		refused(s, br)
		ownedNIC(s, br, "prepare 2", "stopped 1")
	})
}

// faults are those that docs/802.1Qbg.md explains by what virsh and libvirtd say.
func faults(s *site, br *bridge) {
	start := func(virsh, log string) {
		s.t.Helper()
		before, err := os.ReadFile(s.LogFile())
		require.NoError(s.t, err)
		_, err = s.Virsh(s.ctx, "start", "g")
		require.ErrorContains(s.t, err, virsh)
		all, err := os.ReadFile(s.LogFile())
		require.NoError(s.t, err)
		require.Contains(s.t, string(all[len(before):]), log)
		s.t.Logf("%s", all[len(before):])
	}
	const failed = "sending of PortProfileRequest failed"
	start(failed, "Error opening file /var/run/lldpad.pid")

	br.do(func(b *vdptest.Bridge) [][]byte { b.NoEVB = true; return nil })
	s.startVDPD()
	s.eventually(10*time.Second, "end of the time in which the switch may still turn up", func() bool {
		u, err := s.vdpd().Status(s.ctx)
		return err == nil && u[0].Link && time.Since(u[0].LinkSince) > 5*time.Second
	})
	start(failed, "error during virtual port configuration of ifindex 2: No such device or address")
	s.run("ip", "link", "set", nic, "down")
	s.eventually(5*time.Second, "link down", func() bool {
		u, err := s.vdpd().Status(s.ctx)
		return err == nil && !u[0].Link
	})
	start(failed, "error during virtual port configuration of ifindex 2: Network is down")
	s.run("ip", "link", "set", nic, "up")
	s.run("ip", "link", "set", nic+".100", "up")

	br.set(vdp.Edition2012)
	br.do(func(b *vdptest.Bridge) [][]byte { b.NoEVB, b.NoAnswer = false, true; return nil })
	s.ready(vdp.Edition2012)
	start("error 261 during port-profile setlink", "error 261 during port-profile setlink")
	br.do(func(b *vdptest.Bridge) [][]byte { b.NoAnswer = false; return nil })
}

func (s *site) established() {
	s.t.Helper()
	s.eventually(35*time.Second, "association", func() bool {
		l, err := s.vdpd().Show(s.ctx, vsi.ID)
		return err == nil && l[0].State == "established"
	})
}

// deassociated has the switch drop the VSI: it comes back without anybody's doing.
func deassociated(s *site, br *bridge) {
	events, err := s.vdpd().Subscribe(s.ctx)
	require.NoError(s.t, err)
	defer events.Close()
	br.do(func(b *vdptest.Bridge) [][]byte { return b.DeAssociate(time.Now(), vsi.ID) })
	var e control.Event
	for _, want := range []string{"lost", "established"} {
		e, err = events.Next()
		require.NoError(s.t, err)
		require.Equal(s.t, want, e.Type)
	}
	require.Equal(s.t, vdp.Associate, br.mode())
	require.NoError(s.t, s.WaitState(s.ctx, "g", libvirt.DomainRunning))
}

// refused has the switch refuse: the start fails with its reason, and nothing stays.
func refused(s *site, br *bridge) {
	br.do(func(b *vdptest.Bridge) [][]byte {
		b.Answer = func(vdp.Message) vdptest.Reply { return vdptest.Reply{Status: vdp.ReasonNoResources} }
		return nil
	})
	_, err := s.Virsh(s.ctx, "start", "g")
	require.ErrorContains(s.t, err, fmt.Sprintf("error %d during port-profile setlink on interface %s", vdp.ReasonNoResources, nic))
	s.t.Log(err)
	require.Zero(s.t, br.mode())
	require.NotContains(s.t, s.run("ip", "-br", "link"), "macvtap")
	require.Equal(s.t, "shut off", strings.TrimSpace(s.virsh("domstate", "g")))
}

// startLldpad runs lldpad as a station of the draft, which needs the settings in
// this order, and then to be told to read them.
func (s *site) startLldpad() {
	s.t.Helper()
	s.run("mkdir", "-p", "/var/lib/lldpad")
	s.daemon("lldpad", "-t")
	s.eventually(10*time.Second, "lldpad", func() bool {
		_, err := s.Run(s.ctx, "lldptool", "ping")
		return err == nil
	})
	s.run("lldptool", "-L", "-i", nic, "-g", "ncb", "adminStatus=rxtx")
	for _, c := range [][2]string{
		{"vdp", "enableTx=yes"}, {"vdp", "role=station"},
		{"evbCfg", "fmode=reflectiverelay"}, {"evbCfg", "capabilities=rte,ecp,vdp"}, {"evbCfg", "enableTx=yes"},
	} {
		s.run("lldptool", "-T", "-i", nic, "-g", "ncb", "-V", c[0], "-c", c[1])
	}
	pid, err := s.lldpadPid()
	require.NoError(s.t, err)
	s.run("kill", "-HUP", fmt.Sprint(pid))
	// Both EVB TLVs, and then VDP's own start.
	s.eventually(40*time.Second, "EVB TLV at lldpad", func() bool {
		time.Sleep(time.Second) // lldpad has one thread: do not keep it busy
		out, err := s.Run(s.ctx, "lldptool", "-t", "-i", nic, "-g", "ncb", "-V", "evbCfg")
		return err == nil && strings.Contains(out, "configured capabilities: (0x7) RTE ECP VDP")
	})
}
