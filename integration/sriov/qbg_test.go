//go:build integration

package sriov

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/integration/host/hosttest"
	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
	"libvirt-direct/vdp/vdptest"
)

// startVDPD runs vdpd on the card until the test ends, or it is killed.
func startVDPD(ctx context.Context, t *testing.T) (kill func()) {
	t.Helper()
	vdpd := exec.Command(program("vdpd"), "-uplink", "eth0")
	vdpd.Stdout, vdpd.Stderr = t.Output(), t.Output()
	require.NoError(t, vdpd.Start())
	stop := func(s unix.Signal) { _ = vdpd.Process.Signal(s); _ = vdpd.Wait() }
	t.Cleanup(func() { stop(unix.SIGTERM) })
	require.Eventually(t, func() bool { return control.NewClient("").Ready(ctx, "eth0") == nil }, time.Minute, 50*time.Millisecond)
	return func() { stop(unix.SIGKILL) }
}

// libvirt refuses 802.1Qbg on a hostdev NIC. Rewritten, the VF is associated by the hook,
// through vdpd on the PF, with the switch at the other end of the PF's wire.
func TestHostdevVSI(t *testing.T) {
	installHook(t, "qemu", configuration)
	d := libvirtd(t)
	vfs(t, "eth0", 1)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	bridge := serveBridge(t, "eth1")
	kill := startVDPD(ctx, t)

	address, _ := device(t, "eth0", 0)
	before := links(t)
	const instance = "09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f"
	xml := tiny("vsi", hostdev(macH, address, "<vlan><tag id='42'/></vlan><virtualport type='802.1Qbg'>"+
		"<parameters managerid='11' typeid='1193047' typeidversion='2' instanceid='"+instance+"'/></virtualport>"), words(nic(macH, "qos='3'")))
	xml.UUID = lifeUUID
	dom := d.define(t, xml)
	t.Log(d.DomainCreate(dom))
	require.Equal(t, before, links(t))
	d.rewrite(t, dom)

	id, err := vdp.ParseUUID(instance)
	require.NoError(t, err)
	var asked []vdptest.Received
	var mode vdp.Mode
	look := func() {
		t.Helper()
		require.NoError(t, bridge.Do(func(b *vdptest.Bridge) [][]byte { asked, mode = b.Log, b.Mode(id); return nil }))
	}
	d.start(t, dom)
	look()
	require.Equal(t, vdp.Associate, mode)
	require.Equal(t, vdp.VSI{
		ID: id, Manager: vdp.ManagerID{11}, TypeID: 1193047, TypeVersion: 2,
		FilterFormat: vdp.FilterMACVID, Filters: []vdp.Filter{{MAC: vdp.MAC{0x52, 0x54, 0, 1, 2, 3}, VID: 42}},
	}, asked[0].Message.VSI)
	t.Log(sh(t, "%s vsi list", program("libvirt-direct")))

	// The VF shows the guest to the next vdpd, and its absence that it has ended meanwhile.
	kill()
	kill = startVDPD(ctx, t)
	time.Sleep(8 * time.Second) // the passing of time is what is tested: 5 s for a guest that does not show
	shown, err := control.NewClient("").Show(ctx, id)
	require.NoError(t, err)
	require.Equal(t, control.OwnerHook, shown[0].Owner)
	require.Equal(t, "established", shown[0].State)
	kill()
	d.destroy(t, dom)
	startVDPD(ctx, t)
	require.Eventually(t, func() bool { look(); return mode == 0 }, 20*time.Second, 50*time.Millisecond)
	require.Equal(t, before, links(t))

	d.start(t, dom)
	d.destroy(t, dom)
	look()
	require.Zero(t, mode)
	require.Equal(t, vdp.DeAssociate, asked[len(asked)-1].Message.Mode)
	require.Equal(t, before, links(t))

	require.NoError(t, bridge.Do(func(b *vdptest.Bridge) [][]byte {
		b.Answer = func(vdp.Message) vdptest.Reply { return vdptest.Reply{Status: vdp.ReasonNoResources} }
		return nil
	}))
	err = d.DomainCreate(dom)
	require.ErrorContains(t, err, "insufficient resources")
	t.Log(err)
	look()
	require.Zero(t, mode)
	require.Equal(t, before, links(t))
	require.Empty(t, sh(t, "ls /run/libvirt-direct/domains"))
}

// serveBridge makes a network device the port of a switch that speaks 802.1Qbg.
func serveBridge(t *testing.T, name string) *vdptest.Server {
	t.Helper()
	return serveBridgeHearing(t, name, func(c net.PacketConn) net.PacketConn { return c })
}

// bridgeMAC is its address.
var bridgeMAC = vdp.MAC{2, 0xbb, 5: 1}

// serveBridgeHearing has the switch hear what hears lets through.
func serveBridgeHearing(t *testing.T, name string, hears func(net.PacketConn) net.PacketConn) *vdptest.Server {
	t.Helper()
	sh(t, "ip link set %s up", name)
	ifi, err := net.InterfaceByName(name)
	require.NoError(t, err)
	conn, err := packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, nil)
	require.NoError(t, err)
	require.NoError(t, conn.SetPromiscuous(true))
	b := vdptest.NewBridge(vdptest.Config{MAC: bridgeMAC, Edition: vdp.Edition2012})
	s := vdptest.NewServer(b, hears(conn), &packet.Addr{HardwareAddr: net.HardwareAddr(vdp.NearestCustomerBridge[:])})
	stop := s.Start()
	t.Cleanup(func() { require.NoError(t, stop()) })
	return s
}

// A guest with a VF plays the switch. The card's own switch hands the PF whatever the VF
// sends to a group address, as if it came from the wire: none of it leaves the PF, where
// vdpd could see it. What has a VF's address does not count all the same. QEMU's igb has
// no spoof check: it lets out any source, with every setting, as a real card does with
// spoof check off.
func TestVFPlaysTheSwitch(t *testing.T) {
	vfs(t, "eth0", 1)
	_, netdev := device(t, "eth0", 0)
	sh(t, "ip link set eth0 vf 0 mac %s && ip link set %s address %s && ip link set %s up", macH, netdev, macH, netdev)
	require.Eventually(t, func() bool {
		out, _ := tryShell("cat /sys/class/net/%s/carrier", netdev)
		return out == "1"
	}, 20*time.Second, 20*time.Millisecond, "the VF has a link")
	own, pf := hardware(t, netdev), hardware(t, "eth0")
	random := vdp.MAC{2, 0x5e, 5: 7}
	f := &vdptest.Forger{Own: random, Switch: bridgeMAC}
	bridge := serveBridgeHearing(t, "eth1", f.Unheard)
	guest, uplink, wire := listenOn(t, netdev), listenOn(t, "eth0"), listenOn(t, "eth1")
	for _, g := range []vdp.MAC{vdp.NearestCustomerBridge, vdp.NearestNonTPMRBridge, vdp.NearestBridge} {
		require.NoError(t, uplink.JoinGroup(g[:]))
		require.NoError(t, wire.JoinGroup(g[:]))
	}
	const log = "/run/vdpd.log"
	file, err := os.Create(log)
	require.NoError(t, err)
	defer file.Close()
	vdpd := exec.Command(program("vdpd"), "-uplink", "eth0", "-debug")
	vdpd.Stdout, vdpd.Stderr = file, file
	require.NoError(t, vdpd.Start())
	t.Cleanup(func() {
		vdpd.Process.Signal(unix.SIGTERM)
		vdpd.Wait()
		if t.Failed() {
			t.Log(sh(t, "tail -30 %s", log))
		}
	})
	client := control.NewClient("")
	require.Eventually(t, func() bool { return client.Ready(t.Context(), "eth0") == nil }, time.Minute, 20*time.Millisecond)
	status := func() control.Uplink {
		t.Helper()
		all, err := client.Status(t.Context())
		require.NoError(t, err)
		return all[0]
	}
	v := vdp.VSI{
		ID: vdp.UUID([16]byte{0xfa, 0x9b, 15: 1}), Manager: vdp.ManagerID{12}, TypeID: 0x123456, TypeVersion: 1,
		FilterFormat: vdp.FilterMACVID, Filters: []vdp.Filter{{MAC: own, VID: 42}},
	}
	_, err = client.Associate(t.Context(), "eth0", v)
	require.NoError(t, err)

	// send returns once the PF has got the frame and vdpd passed it.
	send := func(frame []byte) {
		t.Helper()
		_, err := guest.WriteTo(frame, &packet.Addr{HardwareAddr: net.HardwareAddr(frame[:6])})
		require.NoError(t, err)
		arrives(t, uplink, frame)
		if frame[0]&1 != 0 {
			arrives(t, wire, frame)
		}
	}
	local := func() int {
		return strings.Count(sh(t, "cat %s", log), "frame was sent by a virtual function of the uplink")
	}
	held := func() (n int) {
		require.NoError(t, bridge.Do(func(b *vdptest.Bridge) [][]byte { n = b.Len(); return nil }))
		return n
	}
	groups := []vdp.MAC{vdp.NearestCustomerBridge, vdp.NearestNonTPMRBridge, vdp.NearestBridge}
	met := 0
	for _, setting := range []string{"spoofchk on trust off", "spoofchk off trust off", "spoofchk on trust on", "spoofchk off trust on"} {
		spoofchk, trust, _ := strings.Cut(setting, " trust ")
		sh(t, "ip link set eth0 vf 0 %s && ip link set eth0 vf 0 trust %s", spoofchk, trust)
		before, alien := hosttest.Unmoved(t, status()), 0
		for _, forged := range f.Forgeries(pf, bridgeMAC, v) {
			send(forged.Frame)
			alien++
		}
		for _, dst := range groups {
			for _, src := range []vdp.MAC{own, pf} {
				for _, forged := range f.Forgeries(dst, src, v) {
					send(forged.Frame)
					if src == own {
						met++
					} else {
						alien++
					}
				}
			}
		}
		require.Eventually(t, func() bool { return local() >= met }, 10*time.Second, 10*time.Millisecond)
		require.Equal(t, met, local())
		require.Equal(t, before, hosttest.Unmoved(t, status()), setting)
		t.Logf("%s: %d frames from the VF's address so far and %d from or to the PF's reached the PF and did not count", setting, met, alien)

		// The switch's address is beyond what can be known here.
		send(shutdown(f, bridgeMAC, v))
		require.Eventually(t, func() bool { return status().Switch == nil }, 10*time.Second, 10*time.Millisecond)
		t.Logf("%s: a shutdown from the switch's address counts", setting)
		require.NoError(t, bridge.Do(func(b *vdptest.Bridge) [][]byte { b.Restart(); return b.Tick(time.Now()) }))
		require.Eventually(t, func() bool { return client.Ready(t.Context(), "eth0") == nil && held() == 1 }, time.Minute, 10*time.Millisecond)
		require.Equal(t, before, hosttest.Unmoved(t, status()), setting)
	}

	// A random address is believed only when there is no switch, and then within limits.
	before := hosttest.Unmoved(t, status())
	for _, forged := range f.Forgeries(vdp.NearestCustomerBridge, random, v) {
		if forged.What == "timers of another switch" || strings.HasPrefix(forged.What, "De-associate") {
			send(forged.Frame)
		}
	}
	require.Eventually(t, func() bool { return strings.Contains(sh(t, "cat %s", log), vdp.ErrForeign.Error()) }, 10*time.Second, 10*time.Millisecond)
	u := status()
	require.Len(t, u.Others, 1)
	require.Equal(t, random.String(), u.Others[0].Source)
	u.Others = nil
	require.Equal(t, before, hosttest.Unmoved(t, u))
	send(shutdown(f, bridgeMAC, v))
	require.Eventually(t, func() bool { u := status(); return u.Switch != nil && u.Switch.Source == random.String() }, 10*time.Second, 10*time.Millisecond)
	require.Less(t, status().Timers.Keepalive, 90_000.)
	t.Logf("with the switch's address it makes itself the switch, with timers in reason: %+v", *status().Timers)
}

// shutdown says that the switch says no more.
func shutdown(f *vdptest.Forger, src vdp.MAC, v vdp.VSI) []byte {
	return f.Forgeries(vdp.NearestCustomerBridge, src, v)[2].Frame
}

func hardware(t *testing.T, name string) vdp.MAC {
	t.Helper()
	ifi, err := net.InterfaceByName(name)
	require.NoError(t, err)
	return vdp.MAC(ifi.HardwareAddr)
}

// listenOn returns a socket that is shown what arrives at a network device.
func listenOn(t *testing.T, name string) *packet.Conn {
	t.Helper()
	c, _, err := hosttest.Arriving(name)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// arrives waits for a frame.
func arrives(t *testing.T, c *packet.Conn, frame []byte) {
	t.Helper()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	b := make([]byte, 2048)
	for {
		n, _, err := c.ReadFrom(b)
		require.NoError(t, err, "%x", frame)
		if bytes.HasPrefix(b[:n], frame) {
			return
		}
	}
}
