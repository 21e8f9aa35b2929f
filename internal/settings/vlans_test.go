package settings

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseVLANs(t *testing.T) {
	ids, err := ParseVLANs("200-202, 7,201,4094")
	require.NoError(t, err)
	require.Equal(t, []int{7, 200, 201, 202, 4094}, ids)
	require.Equal(t, "7,200-202,4094", FormatVLANs(ids))
	for _, bad := range []string{"0", "4095", "5-4", "1,", "a", "1-", "-1", "1-4095", "+1"} {
		_, err := ParseVLANs(bad)
		require.Error(t, err, bad)
	}
}

func FuzzParseVLANs(f *testing.F) {
	f.Add("100,200-299")
	f.Fuzz(func(t *testing.T, s string) {
		ids, err := ParseVLANs(s)
		if err != nil {
			return
		}
		again, err := ParseVLANs(FormatVLANs(ids))
		require.NoError(t, err)
		require.Equal(t, ids, again)
	})
}
