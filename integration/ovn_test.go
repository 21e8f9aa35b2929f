//go:build integration

package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
)

const ovnConf = `deadline = "60s"
[profile.logical.ovs]
ovn = true
`

// onOVN is an <interface> on OVN's integration bridge. Only two's interfaceid is a
// logical port.
func onOVN(n int) string {
	nic := strings.ReplaceAll(onOVS(n), "ovsbr0", "br-int")
	if n != 2 {
		nic = strings.ReplaceAll(nic, interfaceID[:8], fmt.Sprintf("%08d", n))
	}
	return nic
}

// Guests on two hosts are ports of OVN's logical switches, and talk through a geneve
// tunnel: those of one switch, and a guest with a VLAN that is a port of the other.
func TestOVN(t *testing.T) {
	hosttest.Require(t, "ovn-northd", "ovn-controller", "ovn-nbctl")
	ctx := hosttest.Deadline(t, 4*time.Minute)
	var hosts []*ovsFixture
	for _, name := range []string{"a", "b"} {
		h := &ovsFixture{fixture: newFixture(ctx, t, name, ovnConf)}
		var err error
		h.OVS, err = h.StartOVS(ctx)
		require.NoError(t, err)
		hosts = append(hosts, h)
	}
	a, b := hosts[0], hosts[1]
	require.NoError(t, host.Wire(ctx, a.Peer, "nica", b.Peer, "nicb"))
	for i, nic := range []string{"nica", "nicb"} {
		require.NoError(t, hosts[i].AddBridge(ctx, "underlay"))
		hosts[i].vsctl("add-port", "underlay", nic)
		require.NoError(t, hosts[i].SetAddress(ctx, "underlay", fmt.Sprintf("10.99.0.%d/24", i+1)))
	}
	require.NoError(t, a.StartOVNCentral(ctx))
	for i, h := range hosts {
		require.NoError(t, h.JoinOVN(ctx, "10.99.0.1", fmt.Sprintf("10.99.0.%d", i+1)))
		h.MustStartLibvirtd()
	}
	require.NoError(t, a.Nbctl(ctx,
		"ls-add", "red", "--", "ls-add", "blue",
		"--", "lsp-add", "red", "guest one", "--", "lsp-set-addresses", "guest one", mac(1)+" "+addr(1),
		"--", "lsp-add", "blue", "one-30", "guest one", "30", "--", "lsp-set-addresses", "one-30", mac(1)+" 10.66.0.1",
		"--", "lsp-add", "red", interfaceID, "--", "lsp-set-addresses", interfaceID, mac(2)+" "+addr(2),
		"--", "lsp-add", "blue", "three", "--", "lsp-set-addresses", "three", mac(3)+" 10.66.0.3"))

	// A logical port that is not there stops the start, and leaves nothing.
	lost := tiny("lost", onOVN(9))
	lost.Metadata = metadata(9, "profile='logical' ifaceid='no such port'")
	a.Configure(strings.Replace(ovnConf, "60s", "3s", 1))
	before := a.MustSnapshot()
	a.MustDefine(lost)
	_, err := a.Virsh(ctx, "start", "lost")
	require.ErrorContains(t, err, "ovn-controller has not bound the port")
	a.RequireUnchanged(before)
	a.Configure(ovnConf)

	one := newLinux(t, "one", 1, onOVN(1), "profile='logical' ifaceid='guest one'", addr(2))
	one.Cmdline += fmt.Sprintf(" guest.nic=%s,30,10.66.0.1/24,10.66.0.3,, guest.vlans", mac(1))
	two := newLinux(t, "two", 2, onOVN(2), "profile='logical' own='hook'", addr(1))
	three := newLinux(t, "three", 3, onOVN(3), "profile='logical' ifaceid='three'", addr(1))
	// On blue it has one's VLAN for a neighbour; red's addresses are out of its reach.
	three.Cmdline += fmt.Sprintf(" guest.nic=%s,0,10.66.0.3/24,10.66.0.1,,", mac(3))
	a.MustDefine(one.Domain)
	b.rewrite(two.Domain)
	b.MustDefine(three.Domain)
	a.start("one")
	require.Contains(t, a.vsctl("--columns=external_ids", "find", "Interface", `external_ids:iface-id="guest one"`), `ovn-installed="true"`,
		"before virsh start has ended")
	b.start("two")
	b.start("three")
	for _, want := range []struct {
		g    *linux
		text string
	}{
		{one, "ping " + addr(2) + " ok"}, {two, "ping " + addr(1) + " ok"},
		{one, "ping 10.66.0.3 ok"}, {three, "ping 10.66.0.1 ok"}, {three, "ping " + addr(1) + " lost"},
	} {
		require.NoError(t, want.g.console.Skip())
		_, err := want.g.console.Wait(ctx, want.text)
		require.NoError(t, err, want.text)
	}

	// The port is bound at the destination while the guest still runs at the source.
	require.NoError(t, a.Migrate(ctx, "one", "10.99.0.2"))
	require.NoError(t, a.WaitState(ctx, "one", libvirt.DomainShutoff))
	require.NoError(t, one.console.Skip())
	_, err = one.console.Wait(ctx, "ping "+addr(2)+" ok")
	require.NoError(t, err)
	require.NotContains(t, a.vsctl("list-ports", "br-int"), "vnet")
	require.Empty(t, a.Journals())
	b.stop("one")
	b.stop("two")
	b.stop("three")
	for _, h := range hosts {
		require.NotContains(t, h.vsctl("list-ports", "br-int"), "vnet")
		require.NotContains(t, h.vsctl("list-ports", "br-int"), "ldt")
	}
}
