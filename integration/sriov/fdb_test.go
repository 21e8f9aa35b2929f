//go:build integration

package sriov

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host"
)

// A guest on a virtual function reaches one behind a bridge on the card only while the card
// knows that one's MAC: a veth in the bridge stands in for its tap.
func TestCardBelowABridgeKnowsTheGuest(t *testing.T) {
	installHook(t, "qemu", configuration)
	vfs(t, "eth0", 2)
	l := newLife(t)
	_, netdev := device(t, "eth0", 1)
	sh(t, `ip netns add guest && ip netns add far && ip link add br0 type bridge && ip link set br0 up && ip link set eth0 master br0
		ip link add vnet9 type veth peer name eth0 netns guest address %s && ip link set vnet9 master br0 up
		ip -n guest addr add 10.7.0.1/24 dev eth0 && ip -n guest link set eth0 up
		ip link set %s netns far name vf0 && ip -n far addr add 10.7.0.2/24 dev vf0 && ip -n far link set dev vf0 up`, macX, netdev)
	t.Cleanup(func() {
		sh(t, "ip -n far link set dev vf0 down; ip -n far link set dev vf0 netns 1 name %s; ip link del vnet9; ip link del br0; ip netns del guest; ip netns del far", netdev)
	})
	reached := func() bool {
		_, err := tryShell("ip netns exec far busybox ping -q -c 3 -W 1 10.7.0.1")
		return err == nil
	}
	entered := func() bool {
		return strings.Contains(sh(t, "bridge fdb show dev eth0"), macX+" self")
	}
	require.NoError(t, os.WriteFile(l.file, []byte(host.Domain{
		Name: "life", UUID: lifeUUID,
		Interfaces: []string{"<interface type='bridge'><mac address='" + macX + "'/><source bridge='br0'/><target dev='vnet9'/></interface>"},
		Metadata:   words(nic(macX, "fdb='pf'")),
	}.XML()), 0o600))

	require.NoError(t, l.run("prepare"))
	require.False(t, reached(), "the card sends it out of its port")
	require.NoError(t, l.run("start"))
	require.True(t, entered())
	require.Eventually(t, reached, 20*time.Second, 20*time.Millisecond)
	sh(t, "bridge fdb del %s dev eth0 self", macX)
	require.NoError(t, l.run("reconnect"))
	require.Eventually(t, reached, 20*time.Second, 20*time.Millisecond, "entered again")
	require.NoError(t, l.run("stopped"))
	require.False(t, entered())
	require.False(t, reached())
	require.NoError(t, l.run("release"))
	require.Empty(t, sh(t, "ls /run/libvirt-direct/domains"))
}
