package config

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestNoFileMeansDefaults(t *testing.T) {
	c, err := Load(filepath.Join(t.TempDir(), "none.toml"))
	require.NoError(t, err)
	require.Equal(t, DefaultDeadline, time.Duration(c.Deadline))
	require.Equal(t, "any", c.VLAN.Create)
	require.Nil(t, c.UplinkCalled("eth0"))
}

func TestExample(t *testing.T) {
	c, err := Load("testdata/example.toml")
	require.NoError(t, err)
	require.Equal(t, []string{"backup", "lab", "storage"}, c.UplinkNames())
	s := c.Uplinks["storage"]
	for _, name := range []string{"storage", "enp3s0f0", "eno1", "ens1f0"} {
		require.Same(t, s, c.UplinkCalled(name), name)
	}
	require.Nil(t, c.UplinkCalled("enp3s0f1"))
	require.True(t, s.Allows(100) && s.Allows(199) && s.Allows(300))
	require.False(t, s.Allows(99) || s.Allows(200) || s.Allows(301))
	require.True(t, c.Uplinks["backup"].Allows(1))
	require.False(t, c.Uplinks["lab"].Allows(1), "an empty list allows none")
	require.True(t, s.Chooses(2) && s.Chooses(7) && c.Uplinks["backup"].Chooses(0))
	require.False(t, s.Chooses(1) || s.Chooses(8))
	require.True(t, *s.AllMulticast)
	require.Nil(t, c.Uplinks["backup"].AllMulticast)
	require.Equal(t, 120, c.Profiles["gold"].VLAN)
	require.True(t, c.Watch.Wants("web7"))
	require.False(t, c.Watch.Wants("db"))
}

func TestFaultsNameTheirPlace(t *testing.T) {
	for text, want := range map[string]string{
		"deadline = \"10s\"\n[uplink.a]\ndevcie = \"eth0\"\n": `c:3: unknown key "uplink.a.devcie"; did you mean "device"?`,
		"[valn]\ncreate = \"any\"\n":                          `c:1: unknown key "valn"; did you mean "vlan"?`,
		"[uplink.a]\ndevice = \"eth0\"\nvlan = 3\n":           `unknown key "uplink.a.vlan"; did you mean "vlans"?`,
		"[uplnik.storage]\ndevice = \"eth0\"\n":               `unknown key "uplnik`,
		"[uplnik.lan]\ndevice = \"eth0\"\n":                   `did you mean "uplink"?`,
		"zzzzzzzzzz = 1\n":                                    `c:1: unknown key "zzzzzzzzzz"`,
		"deadline = \"soon\"\n":                               `c:1: "soon": want a duration such as "10s", at most 10m`,
		"deadline = \n":                                       `c:1:`,
		"[vlan]\ncreate = \"some\"\n":                         `c: vlan.create = "some": want "any", "uplinks" or "never"`,
		"[uplink.a]\n":                                        `c: uplink.a: say exactly one of device, pci and mac`,
		"[uplink.a]\ndevice='x'\npci='0000:00:00.0'\n":        `c: uplink.a: say exactly one of device, pci and mac`,
		"[uplink.a]\ndevice='a/b'\n":                          `c: uplink.a: device = "a/b" is no device name`,
		"[uplink.a]\npci='3:0.0'\n":                           `c: uplink.a: pci = "3:0.0": want 0000:03:00.0`,
		"[uplink.a]\nmac='12'\n":                              `c: uplink.a: mac = "12": want six octets`,
		"[uplink.'a b']\ndevice='x'\n":                        `c: uplink.a b: a name has letters, digits, '-' and '_', at most 32`,
		"[uplink.a]\ndevice='x'\n[uplink.b]\ndevice='x'\n":    `c: uplink.b: "x" already means uplink "a"`,
		"[uplink.a]\ndevice='x'\nvlans=['0-5']\n":             `c:3: "0-5": want a VLAN identifier or a range within 1-4094`,
		"[profile.p]\nuplink='a'\n":                           `c: profile.p: uplink = "a" is not configured`,
		"[profile.p]\nmode='passthru'\n":                      `c: profile.p: mode = "passthru": want vepa, bridge, private, passthrough`,
		"[profile.p]\nvlan=4095\n":                            `c: profile.p: vlan = 4095: want 1 to 4094`,
		"[profile.p.ovs]\nmtu=5\n":                            `c: profile.p: ovs.mtu = 5: want 68 to 65535`,
		"[profile.p.ovs]\nmaxrate=5\nminrate=6\n":             `c: profile.p: ovs.minrate = 6: want no more than maxrate`,
		"[profile.p.ovs]\ningressrate=-5\n":                   `c: profile.p: ovs.ingressrate = -5: want kbit/s, 0 for no bound`,
		"[profile.p.ovs]\nqueueing='fifo'\n":                  `c: profile.p: ovs.queueing = "fifo": want linux-htb`,
		"[profile.p.ovs]\nmirror='a/b'\n":                     `c: profile.p: ovs.mirror = "a/b": want the name of a port`,
		"[profile.p.ovs]\nmirrors='a'\n":                      `unknown key "profile.p.ovs.mirrors"; did you mean "mirror"?`,
		"[watch]\ndomains=['[']\n":                            `c: watch.domains: "[" is no pattern`,
	} {
		_, err := Parse("c", []byte(text))
		require.ErrorIs(t, err, ErrConfig, text)
		require.Contains(t, err.Error(), want)
		require.NotContains(t, err.Error(), "\n", "one line")
	}
}

func TestUnreadableIsAnError(t *testing.T) {
	_, err := Load(t.TempDir())
	require.ErrorIs(t, err, ErrConfig)
}

func TestIfnames(t *testing.T) {
	for _, good := range []string{"eth0", "eth0.100", "a", "fifteen-chars-x", "ü"} {
		require.True(t, ValidIfname(good), good)
	}
	for _, bad := range []string{"", ".", "..", "a/b", "a b", "a:b", "sixteen-chars-xx", "a\x00"} {
		require.False(t, ValidIfname(bad), bad)
	}
}

func FuzzParse(f *testing.F) {
	b, err := os.ReadFile("testdata/example.toml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := Parse("c", b); err != nil {
			require.ErrorIs(t, err, ErrConfig)
		} else {
			require.NotEmpty(t, c.VLAN.Create)
		}
	})
}
