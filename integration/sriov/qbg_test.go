//go:build integration

package sriov

import (
	"context"
	"net"
	"os/exec"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

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
	sh(t, "ip link set %s up", name)
	ifi, err := net.InterfaceByName(name)
	require.NoError(t, err)
	conn, err := packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, nil)
	require.NoError(t, err)
	require.NoError(t, conn.SetPromiscuous(true))
	b := vdptest.NewBridge(vdptest.Config{MAC: vdp.MAC{2, 0xbb, 5: 1}, Edition: vdp.Edition2012})
	s := vdptest.NewServer(b, conn, &packet.Addr{HardwareAddr: net.HardwareAddr(vdp.NearestCustomerBridge[:])})
	stop := s.Start()
	t.Cleanup(func() { require.NoError(t, stop()) })
	return s
}
