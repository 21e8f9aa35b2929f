package main

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func frame(t *testing.T, octets string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(octets, " ", ""))
	require.NoError(t, err)
	return b
}

func TestEchoRequest(t *testing.T) {
	ping := frame(t, "525400770011 525400770012 0800 45000054 00004000 4001 0000 0a4d000c 0a4d000b 0800")
	require.True(t, echoRequest(ping, "10.77.0.12", "10.77.0.11"))
	require.False(t, echoRequest(ping, "10.77.0.11", "10.77.0.12"))
	for n := range ping {
		require.False(t, echoRequest(ping[:n], "10.77.0.12", "10.77.0.11") && n < 35, "%d octets", n)
	}
	reply := bytes.Clone(ping)
	reply[34] = 0
	require.False(t, echoRequest(reply, "10.77.0.12", "10.77.0.11"))
}

func TestVLANOf(t *testing.T) {
	vid, ok := vlanOf(frame(t, "ffffffffffff 525400770014 8100 6064 0800"))
	require.True(t, ok)
	require.Equal(t, 100, vid, "without the priority")
	_, ok = vlanOf(frame(t, "ffffffffffff 525400770014 0800 4500 0000"))
	require.False(t, ok)
	_, ok = vlanOf(frame(t, "ffffffffffff 525400770014 8100"))
	require.False(t, ok)
}

func TestDescribe(t *testing.T) {
	require.Equal(t, "52:54:00:77:00:14 > ff:ff:ff:ff:ff:ff, 802.1Q VLAN 100, EtherType 0x0800, 18 octets",
		describe(frame(t, "ffffffffffff 525400770014 8100 0064 0800")))
	require.Equal(t, "52:54:00:77:00:14 > ff:ff:ff:ff:ff:ff, untagged, EtherType 0x0806, 14 octets",
		describe(frame(t, "ffffffffffff 525400770014 0806")))
}

func TestGateKeepsOrder(t *testing.T) {
	var b strings.Builder
	g := &gate{w: &b}
	_, err := g.Write([]byte("before "))
	require.NoError(t, err)
	require.Empty(t, b.String())
	require.NoError(t, g.open())
	_, err = g.Write([]byte("after"))
	require.NoError(t, err)
	require.Equal(t, "before after", b.String())
}
