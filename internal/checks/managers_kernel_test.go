//go:build integration

package checks

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/internal/link/linktest"
)

// The devices of the hook and those of the helper are found, and nobody else's.
func TestHostOnGuestsDevices(t *testing.T) {
	n := linktest.NewNetns(t)
	// Taps in place of each kind, for which not every kernel has a module.
	for name, alias := range map[string]string{
		"ldt0123456789": "libvirt-direct 11111111-1111-4111-8111-111111111111",
		"tap4abcdef0":   "qemu-direct-helper: uid 1000, lan",
		"nica5":         "libvirt-direct (in use by the helper)",
		"vnet5":         "rack 7",
	} {
		n.Do("ip", "tuntap", "add", "mode", "tap", "name", name)
		n.Do("ip", "link", "set", name, "alias", alias)
		require.NoError(t, os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0o600))
	}
	require.Empty(t, onGuestsDevices(t.Context(), n.Conn()))
	for i, name := range []string{"ldt0123456789", "tap4abcdef0", "nica5", "vnet5"} {
		n.Address(name, "192.0.2."+string(rune('1'+i))+"/24")
	}
	found := onGuestsDevices(t.Context(), n.Conn())
	require.Len(t, found, 3)
	for _, f := range found {
		require.Equal(t, Fault, f.Level)
		require.Contains(t, f.Text, "is for guests, and this host is on it")
		require.False(t, strings.HasPrefix(f.Text, "vnet5"), f.Text)
	}
}
