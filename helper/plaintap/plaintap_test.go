package plaintap

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestProfiles(t *testing.T) {
	const bridge = "[p]\nkind = bridge\nbridge = br0\n"
	for text, noted := range map[string]bool{
		bridge + "allow = everyone\n":                           true,
		bridge + "allow = group:kvm\n":                          true,
		bridge + "allow = gid:36\n":                             true,
		bridge + "allow = user:alice user:bob\n":                true,
		bridge + "allow = user:alice\nallow = uid:7\n":          true,
		bridge + "allow = user:alice\n":                         false,
		bridge + "allow = uid:1000\n":                           false,
		bridge:                                                  false,
		bridge + "allow = everyone\nanti-spoof = yes\n":         false,
		"[p]\nkind = ovs\nbridge = br0\nallow = everyone\n":     true,
		"[p]\nkind = macvtap\nlower = eth0\nallow = everyone\n": false,
		"": false,
	} {
		names, err := profiles([]byte(text))
		require.NoError(t, err, text)
		require.Equal(t, noted, len(names) == 1, text)
		if noted {
			require.Equal(t, []string{"p"}, names)
		}
	}
	_, err := profiles([]byte("kind = x\n"))
	require.Error(t, err)
}
