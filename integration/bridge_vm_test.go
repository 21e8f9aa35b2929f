//go:build vm

package integration

import (
	"bytes"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
)

// vlansOf is what iproute2 shows of a bridge port.
func (h *fixture) vlansOf(port string) string {
	h.T.Helper()
	fields := strings.Fields(h.MustRun("bridge", "vlan", "show", "dev", port))
	return strings.Join(fields[3:], " ") // behind "port vlan-id NAME"
}

func tapNIC(n int, more string) string {
	return fmt.Sprintf("<interface type='bridge'><mac address='%s'/><source bridge='br0'/><model type='virtio'/>%s</interface>", mac(n), more)
}

// Access, trunk and native VLANs of bridge ports on the wire of a kernel whose bridges
// filter VLANs.
func TestBridgeVLANs(t *testing.T) {
	if !inMachine() {
		t.Skip("this is for the test machine: go test -tags vm -exec testvm")
	}
	ctx := hosttest.Deadline(t, 6*time.Minute)
	out, err := exec.CommandContext(ctx, "modprobe", "tun").CombinedOutput() // or there is no /dev/net/tun
	require.NoError(t, err, "%s", out)
	h := newFixture(ctx, t, "a", "deadline = \"1m\"\n[uplink.office]\ndevice = \"br0\"\nvlans = [\"10-29\"]\n")
	far := hosttest.NewPeer(ctx, t, host.Options{Name: "far"})
	require.NoError(t, host.Wire(ctx, h.Peer, "nica", far, "wire0"))
	require.NoError(t, h.Bridge(ctx, "br0", host.Port{Name: "nica"}))
	h.MustStartLibvirtd()
	before := h.MustSnapshot()

	// One guest with a port of each kind, the second written as libvirt does and rewritten.
	nic := func(n int, words string) string { return fmt.Sprintf("<ld:nic mac='%s' %s/>", mac(n), words) }
	g := host.Domain{Name: "g", MemoryMiB: 32, Interfaces: []string{
		tapNIC(1, "<boot order='1'/>"),
		tapNIC(2, "<vlan trunk='yes'><tag id='10' nativeMode='untagged'/><tag id='20'/><tag id='21'/></vlan><rom enabled='no'/>"),
		tapNIC(3, "<rom enabled='no'/>"),
	}, Metadata: "<ld:nics xmlns:ld='urn:libvirt-direct:1'>" + nic(1, "vlan='10' locked='yes'") + nic(3, "uplink='office' vlan='10' trunk='20-22' native='tagged'") + "</ld:nics>"}
	outside := host.Domain{Name: "outside", MemoryMiB: 32, Interfaces: []string{tapNIC(4, "")}, Metadata: metadata(4, "vlan='30'")}
	h.MustDefine(outside)
	_, err = h.Virsh(ctx, "start", "outside")
	require.ErrorContains(t, err, `br0 does not filter VLANs; run: ip link set br0 type bridge vlan_filtering 1`)
	h.MustRun("ip", "link", "set", "br0", "type", "bridge", "vlan_filtering", "1")
	check := func() string {
		out, _ := h.Run(ctx, program(t, "libvirt-direct"), "check") // it finds no helper's faults or some, which is not this test's
		return strings.Join(strings.Fields(out), " ")
	}
	h.MustRun("bridge", "vlan", "add", "dev", "nica", "vid", "10")
	require.Contains(t, check(), "note bridge office no port of br0 but guests' taps carries VLANs 11-29: bridge vlan add dev UPLINK vid 11-29")
	h.MustRun("bridge", "vlan", "add", "dev", "nica", "vid", "11-30")
	require.Contains(t, check(), "ok bridge office br0 carries its VLANs beyond the guests' taps")
	_, err = h.Virsh(ctx, "start", "outside")
	require.ErrorContains(t, err, `VLAN 30 on uplink "office"`)

	wire, err := far.Capture(ctx, "wire0")
	require.NoError(t, err)
	h.rewrite(g)
	h.start("g")
	var names []string
	for line := range strings.Lines(h.MustVirsh("domiflist", "g")) {
		names = append(names, strings.Fields(line)[0])
	}
	require.Len(t, names, 3)
	for i, want := range []string{"10 PVID Egress Untagged", "10 PVID Egress Untagged 20 21", "10 PVID 20 21 22"} {
		require.Equal(t, want, h.vlansOf(names[i]))
	}
	require.Contains(t, h.MustRun("bridge", "fdb", "show", "brport", names[0]), mac(1)+" vlan 10 sticky master br0 static")
	require.Contains(t, h.MustRun("bridge", "-d", "link", "show", "dev", names[0]), "locked on")

	// The far side asks for an address in each VLAN; what the guests' taps get of it.
	taps := map[string]*host.Capture{}
	for _, tap := range names {
		taps[tap], err = h.Capture(ctx, tap)
		require.NoError(t, err)
	}
	for _, vid := range []int{30, 20, 22, 10} { // the last one is seen by all
		name := fmt.Sprintf("wire0.%d", vid)
		_, err := far.Run(ctx, "sh", "-c", fmt.Sprintf("ip link add link wire0 name %[1]s type vlan id %[2]d && ip addr add 10.0.%[2]d.1/24 dev %[1]s && ip link set %[1]s up; busybox arping -c 1 -w 1 -I %[1]s 10.0.%[2]d.2 || true", name, vid))
		require.NoError(t, err)
	}
	// arp finds the ARP request for an address of a VLAN, and its tag; -1 where there is none.
	arp := func(f []byte, vid byte) int {
		tag := 0
		if len(f) > 18 && bytes.Equal(f[12:14], []byte{0x81, 0x00}) {
			tag, f = int(f[14])<<8|int(f[15]), append(bytes.Clone(f[:12]), f[16:]...)
		}
		if len(f) < 42 || !bytes.Equal(f[12:14], []byte{0x08, 0x06}) || !bytes.Equal(f[38:42], []byte{10, 0, vid, 2}) {
			return -1
		}
		return tag
	}
	for i, want := range []map[byte]int{
		{10: 0, 20: -1, 22: -1, 30: -1}, {10: 0, 20: 20, 22: -1, 30: -1}, {10: 10, 20: 20, 22: 22, 30: -1},
	} {
		tap := names[i]
		_, err := taps[tap].Wait(ctx, func(f []byte) bool { return arp(f, 10) >= 0 })
		require.NoError(t, err, tap)
		for vid, tag := range want {
			got := -1
			for _, f := range taps[tap].Frames() {
				got = max(got, arp(f, vid))
			}
			require.Equal(t, tag, got, "%s, VLAN %d", tap, vid)
		}
	}

	// iPXE asks for an address, which the lock lets pass, and comes tagged to the far side.
	hw, err := net.ParseMAC(mac(1))
	require.NoError(t, err)
	frame, err := wire.Wait(ctx, func(f []byte) bool { return len(f) > 18 && bytes.Equal(f[6:12], hw) })
	require.NoError(t, err)
	require.Equal(t, []byte{0x81, 0x00, 0x00, 10}, frame[12:16], "% x", frame[:18])
	h.stop("g")
	h.RequireUnchanged(before)
}
