//go:build vm

package qbg

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host/hosttest"
	"libvirt-direct/vdp"
	"libvirt-direct/vdp/vdptest"
)

// Another guest of the host, which has a macvtap on the same uplink, plays the switch
// all the time, and the switch's data path is a Linux bridge that reflects it: a domain
// starts, runs and ends as if it did not.
func TestNeighborPlaysTheSwitch(t *testing.T) {
	requireMachine(t)
	ctx := hosttest.Deadline(t, 8*time.Minute)
	h := newFixture(ctx, t, "a")
	h.take("eth0")
	reflects(t, "eth1")
	f := &vdptest.Forger{Own: vdp.MAC{2, 0x5e, 5: 7}, Switch: bridgeMAC}
	br := newBridgeHearing(t, "eth1", f.Unheard)
	br.set(vdp.Edition2012)
	h.noHook()
	h.startLibvirtd()
	require.NoError(t, h.Define(ctx, domain("g").XML()))
	h.startVDPD()
	h.ready(vdp.Edition2012)
	events, err := h.vdpd().Subscribe(ctx)
	require.NoError(t, err)
	defer events.Close()

	stop := h.neighbor(f)
	defer stop()
	echoes := func() uint64 {
		u, err := h.vdpd().Status(ctx)
		require.NoError(t, err)
		return u[0].Echoes
	}
	last := uint64(0)
	reflected := func(when string) {
		t.Helper()
		hosttest.Eventually(t, time.Minute, "reflections", func() bool { return echoes() >= last+100 })
		last = echoes()
		t.Logf("%s: %d echoes", when, last)
	}
	reflected("before")
	begin := time.Now()
	h.MustVirsh("start", "g")
	t.Logf("virsh start: %v", time.Since(begin))
	require.Equal(t, vdp.Associate, br.mode())
	reflected("started")
	keptAlive := func() (n int) {
		br.do(func(b *vdptest.Bridge) [][]byte { n = len(b.Log); return nil })
		return n
	}
	asked := keptAlive()
	hosttest.Eventually(t, time.Minute, "a keepalive", func() bool { return keptAlive() > asked })
	list, err := h.vdpd().Show(ctx, vsi.ID)
	require.NoError(t, err)
	require.Equal(t, "established", list[0].State)
	reflected("running")
	u, err := h.vdpd().Status(ctx)
	require.NoError(t, err)
	require.Equal(t, bridgeMAC.String(), u[0].Switch.Source)
	require.Empty(t, u[0].Others)
	require.Less(t, u[0].Timers.Keepalive, 11_000.)

	h.MustVirsh("destroy", "g")
	require.Zero(t, br.mode())
	require.Equal(t, []vdp.Mode{vdp.Associate, vdp.DeAssociate}, modes(br.log()))
	_, err = h.vdpd().Show(ctx, vsi.ID)
	require.ErrorIs(t, err, vdp.ErrUnknownVSI)
	for _, want := range []string{"established", "removed"} {
		e, err := events.Next()
		require.NoError(t, err)
		require.Equal(t, want, e.Type, "and nothing else happened")
	}
	stop()
}

// reflects makes a NIC of the machine the port of a Linux bridge with hairpin mode, and
// without STP.
func reflects(t *testing.T, card string) {
	t.Helper()
	for _, args := range []string{
		"link add br0 type bridge stp_state 0 group_fwd_mask 0x4008", "link set br0 up",
		"link set " + card + " master br0", "link set " + card + " type bridge_slave hairpin on",
	} {
		out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
		require.NoError(t, err, "%s: %s", args, out)
	}
	t.Cleanup(func() {
		out, err := exec.Command("ip", "link", "del", "br0").CombinedOutput()
		require.NoError(t, err, "%s", out)
	})
}

// neighbor starts a guest that sends forgeries until stop, from a macvtap on the host's
// uplink that is in the machine's namespace.
func (h *fixture) neighbor(f *vdptest.Forger) (stop func()) {
	h.T.Helper()
	pid := strings.Split(h.Path("/"), "/")[2]
	h.MustRun("ip", "link", "add", "link", nic, "name", "mv0", "type", "macvtap", "mode", "vepa")
	out, err := exec.Command("nsenter", "-t", pid, "-n", "ip", "link", "set", "mv0", "netns", fmt.Sprint(os.Getpid())).CombinedOutput()
	require.NoError(h.T, err, "%s", out)
	h.T.Cleanup(func() { _ = exec.Command("ip", "link", "del", "mv0").Run() }) // it goes with the uplink, too
	out, err = exec.Command("ip", "link", "set", "mv0", "up").CombinedOutput()
	require.NoError(h.T, err, "%s", out)
	own, tap := listen(h.T, "mv0")
	_, wire := listen(h.T, "eth1")
	u, err := h.vdpd().Status(h.Ctx)
	require.NoError(h.T, err)
	hw, err := net.ParseMAC(u[0].MAC)
	require.NoError(h.T, err)

	ctx, cancel := context.WithCancel(h.Ctx)
	done := make(chan error, 1)
	go func() {
		defer close(done)
		done <- play(ctx, f, tap, wire, own, vdp.MAC(hw))
	}()
	return func() {
		cancel()
		if err, open := <-done; open {
			require.NoError(h.T, err)
		}
	}
}

// play sends every forgery over and over, each when the one before is on the wire.
func play(ctx context.Context, f *vdptest.Forger, tap, wire *packet.Conn, own, host vdp.MAC) error {
	b := make([]byte, 2048)
	for {
		for _, dst := range []vdp.MAC{host, vdp.NearestCustomerBridge, vdp.NearestNonTPMRBridge, vdp.NearestBridge} {
			for _, src := range []vdp.MAC{own, {2, 0x5e, 5: 9}, bridgeMAC, host} {
				for _, forged := range f.Forgeries(dst, src, vsi) {
					if ctx.Err() != nil {
						return nil
					}
					if _, err := tap.WriteTo(forged.Frame, &packet.Addr{HardwareAddr: net.HardwareAddr(dst[:])}); err != nil {
						return err
					}
					if err := wire.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
						return err
					}
					for {
						n, _, err := wire.ReadFrom(b)
						if err != nil {
							return fmt.Errorf("%s is not on the wire: %w", forged.What, err)
						}
						if bytes.HasPrefix(b[:n], forged.Frame) {
							break
						}
					}
				}
			}
		}
	}
}

// listen returns a socket that is shown what arrives at a network device.
func listen(t testing.TB, name string) (vdp.MAC, *packet.Conn) {
	t.Helper()
	c, ifi, err := hosttest.Arriving(name)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return vdp.MAC(ifi.HardwareAddr), c
}
