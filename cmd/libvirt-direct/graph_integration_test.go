//go:build integration

package main

import (
	"encoding/xml"
	"errors"
	"io"
	"net"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
	"libvirt-direct/vdp"
	"libvirt-direct/vdp/vdptest"
)

// switchOn runs an 802.1Qbg switch on a NIC in another namespace, for the time of the test.
func switchOn(t *testing.T, p *host.Peer, nic string) {
	t.Helper()
	var conn net.PacketConn
	opened := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		ns, err := netns.GetFromPath(filepath.Join(filepath.Dir(p.Path("")), "ns/net"))
		if err == nil {
			err = netns.Set(ns)
			ns.Close()
		}
		if err == nil {
			var ifi *net.Interface
			if ifi, err = net.InterfaceByName(nic); err == nil {
				conn, err = packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, nil)
			}
		}
		opened <- err
	}()
	require.NoError(t, <-opened)
	b := vdptest.NewBridge(vdptest.Config{MAC: vdp.MAC{2, 0xbb, 5: 1}, Edition: vdp.Edition2012})
	s := vdptest.NewServer(b, conn, &packet.Addr{HardwareAddr: net.HardwareAddr(vdp.NearestCustomerBridge[:])})
	stop := s.Start()
	t.Cleanup(func() { stop() }) // whatever it returns: the NIC may have gone first
}

// startVDPD builds vdpd and runs it for the time of the test.
func (h *fixture) startVDPD(nic string) {
	h.T.Helper()
	dir := h.T.TempDir()
	require.NoError(h.T, hosttest.Build(dir, map[string]string{"vdpd": "vdp/vdpd"}))
	h.MustStart(filepath.Join(dir, "vdpd"), "-config", "/nonexistent", "-uplink", nic)
}

func TestGraphOfRunningGuests(t *testing.T) {
	h := newFixture(t, uplinkConfig)
	switchOn(t, h.peer, "wire0")
	h.up()
	h.startVDPD("nica")
	// Two guests, one with a hook-owned NIC, one with libvirt's own macvtap and a bridge.
	h.MustRun("ip", "link", "add", "br0", "type", "bridge")
	h.MustRun("ip", "link", "set", "br0", "up")
	hosttest.Require(t, "ovsdb-server", "ovs-vswitchd", "ovs-vsctl")
	vswitch, err := h.StartOVS(h.Ctx)
	require.NoError(t, err)
	require.NoError(t, vswitch.AddBridge(h.Ctx, "ovsbr0"))
	h.MustRun("ip", "link", "add", "fabric", "address", "02:aa:00:00:00:09", "type", "veth", "peer", "name", "far")
	h.MustRun("sh", "-c", "ip link set fabric up; ip link set far up")
	_, err = vswitch.Vsctl(h.Ctx, "add-port", "ovsbr0", "fabric")
	require.NoError(t, err)
	owned := ownedGuest("o<&>", "")
	h.MustDefine(owned)
	h.ok("rewrite", "--domain", owned.Name)
	h.MustDefine(host.Domain{Name: "plain", Interfaces: []string{
		host.DirectNIC(mac1, "nica", "vepa"),
		"<interface type='bridge'><mac address='52:54:00:00:00:03'/><source bridge='br0'/></interface>",
		"<interface type='bridge'><mac address='52:54:00:00:00:04'/><source bridge='ovsbr0'/><vlan><tag id='100'/></vlan><virtualport type='openvswitch'/></interface>",
	}})
	h.MustVirsh("start", "--domain", owned.Name)
	h.MustVirsh("start", "plain")
	require.Eventually(t, func() bool {
		out, _, _ := h.cli("vsi", "uplinks")
		return strings.Contains(out, "edition 2012")
	}, time.Minute, 100*time.Millisecond)
	h.ok("vsi", "associate", "--uplink", "nica", "--manager", "11", "--type", "7", "--type-version", "1", "--mac", mac1, "--vlan", "100", aVSI)

	text := h.ok("graph", "--format", "mermaid")
	number := func(label string) string {
		t.Helper()
		m := regexp.MustCompile(`(?m)^  (n\d+)\["` + label + `"\]$`).FindStringSubmatch(text)
		require.NotNil(t, m, "%s in\n%s", label, text)
		return m[1]
	}
	guest, plain := number("o#lt;#amp;#gt;"), number("plain")
	tap := number("ldt[0-9a-f]{10}<br/>" + mac2 + "<br/>macvtap bridge<br/>made by libvirt-direct")
	direct := number("macvtap0<br/>" + mac1 + "<br/>macvtap vepa")
	vnet := number("vnet0<br/>52:54:00:00:00:03<br/>tap")
	bridge := number("br0<br/>bridge")
	ovsTap, ovsBridge := number("vnet1<br/>52:54:00:00:00:04<br/>tap<br/>VLAN 100 in ovsbr0"), number("ovsbr0<br/>Open vSwitch")
	fabric := number("fabric<br/>02:aa:00:00:00:09<br/>veth")
	nic := number("nica<br/>[0-9a-f:]{17}<br/>veth<br/>uplink storage")
	port := number("switch 02:bb:00:00:00:01<br/>port [^<]+<br/>802.1Qbg, edition 2012<br/>reflective relay")
	vsi := number("VSI " + aVSI + "<br/>established<br/>" + mac1 + " VLAN 100<br/>manager 11, type 7 version 1")
	for _, e := range [][2]string{{guest, tap}, {tap, nic}, {plain, direct}, {direct, nic}, {plain, vnet}, {vnet, bridge}, {plain, ovsTap}, {ovsTap, ovsBridge}, {ovsBridge, fabric}, {nic, port}} {
		require.Contains(t, text, "  "+e[0]+" --> "+e[1]+"\n")
	}
	for _, e := range [][2]string{{direct, vsi}, {vsi, port}} {
		require.Contains(t, text, "  "+e[0]+" -.-> "+e[1]+"\n")
	}
	require.Equal(t, 12, strings.Count(text, ">n")+strings.Count(text, "> n"), text)
	require.NotContains(t, text, "stroke:", "nothing is wrong")

	svg := h.ok("graph", "--format", "svg")
	require.NoError(t, wellFormed(svg))
	require.Contains(t, svg, ">o&lt;&amp;&gt;</text>")

	// What goes wrong is seen.
	h.MustRun("ip", "link", "set", "nica", "down")
	require.Contains(t, h.ok("graph"), `nica\n`)
	require.Contains(t, h.ok("graph"), `\ndown", fillcolor="#e4e4e4", color="#c00000"`)
	h.MustRun("ip", "link", "set", "nica", "up")
	require.NoError(t, h.KillLibvirtd(h.Ctx, unix.SIGKILL))
	out, stderr, code := h.cli("graph", "--format", "mermaid")
	require.Zero(t, code)
	require.Contains(t, stderr, "libvirt-direct: the picture lacks something: libvirt is not reachable at qemu:///system")
	require.Contains(t, out, "o#lt;#amp;#gt;", "from the journal")
	h.MustStartLibvirtd()
}

func wellFormed(doc string) error {
	for d := xml.NewDecoder(strings.NewReader(doc)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}
