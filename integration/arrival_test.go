//go:build integration

package integration

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
)

// A guest is about to arrive, or its start is under way: until the hook's start is over its
// neighbours on this host reach it where it still is. A macvtap in bridge mode that is up
// takes what is for its MAC, whoever reads from it.
func TestNothingAnswersForAGuestBeforeItRuns(t *testing.T) {
	ctx := hosttest.Deadline(t, time.Minute)
	const mac = "52:54:00:aa:bb:01"
	h := newFixture(ctx, t, "a", "")
	there := hosttest.NewPeer(ctx, t, host.Options{Name: "there"})
	require.NoError(t, host.Wire(ctx, h.Peer, "nica", there, "far"))
	_, err := there.Run(ctx, "sh", "-c", "ip link set far address "+mac+" && ip link set far up && ip addr add 10.9.0.1/24 dev far")
	require.NoError(t, err)
	h.MustRun("sh", "-c", `ip link set nica up && ip netns add neighbour && ip link add link nica name g0 netns neighbour type macvlan mode bridge &&
		ip -n neighbour addr add 10.9.0.2/24 dev g0 && ip -n neighbour link set g0 up`)
	reached := func() bool {
		_, err := h.Run(ctx, "ip", "netns", "exec", "neighbour", "busybox", "ping", "-q", "-c", "2", "-W", "1", "10.9.0.1")
		return err == nil
	}
	xml := host.Domain{
		Name: "g", UUID: uuid,
		Interfaces: []string{"<interface type='ethernet'><mac address='" + mac + "'/><target dev='ldt0' managed='no'/></interface>"},
		Metadata:   "<ld:nics xmlns:ld='urn:libvirt-direct:1'><ld:nic mac='" + mac + "' own='hook' dev='nica' mode='bridge'/></ld:nics>",
	}.XML()
	hook := func(op string) { h.MustPipe(xml, hookPath, "g", op, "begin", "-") }

	require.True(t, reached())
	hook("prepare")
	require.True(t, reached(), "it is not here yet")
	hook("start")
	require.False(t, reached(), "it is here")
	hook("stopped")
	require.True(t, reached(), "it is here no more")
	hook("release")
	require.Empty(t, h.Journals())
}
