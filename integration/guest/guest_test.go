package guest_test

import (
	"context"
	"flag"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/guest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func mac(t testing.TB, s string) net.HardwareAddr {
	t.Helper()
	m, err := net.ParseMAC(s)
	require.NoError(t, err)
	return m
}

func TestCmdline(t *testing.T) {
	for name, c := range map[string]guest.Cmdline{
		"none": {},
		"address": {NICs: []guest.NIC{{
			MAC:  mac(t, "52:54:00:00:00:0A"),
			Addr: netip.MustParsePrefix("10.0.0.2/24"), Peer: netip.MustParseAddr("10.0.0.1"),
		}}},
		"two": {
			NICs: []guest.NIC{
				{MAC: mac(t, "52:54:00:00:00:01")},
				{
					MAC: mac(t, "52:54:00:00:00:02"), VLAN: 100,
					Addr: netip.MustParsePrefix("10.0.0.2/24"), Peer: netip.MustParseAddr("10.0.0.1"),
					Addr6: netip.MustParsePrefix("fd00::2/64"), Peer6: netip.MustParseAddr("fd00::1"),
				},
			},
			Extra: []string{"loglevel=8"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			golden := filepath.Join("testdata", name+".cmdline")
			got := c.String() + "\n"
			if *update {
				require.NoError(t, os.WriteFile(golden, []byte(got), 0o644))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err)
			require.Equal(t, string(want), got)
		})
	}
}

func TestParseEvent(t *testing.T) {
	for line, want := range map[string]guest.Event{
		"guest: up 2.31\r\n":                      {Text: "up", Uptime: 2310 * time.Millisecond},
		"guest: ping 10.0.0.1 ok 3.5":             {Text: "ping 10.0.0.1 ok", Uptime: 3500 * time.Millisecond},
		"SeaBIOS\x1b[2Jguest: gone 52:54:00 0.25": {Text: "gone 52:54:00", Uptime: 250 * time.Millisecond},
	} {
		e, ok := guest.ParseEvent(line)
		require.True(t, ok, line)
		require.Equal(t, want, e)
	}
	for _, line := range []string{"", "guest: ", "guest: up", "guest: up soon", "guest: up NaN", "guest: up -1", "[ 1.0] up 2.31"} {
		_, ok := guest.ParseEvent(line)
		require.False(t, ok, line)
	}
}

func FuzzParseEvent(f *testing.F) {
	f.Add("guest: ping 10.0.0.1 ok 3.5")
	f.Add("guest: up 1e400")
	f.Fuzz(func(t *testing.T, line string) {
		if e, ok := guest.ParseEvent(line); ok && (e.Text == "" || e.Uptime < 0) {
			t.Fatalf("%q gives %+v", line, e)
		}
	})
}

func TestConsole(t *testing.T) {
	c := guest.Console{Path: filepath.Join(t.TempDir(), "console")}
	report := func(s string) {
		f, err := os.OpenFile(c.Path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		require.NoError(t, err)
		_, err = f.WriteString(s)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	now := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	_, err := c.Wait(now(), "up")
	require.ErrorIs(t, err, context.DeadlineExceeded)

	report("guest: up 1.0\nguest: ping a ok 2.0\n[ 2.1 ] noise\nguest: ping a ok 3.0\nguest: ping a o")
	e, err := c.Wait(t.Context(), "ping a ok")
	require.NoError(t, err)
	require.Equal(t, 2*time.Second, e.Uptime)
	e, err = c.Wait(t.Context(), "ping a")
	require.NoError(t, err)
	require.Equal(t, 3*time.Second, e.Uptime)

	_, err = c.Wait(now(), "ping a")
	require.ErrorContains(t, err, "guest: ping a o", "half a line is no event, but is shown")
	report("k 4.0\n")
	e, err = c.Wait(t.Context(), "ping a ok")
	require.NoError(t, err)
	require.Equal(t, 4*time.Second, e.Uptime)

	report("guest: ping a ok 5.0\n")
	require.NoError(t, c.Skip())
	_, err = c.Wait(now(), "ping a ok")
	require.ErrorIs(t, err, context.DeadlineExceeded)
}
