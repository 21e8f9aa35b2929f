package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/internal/link"
)

// Numbers are decimal, and what is none is said to be none.
func TestNumbersOnTheCommandLine(t *testing.T) {
	associate := func(vlan string) []string {
		return []string{"vsi", "--socket", t.TempDir() + "/none", "associate", "--uplink", "e", "--manager", "1", "--type", "0x12", "--type-version", "1", "--mac", "52:54:00:01:02:03", "--vlan", vlan, aVSI}
	}
	for _, bad := range []string{"0x64", "0b1", "1_0", "+5", "-5", " 5", "", "4294967396", "65636", "1e2", "٣"} {
		for _, args := range [][]string{associate(bad), {"ifup", "--on", "lan", "--vlan", bad, "tap0"}} {
			_, errOut, code := cli(t, nil, args...)
			require.Equal(t, exitUsage, code, "%q", args)
			require.Contains(t, errOut, "want decimal digits, 0 to 4095")
			require.Equal(t, 2, strings.Count(errOut, "\n"), errOut)
		}
		_, errOut, code := cli(t, nil, "vf", "reset", "eth0", "--", bad)
		require.Equal(t, exitUsage, code, bad)
		require.Contains(t, errOut, "want its number")
	}
	_, errOut, code := cli(t, nil, associate("0100")...)
	require.NotEqual(t, exitUsage, code, errOut)
	var vlan vlanFlag
	require.NoError(t, vlan.Set("0100"))
	require.Equal(t, vlanFlag(100), vlan, "as libvirt has it, not 64")
	_, errOut, code = cli(t, nil, "ifup", "--on", "lan", "--vlan", "4095", "tap0")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errOut, "--vlan 4095: want 1 to 4094")
}

func TestParseVFSettings(t *testing.T) {
	s, err := parseVFSettings([]string{"vlan=042", "qos=3", "proto=802.1ad", "trust=on"})
	require.NoError(t, err)
	require.Equal(t, &link.VFVLAN{ID: 42, QoS: 3, Proto: link.Dot1AD}, s.VLAN)
	for _, c := range [][2]string{
		{"vlan=0x2a", "vlan=0x2a: want decimal digits, 0 to 4094"},
		{"vlan=+5", "want decimal digits"},
		{"vlan=4095", "0 to 4094"},
		{"vlan=", "vlan=: want decimal digits"},
		{"qos=8", "qos=8: want decimal digits, 0 to 7"},
		{"trust=on trust=off", "trust=off: trust is given twice"},
		{"vlan=1 vlan=2", "vlan=2: vlan is given twice"},
		{"maxrate=0x10", "maxrate=0x10: want"},
		{"maxrate=99999999999999999999", "want"},
		{"mac=01:00:5e:00:00:01", "mac"},
		{"Trust=on", `"Trust" is no attribute`},
		{"=on", `"" is no attribute`},
	} {
		_, err := parseVFSettings(strings.Fields(c[0]))
		require.ErrorContains(t, err, c[1], c[0])
		require.NotContains(t, err.Error(), "strconv")
	}
}

func FuzzParseVFSettings(f *testing.F) {
	f.Add("vlan=42 qos=3 trust=on")
	f.Add("maxrate=1 vlan=0100")
	f.Fuzz(func(t *testing.T, line string) {
		s, err := parseVFSettings(strings.Split(line, " "))
		if err != nil {
			require.NotContains(t, err.Error(), "strconv")
			return
		}
		require.NoError(t, s.Check())
		if s.VLAN != nil {
			require.True(t, s.VLAN.ID >= 0 && s.VLAN.ID <= 4094 && s.VLAN.QoS >= 0 && s.VLAN.QoS <= 7)
		}
	})
}
