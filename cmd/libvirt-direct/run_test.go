package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRunNetworks(t *testing.T) {
	n, err := parseNetwork("lan,mac=52:54:00:00:00:01,queues=4,name=n0")
	require.NoError(t, err)
	require.Equal(t, "n0", n.name)
	require.Equal(t, "lan", n.request.Profile)
	require.Equal(t, 4, n.request.Queues)
	require.Equal(t, "52:54:00:00:00:01", n.request.MAC.String())
	for _, bad := range []string{"", ",queues=2", "lan,queues=0", "lan,queues=x", "lan,mac=1", "lan,mack=1", "lan,name=", "a{b"} {
		_, err := parseNetwork(bad)
		require.Error(t, err, bad)
	}
}

func TestRunReferences(t *testing.T) {
	nets := func() []network {
		a, err := parseNetwork("lan,queues=2")
		require.NoError(t, err)
		b, err := parseNetwork("lan,name=two")
		require.NoError(t, err)
		return []network{a, b}
	}
	n := nets()
	require.NoError(t, checkReferences(n, []string{"x", "fds={fds:lan},mac={mac:lan}", "{fd:two}{fd:lan:1}"}))
	require.True(t, n[0].tellMAC)
	require.False(t, n[1].tellMAC)
	for arg, want := range map[string]string{
		"{fd:lan}":                "does not use network two",
		"{fd:lan}{fd:tow}":        "no --net of that name",
		"{fd:lan:2}{fd:two}":      "has 2 queues",
		"{fds:lan:1}{fd:two}":     "only {fd:…}",
		"{mac:lan}{fd:two}":       "does not use network lan",
		"fd=3 and nothing of it}": "does not use network lan",
	} {
		require.ErrorContains(t, checkReferences(nets(), []string{arg}), want, arg)
	}
	twice := nets()
	twice[1].name = "lan"
	require.ErrorContains(t, checkReferences(twice, []string{"{fd:lan}"}), "two --net are called lan")
}

func TestRunSubstitutes(t *testing.T) {
	nets := []network{{name: "lan", fds: []int{7, 9}, mac: "52:54:00:00:00:01"}}
	require.Equal(t, "tap,fds=7:9,x", substitute(nets, "tap,fds={fds:lan},x"))
	require.Equal(t, "fd=[7,9]", substitute(nets, "fd=[{fd:lan},{fd:lan:1}]"))
	require.Equal(t, "mac=52:54:00:00:00:01 {other} {fd}", substitute(nets, "mac={mac:lan} {other} {fd}"))
}
