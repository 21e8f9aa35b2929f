package checks

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/internal/config"
	"libvirt-direct/internal/link"
)

// A guest's frames pass a VLAN, the bond below it and the bond's ports; what stands beside them
// is nobody's way.
func TestGuestPaths(t *testing.T) {
	k := &fakeKernel{links: []link.Link{
		{Index: 1, Name: "lo"}, {Index: 2, Name: "eth0", Master: 4}, {Index: 3, Name: "eth1", Master: 4}, {Index: 4, Name: "bond0", Kind: "bond"},
		{Index: 5, Name: "bond0.7", Kind: "vlan", Parent: 4}, {Index: 6, Name: "mt0", Kind: "macvtap", Parent: 5},
		{Index: 7, Name: "br0", Kind: "bridge"}, {Index: 8, Name: "vnet0", Kind: "tun", Master: 7}, {Index: 9, Name: "eth2", Master: 7},
		{Index: 10, Name: "br1", Kind: "bridge"}, {Index: 11, Name: "docker0", Kind: "bridge"}, {Index: 12, Name: "veth1", Kind: "veth", Master: 11, Parent: 99, ParentElsewhere: true},
		{Index: 13, Name: "virbr0", Kind: "bridge"}, {Index: 14, Name: "vnet1", Kind: "tun", Master: 13}, {Index: 15, Name: "vnet2", Kind: "tun", Master: 13},
	}}
	p, err := guestPaths(t.Context(), k, &config.Config{})
	require.NoError(t, err)
	require.Equal(t, []guestBridge{{"br0", "eth2", "vnet0"}, {"virbr0", "vnet2", "vnet1"}}, p.bridges)
	var names []string
	for _, d := range p.devices {
		names = append(names, d.Name)
	}
	require.ElementsMatch(t, []string{"bond0.7", "bond0", "eth0", "eth1", "eth2"}, names)
	p, err = guestPaths(t.Context(), k, &config.Config{Uplinks: map[string]*config.Uplink{"u": {Name: "u", Device: "br1"}}})
	require.NoError(t, err)
	require.Contains(t, p.bridges, guestBridge{"br1", "vnet1", "vnet0"})
}

func TestCallsIP(t *testing.T) {
	root := t.TempDir()
	write := func(path, text string) {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(root, path), []byte(text), 0o644))
	}
	write("sys/class/net/br0/bridge/nf_call_iptables", "1\n")
	require.Equal(t, called{}, callsIP(root, "br0"), "br_netfilter is not loaded")
	write("proc/sys/net/bridge/bridge-nf-call-iptables", "0\n")
	require.Equal(t, called{v4: "ip link set br0 type bridge nf_call_iptables 0"}, callsIP(root, "br0"))
	require.Equal(t, called{}, callsIP(root, "br1"))
	write("proc/sys/net/bridge/bridge-nf-call-ip6tables", "1\n")
	require.Equal(t, called{v6: "sysctl net.bridge.bridge-nf-call-ip6tables=0"}, callsIP(root, "br1"))
}

func tcAttr(typ uint16, v []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(len(v)+unix.SizeofRtAttr))
	b = append(binary.NativeEndian.AppendUint16(b, typ), v...)
	for len(b)%unix.RTA_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

// filterMessage is a filter of a kind with one action, as the kernel tells of it.
func filterMessage(kind string, at uint16, action string, verdict uint32) []byte {
	parms := binary.NativeEndian.AppendUint32(make([]byte, 8), verdict)
	parms = append(parms, make([]byte, 8)...)
	act := append(tcAttr(1, []byte(action+"\x00")), tcAttr(2, tcAttr(2, parms))...)
	b := append(make([]byte, 20), tcAttr(1, []byte(kind+"\x00"))...)
	return append(b, tcAttr(2, tcAttr(at, tcAttr(1, act)))...)
}

func TestParseFilter(t *testing.T) {
	for _, c := range []struct {
		message []byte
		want    tcFilter
	}{
		{filterMessage("u32", 7, "gact", 2), tcFilter{"u32", true}},
		{filterMessage("flower", 3, "gact", 2), tcFilter{"flower", true}},
		{filterMessage("matchall", 2, "gact", 2), tcFilter{"matchall", true}},
		{filterMessage("matchall", 2, "gact", 0), tcFilter{"matchall", false}},
		{filterMessage("matchall", 2, "mirred", 2), tcFilter{"matchall", false}},
		{filterMessage("matchall", 7, "gact", 2), tcFilter{"matchall", false}},
		{filterMessage("bpf", 9, "gact", 2), tcFilter{"bpf", false}},
		{filterMessage("new", 1, "gact", 2), tcFilter{"new", false}},
		{nil, tcFilter{}},
	} {
		require.Equal(t, c.want, parseFilter(c.message))
	}
}

func TestOfIngressQdisc(t *testing.T) {
	b := filterMessage("u32", 7, "gact", 2)
	require.False(t, ofIngressQdisc(b))
	require.False(t, ofIngressQdisc(nil))
	binary.NativeEndian.PutUint32(b[12:], tcEgress)
	require.False(t, ofIngressQdisc(b))
	binary.NativeEndian.PutUint32(b[12:], 0xffff0000) // as tc qdisc add dev … ingress
	require.True(t, ofIngressQdisc(b))
}

func FuzzParseFilter(f *testing.F) {
	f.Add(filterMessage("u32", 7, "gact", 2))
	f.Add(filterMessage("flower", 3, "mirred", 4)[:60])
	f.Fuzz(func(_ *testing.T, b []byte) { parseFilter(b) })
}

func TestPortFlags(t *testing.T) {
	on, off := true, false
	port := &link.BridgePort{State: forwarding}
	l := link.Link{Name: "eth0", Port: port}
	require.Empty(t, portFlags(l, "br0", "bridge u"))
	port.PortFlags = link.PortFlags{Isolated: &off, Locked: &off, Flood: &on, MulticastFlood: &on, Learning: &off}
	require.Empty(t, portFlags(l, "br0", "bridge u"), "what does not learn floods")
	port.PortFlags = link.PortFlags{Isolated: &on, Locked: &on, Flood: &off, MulticastFlood: &off, Learning: &off}
	requireFindings(t, []Finding{
		{Note, "bridge u", "eth0 has isolated on: guests whose ports are isolated reach nobody outside of br0; bridge link set dev eth0 isolated off"},
		{Note, "bridge u", "eth0 has locked on: br0 drops what comes in from senders that its table does not have as behind eth0; bridge link set dev eth0 locked off"},
		{Note, "bridge u", "eth0 has flood off: what guests send to addresses that br0 does not know yet does not leave by eth0; bridge link set dev eth0 flood on"},
		{Note, "bridge u", "eth0 has mcast_flood off: guests' multicast, IPv6's neighbour discovery among it, does not leave by eth0 unless somebody there has joined; bridge link set dev eth0 mcast_flood on"},
		{Note, "bridge u", "eth0 has learning off: br0 never learns who is behind eth0, and does not flood to it; bridge link set dev eth0 learning on"},
	}, portFlags(l, "br0", "bridge u"))
}

func TestVirtualNIC(t *testing.T) {
	root := t.TempDir()
	drivers := filepath.Join(root, "drivers/vmxnet3")
	require.NoError(t, os.MkdirAll(drivers, 0o755))
	require.NoError(t, os.MkdirAll(filepath.Join(root, "class/net/eth0/device"), 0o755))
	require.NoError(t, os.Symlink(drivers, filepath.Join(root, "class/net/eth0/device/driver")))
	allow, virtual := virtualNIC(driverOf(root, "eth0"))
	require.True(t, virtual)
	require.Contains(t, allow, "forged transmits")
	for _, driver := range []string{"virtio_net", "hv_netvsc", "ena", "gve", "gvnic", "vif"} {
		_, virtual := virtualNIC(driver)
		require.True(t, virtual, driver)
	}
	for _, driver := range []string{"", "igb", "mlx5_core", "veth", "e1000e"} {
		_, virtual := virtualNIC(driver)
		require.False(t, virtual, driver)
	}
	require.Empty(t, driverOf(root, "eth1"))
}
