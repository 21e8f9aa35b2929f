//go:build vm

package main

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/helper/client"
)

// These tests need 802.1Q sub-interfaces and bridge VLAN filtering in the kernel.

func TestMacvtapOnVLAN(t *testing.T) {
	wire(t, "v0", "v1")
	profiles(t, lanProfile+"vlan = 42\n")
	far := listener(t, "v1")
	a, b := ask(t, "lan/52:54:00:aa:bb:cc"), ask(t, "lan")
	f := requireGranted(t, a)
	requireGranted(t, b)
	show := run(t, "ip", "-d", "link", "show", "v0.42")
	require.Contains(t, show, "vlan protocol 802.1Q id 42")
	require.Contains(t, show, ",UP")
	noIPv6, err := os.ReadFile("/proc/sys/net/ipv6/conf/v0.42/disable_ipv6")
	require.NoError(t, err)
	require.Equal(t, "1\n", string(noIPv6))
	// Why libvirt-direct gc must not know the device: under living guests it looks as if nothing stood on it, and
	// removing it takes their devices away.
	uppers, err := filepath.Glob("/sys/class/net/v0.42/upper_*")
	require.NoError(t, err)
	require.Empty(t, uppers)
	require.Contains(t, show, "alias "+keptAlias)
	frame, err := hex.DecodeString("ffffffffffff" + "525400aabbcc" + "88b5")
	require.NoError(t, err)
	_, err = f.Write(append(append(make([]byte, 10), frame...), []byte("<end>"+strings.Repeat(".", 50))...))
	require.NoError(t, err)
	require.Equal(t, 42, vlanOf(t, far))
	run(t, "ip", "link", "del", "v0.42")
	a.close()
	b.close()
	requireNothingLeft(t)

	// A device of that name that is something else is not used.
	run(t, "ip", "link", "add", "v0.42", "type", "veth", "peer", "name", "vx")
	defer run(t, "ip", "link", "del", "v0.42")
	c := ask(t, "lan")
	require.Equal(t, 1, c.code)
	require.Contains(t, c.stderr, "not the VLAN sub-interface")
}

// vlanOf is the VLAN of the next frame that holds "<end>".
func vlanOf(t testing.TB, fd int) int {
	t.Helper()
	for {
		b, oob := make([]byte, 2048), make([]byte, 256)
		n, oobn, _, _, err := receiveMsg(fd, b, oob)
		require.NoError(t, err)
		if !strings.Contains(string(b[:n]), "<end>") {
			continue
		}
		if b[12] == 0x81 && b[13] == 0 {
			return int(b[14]&15)<<8 | int(b[15])
		}
		msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
		require.NoError(t, err)
		for _, m := range msgs {
			if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 20 {
				return int(m.Data[16]) | int(m.Data[17]&15)<<8 // struct tpacket_auxdata: tp_vlan_tci
			}
		}
		return 0
	}
}

func TestBridgeVLAN(t *testing.T) {
	bridge(t, "br0")
	profiles(t, "[lan]\nkind = bridge\nbridge = br0\nvlan = 42\nallow = everyone\n")
	a := ask(t, "lan")
	require.Equal(t, 1, a.code)
	require.Contains(t, a.stderr, "does not filter VLANs")
	requireNothingLeft(t)

	run(t, "ip", "link", "set", "br0", "type", "bridge", "vlan_filtering", "1")
	d, err := client.Inspect(requireGranted(t, ask(t, "lan")))
	require.NoError(t, err)
	lines := strings.Fields(run(t, "bridge", "vlan", "show", "dev", d.Name))
	require.Equal(t, []string{d.Name, "42", "PVID", "Egress", "Untagged"}, lines[len(lines)-5:])
	require.NotContains(t, lines, "1", "the default VLAN is gone")
}
