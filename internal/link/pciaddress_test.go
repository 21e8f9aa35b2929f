package link

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParsePCIAddress(t *testing.T) {
	for text, want := range map[string]string{
		"0000:03:00.0": "0000:03:00.0", "10000:01:00.0": "10000:01:00.0", "ffffffff:ff:1f.7": "ffffffff:ff:1f.7",
		"0000:3B:00.0": "0000:3b:00.0", "00010000:01:00.0": "10000:01:00.0", "00000000:03:00.0": "0000:03:00.0",
		"03:00.0": "", "000:03:00.0": "", "100000000:03:00.0": "", "0000:03:20.0": "", "0000:03:00.8": "", "0000:03:00.0\n": "", "0x0000:03:00.0": "", "": "",
	} {
		got, ok := ParsePCIAddress(text)
		require.Equal(t, want != "", ok, "%q", text)
		require.Equal(t, want, got)
	}
	require.Equal(t, "10000:01:10.1", PCIAddress(0x10000, 1, 0x10, 1))
}

func FuzzParsePCIAddress(f *testing.F) {
	f.Add("0000:3B:00.0")
	f.Fuzz(func(t *testing.T, text string) {
		if address, ok := ParsePCIAddress(text); ok {
			again, ok := ParsePCIAddress(address)
			require.True(t, ok)
			require.Equal(t, address, again)
		}
	})
}
