package ether

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseMAC(t *testing.T) {
	m, err := ParseMAC("52:54:00:Aa:bB:0c")
	require.NoError(t, err)
	require.Equal(t, "52:54:00:aa:bb:0c", m.String())
	for _, s := range []string{"", "52:54:00:aa:bb", "52:54:00:aa:bb:cc:", "52:54:00:aa:bb:cc:dd", "52-54-00-aa-bb-cc", "525400aabbcc", "5:54:00:aa:bb:cc", "53:54:00:aa:bb:cc", "00:00:00:00:00:00", "52:54:00:aa:bb:cg"} {
		_, err := ParseMAC(s)
		require.ErrorIs(t, err, ErrMAC, s)
	}
}

func TestDeriveIsStableAndDistinct(t *testing.T) {
	// Users write these down: they may never change.
	require.Equal(t, "52:fc:d9:41:74:03", Derive("0123456789abcdef0123456789abcdef", "lan", "1000", "0").String())
	seen := map[MAC]string{}
	for uid := range 200 {
		for slot := range 100 {
			for _, profile := range []string{"lan", "dmz"} {
				key := fmt.Sprint(profile, uid, slot)
				m := Derive("m", profile, fmt.Sprint(uid), fmt.Sprint(slot))
				require.Empty(t, seen[m], key)
				require.Equal(t, byte(0x52), m[0])
				seen[m] = key
			}
		}
	}
}

func FuzzParseMAC(f *testing.F) {
	f.Add("52:54:00:aa:bb:cc")
	f.Add("ff:")
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseMAC(s)
		if err != nil {
			return
		}
		again, err := ParseMAC(m.String())
		if err != nil || again != m || m[0]&1 != 0 {
			t.Fatal(s, m)
		}
	})
}
