//go:build integration

package main

import (
	"context"
	"encoding/xml"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
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
func (s *site) startVDPD(nic string) {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), "vdpd")
	build := exec.Command("go", "build", "-o", file, "../../vdp/vdpd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(s.t, err, "%s", out)
	cmd := s.Command(context.WithoutCancel(s.ctx), file, "-config", "/nonexistent", "-uplink", nic)
	cmd.Stdout, cmd.Stderr = s.t.Output(), s.t.Output()
	require.NoError(s.t, cmd.Start())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	s.t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		<-ended
	})
}

func TestGraphOfRunningGuests(t *testing.T) {
	s := newSite(t, uplinkConfig)
	switchOn(t, s.peer, "wire0")
	s.up()
	s.startVDPD("nica")
	// Two guests, one with a hook-owned NIC, one with libvirt's own macvtap and a bridge.
	s.run("ip", "link", "add", "br0", "type", "bridge")
	s.run("ip", "link", "set", "br0", "up")
	hosttest.Require(t, "ovsdb-server", "ovs-vswitchd", "ovs-vsctl")
	vswitch, err := s.StartOVS(s.ctx)
	require.NoError(t, err)
	require.NoError(t, vswitch.AddBridge(s.ctx, "ovsbr0"))
	s.run("ip", "link", "add", "fabric", "address", "02:aa:00:00:00:09", "type", "veth", "peer", "name", "far")
	s.run("sh", "-c", "ip link set fabric up; ip link set far up")
	_, err = vswitch.Vsctl(s.ctx, "add-port", "ovsbr0", "fabric")
	require.NoError(t, err)
	owned := ownedGuest("o<&>", "")
	s.define(owned)
	s.ok("rewrite", "--domain", owned.Name)
	s.define(host.Domain{Name: "plain", Interfaces: []string{
		host.DirectNIC(mac1, "nica", "vepa"),
		"<interface type='bridge'><mac address='52:54:00:00:00:03'/><source bridge='br0'/></interface>",
		"<interface type='bridge'><mac address='52:54:00:00:00:04'/><source bridge='ovsbr0'/><vlan><tag id='100'/></vlan><virtualport type='openvswitch'/></interface>",
	}})
	s.virsh("start", "--domain", owned.Name)
	s.virsh("start", "plain")
	require.Eventually(t, func() bool {
		out, _, _ := s.cli("vsi", "uplinks")
		return strings.Contains(out, "edition 2012")
	}, time.Minute, 100*time.Millisecond)
	s.ok("vsi", "associate", "--uplink", "nica", "--manager", "11", "--type", "7", "--type-version", "1", "--mac", mac1, "--vlan", "100", aVSI)

	text := s.ok("graph", "--format", "mermaid")
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

	svg := s.ok("graph", "--format", "svg")
	require.NoError(t, wellFormed(svg))
	require.Contains(t, svg, ">o&lt;&amp;&gt;</text>")

	// What goes wrong is seen.
	s.run("ip", "link", "set", "nica", "down")
	require.Contains(t, s.ok("graph"), `nica\n`)
	require.Contains(t, s.ok("graph"), `\ndown", fillcolor="#e4e4e4", color="#c00000"`)
	s.run("ip", "link", "set", "nica", "up")
	require.NoError(t, s.KillLibvirtd(s.ctx, unix.SIGKILL))
	out, stderr, code := s.cli("graph", "--format", "mermaid")
	require.Zero(t, code)
	require.Contains(t, stderr, "libvirt-direct: the picture lacks something: libvirt is not reachable at qemu:///system")
	require.Contains(t, out, "o#lt;#amp;#gt;", "from the journal")
	require.NoError(t, s.StartLibvirtd(s.ctx))
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
