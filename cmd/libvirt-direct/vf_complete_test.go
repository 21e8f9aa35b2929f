package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/internal/link"
)

// The shell offers every attribute that is not on the line yet, with its values, and all
// of them are understood.
func TestVFSetCompletion(t *testing.T) {
	offers, _ := completeVFSet(nil, []string{"eth0"}, "")
	require.Empty(t, offers, "a VF's number")
	offers, _ = completeVFSet(nil, []string{"eth0", "1", "trust=on"}, "")
	require.Contains(t, offers, "linkstate=enable")
	require.Contains(t, offers, "proto=802.1ad")
	require.Contains(t, offers, "maxrate=")
	require.NotContains(t, offers, "trust=off")
	all := strings.Join(offers, " ") + " trust="
	for _, name := range link.VFAttrs() {
		require.Contains(t, all, name+"=")
	}
	for _, o := range offers {
		if strings.HasSuffix(o, "=") {
			continue
		}
		_, err := parseVFSettings([]string{"vlan=1", o})
		require.NoError(t, err, o)
	}
}
