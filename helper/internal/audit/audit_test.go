package audit

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLine(t *testing.T) {
	require.Equal(t,
		`granted uid=1000 pid=77 exe="/usr/bin/qemu-system-x86_64" profile="lan" kind="macvtap" lower="eth0" mac="52:54:00:aa:bb:cc" device="mvt40000001" ifindex=1073741825`,
		Entry{Granted: true, UID: 1000, PID: 77, Exe: "/usr/bin/qemu-system-x86_64", Name: "lan", Kind: "macvtap", Lower: "eth0",
			MAC: "52:54:00:aa:bb:cc", Device: "mvt40000001", Index: 1<<30 + 1}.Line())
	require.Equal(t, `denied uid=0 exe="/tmp/\x22\x0a\x5c\xff" reason="no"`, Entry{Exe: "/tmp/\"\n\\\xff", Reason: "no"}.Line())
	require.LessOrEqual(t, len(Quote(strings.Repeat("\x00", 10000))), 4*256)
}

func FuzzQuote(f *testing.F) {
	f.Add("a\n\"b")
	f.Fuzz(func(t *testing.T, s string) {
		if q := Quote(s); strings.ContainsFunc(q, func(r rune) bool { return r < ' ' || r > '~' || r == '"' }) {
			t.Fatal(q)
		}
	})
}
