package config

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
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
	require.True(t, s.Limits() && c.Uplinks["lab"].Limits())
	require.False(t, c.Uplinks["backup"].Limits())
	require.False(t, (&Uplink{VLANs: &[]VLANRange{{2000, 4094}, {1, 1999}}}).Limits(), "all of them, in two ranges")
	require.True(t, s.Enforce)
	require.False(t, c.Uplinks["lab"].Enforce)
	require.Equal(t, "100-199,300", s.VLANText())
	require.Equal(t, "none", c.Uplinks["lab"].VLANText())
	require.Equal(t, "all", c.Uplinks["backup"].VLANText())
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
		"[ovs]\nsocket = \"tcp:127.0.0.1:6640\"\n":            `c:2: ovs: socket = "tcp:127.0.0.1:6640": not the absolute path of a socket; such as`,
		"[ovs]\nsockets = \"/run/db.sock\"\n":                 `c:2: unknown key "ovs.sockets"; did you mean "socket"?`,
		"zzzzzzzzzz = 1\n":                                    `c:1: unknown key "zzzzzzzzzz"`,
		"deadline = \"soon\"\n":                               `c:1: deadline: "soon": want a duration such as "10s", at most 10m`,
		"[vlan]\ncreate = \"some\"\n":                         `c:2: vlan: create = "some": want "any", "uplinks" or "never"`,
		"[uplink.a]\n":                                        `c:1: uplink.a: say exactly one of device, pci and mac`,
		"[uplink.a]\ndevice='x'\npci='0000:00:00.0'\n":        `c:1: uplink.a: say exactly one of device, pci and mac`,
		"[uplink.a]\ndevice='a/b'\n":                          `c:2: uplink.a: device = "a/b" is no device name`,
		"[uplink.a]\npci='3:0.0'\n":                           `c:2: uplink.a: pci = "3:0.0": want 0000:03:00.0`,
		"[uplink.a]\nmac='12'\n":                              `c:2: uplink.a: mac = "12": want six octets`,
		"[uplink.'a b']\ndevice='x'\n":                        `c:1: uplink.a b: a name has letters, digits, '-' and '_', at most 32`,
		"[uplink.a]\ndevice='x'\n[uplink.b]\ndevice='x'\n":    `c:3: uplink.b: "x" already means uplink "a"`,
		"[uplink.a]\ndevice='x'\nvlans=['0-5']\n":             `c:3: uplink.a: "0-5": want a VLAN identifier or a range within 1-4094`,
		"[profile.p]\nuplink='a'\n":                           `c:2: profile.p: uplink = "a" is not configured`,
		"[profile.p]\nmode='passthru'\n":                      `c:2: profile.p: mode = "passthru": want vepa, bridge, private, passthrough`,
		"[profile.p]\nvlan=4095\n":                            `c:2: profile.p: vlan = 4095: want 1 to 4094`,
		"[profile.p.ovs]\nmtu=5\n":                            `c:2: profile.p: ovs.mtu = 5: want 68 to 65535`,
		"[profile.p.ovs]\nmaxrate=5\nminrate=6\n":             `c:3: profile.p: ovs.minrate = 6: want no more than maxrate`,
		"[profile.p.ovs]\ningressrate=-5\n":                   `c:2: profile.p: ovs.ingressrate = -5: want kbit/s, 0 for no bound`,
		"[profile.p.ovs]\nqueueing='fifo'\n":                  `c:2: profile.p: ovs.queueing = "fifo": want linux-htb`,
		"[profile.p.ovs]\nmirror='a/b'\n":                     `c:2: profile.p: ovs.mirror = "a/b": want the name of a port`,
		"[profile.p.ovs]\nmirrors='a'\n":                      `unknown key "profile.p.ovs.mirrors"; did you mean "mirror"?`,
		"[watch]\ndomains=['[']\n":                            `c:2: watch: domains: "[" is no pattern`,
	} {
		c, err := Parse("c", []byte(text))
		require.NoError(t, err, text)
		require.Len(t, c.Faults(), 1, text)
		fault := c.Faults()[0]
		require.ErrorIs(t, fault, ErrConfig)
		require.Contains(t, fault.Error(), want)
		require.NotContains(t, fault.Error(), "\n", "one line")
		require.NotEmpty(t, fault.Section)
		require.Equal(t, "c", fault.File)
	}
}

func TestNoTOMLIsAnError(t *testing.T) {
	for _, text := range []string{"deadline = \n", "[uplink.a\n", "[uplink.a]\n[uplink.a]\n", "vlan = 1\nvlan = 2\n"} {
		_, err := Parse("c", []byte(text))
		var fault *Error
		require.ErrorAs(t, err, &fault)
		require.ErrorIs(t, err, ErrConfig)
		require.NotZero(t, fault.Line)
		require.Empty(t, fault.Section)
		require.NotContains(t, err.Error(), "\n", "one line")
	}
}

// What is wrong with one section is nothing to the others.
func TestFaultsBySection(t *testing.T) {
	const sound = "[uplink.good]\ndevice = \"eth0\"\nvlans = [\"100-199\"]\n[profile.fine]\nuplink = \"good\"\nvlan = 100\n"
	for name, c := range map[string]struct {
		text     string
		faults   []string                  // their sections
		uplinks  map[string]string         // a name, and the section whose fault it has
		profiles map[string]string         // the same
		devices  map[string][]string       // what finds a faulty uplink's device
		check    func(*testing.T, *Config) // more
	}{
		"unknown key": {
			text: "[uplink.bad]\ndevice = \"eth1\"\nalso = [\"ens1\"]\nvlan = 3\n", faults: []string{"uplink.bad"},
			uplinks: map[string]string{"bad": "uplink.bad", "eth1": "uplink.bad", "ens1": "uplink.bad", "good": "", "eth0": "", "eth2": ""},
			devices: map[string][]string{"bad": {"eth1"}},
		},
		"misspelt device": {
			text: "[uplink.bad]\ndevcie = \"eth1\"\n", faults: []string{"uplink.bad"},
			uplinks: map[string]string{"eth1": "uplink.bad"}, devices: map[string][]string{"bad": {"eth1"}},
		},
		"misspelt section": {
			text: "[uplnik.bad]\ndevice = \"eth1\"\n", faults: []string{"uplnik.bad"},
			uplinks: map[string]string{"bad": "uplnik.bad", "eth1": "uplnik.bad"}, devices: map[string][]string{"bad": {"eth1"}},
		},
		"wrong type": {
			text: "[uplink.bad]\ndevice = [\"eth1\"]\n", faults: []string{"uplink.bad"},
			uplinks: map[string]string{"bad": "uplink.bad", "eth1": "uplink.bad"}, devices: map[string][]string{"bad": {"eth1"}},
		},
		"a short PCI address": {
			text: "[uplink.bad]\npci = \"03:00.0\"\n", faults: []string{"uplink.bad"}, devices: map[string][]string{"bad": {"0000:03:00.0"}},
		},
		"another key": {
			text: "[uplink.bad]\ninterface = \"eth1\"\n", faults: []string{"uplink.bad"}, devices: map[string][]string{"bad": {"eth1"}},
		},
		"a list of tables": {
			text: "[[uplink.bad]]\ndevice = \"eth1\"\n", faults: []string{"uplink.bad"}, devices: map[string][]string{"bad": {"eth1"}},
		},
		"two ways to a device": {
			text: "[uplink.bad]\npci = \"0000:03:00.0\"\nmac = \"3C:FD:FE:00:11:22\"\n", faults: []string{"uplink.bad"},
			devices: map[string][]string{"bad": {"0000:03:00.0", "3c:fd:fe:00:11:22"}},
		},
		"no device": {
			text: "[uplink.bad]\n", faults: []string{"uplink.bad"}, uplinks: map[string]string{"bad": "uplink.bad"}, devices: map[string][]string{"bad": nil},
		},
		"the device of another": {
			text: "[uplink.worse]\ndevice = \"eth0\"\n", faults: []string{"uplink.worse"},
			uplinks: map[string]string{"worse": "uplink.worse", "good": "", "eth0": "uplink.worse"},
		},
		"in capitals": {
			text: "[UPLINK.bad]\nDEVICE = \"eth1\"\nPCI = \"0000:03:00.0\"\n[Profile.odd]\nvlan = 4095\n", faults: []string{"UPLINK.bad", "Profile.odd"},
			uplinks: map[string]string{"bad": "UPLINK.bad", "eth1": "UPLINK.bad"}, profiles: map[string]string{"odd": "Profile.odd"},
			devices: map[string][]string{"bad": {"0000:03:00.0", "eth1"}},
		},
		"capitals beside a fault": {
			text: "[UPLINK.other]\ndevice = \"eth2\"\n[vlan]\ncreate = 3\n", faults: []string{"vlan"},
			check: func(t *testing.T, c *Config) { require.NotNil(t, c.UplinkCalled("eth2")) },
		},
		"in one line": {
			text: "uplink.bad = {devcie = \"eth1\"}\n", faults: []string{"uplink.bad"}, uplinks: map[string]string{"bad": "uplink.bad", "good": ""},
		},
		"a profile": {
			text: "[profile.bad]\nmode = \"passthru\"\n[profile.bad.ovs]\nmtu = 1400\n", faults: []string{"profile.bad"},
			profiles: map[string]string{"bad": "profile.bad", "fine": ""}, uplinks: map[string]string{"good": ""},
		},
		"a profile of a faulty uplink": {
			text: "[uplink.bad]\n[profile.p]\nuplink = \"bad\"\n", faults: []string{"uplink.bad"}, profiles: map[string]string{"p": ""},
		},
		"VLANs": {
			text: "[vlan]\ncreate = \"some\"\n", faults: []string{"vlan"},
			check: func(t *testing.T, c *Config) {
				require.Error(t, c.VLANFault())
				require.NoError(t, c.WatchFault())
				require.Equal(t, "any", c.VLAN.Create)
			},
		},
		"deadline": {
			text: "deadline = \"soon\"\n", faults: []string{"deadline"},
			check: func(t *testing.T, c *Config) {
				require.NoError(t, c.VLANFault())
				require.Equal(t, DefaultDeadline, time.Duration(c.Deadline))
			},
		},
		"like nothing": {
			text: "[zzzzzzzzzz]\na = 1\n", faults: []string{"zzzzzzzzzz"},
			check: func(t *testing.T, c *Config) { require.Error(t, c.VLANFault()) },
		},
		"several": {
			text:   "zzzzzzzzzz = 1\n[watch]\ndomain = []\n[vlan]\ncreate = 3\n[uplink.b]\n[uplink.a]\ndevice = 3\n[profile.x]\nvlan = \"y\"\n",
			faults: []string{"zzzzzzzzzz", "watch", "vlan", "uplink.b", "uplink.a", "profile.x"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse("c", []byte(c.text+sound))
			require.NoError(t, err)
			var faults []string
			for _, f := range got.Faults() {
				faults = append(faults, f.Section)
				require.NotZero(t, f.Line)
			}
			require.Equal(t, c.faults, faults)
			require.Contains(t, got.UplinkNames(), "good")
			require.NotContains(t, got.UplinkNames(), "bad")
			require.True(t, got.Uplinks["good"].Allows(100) && !got.Uplinks["good"].Allows(200))
			require.Equal(t, 100, got.Profiles["fine"].VLAN)
			section := func(err error) string {
				var fault *Error
				if !errors.As(err, &fault) {
					require.NoError(t, err)
					return ""
				}
				return fault.Section
			}
			for name, want := range c.uplinks {
				require.Equal(t, want, section(got.UplinkFault(name)), name)
			}
			for name, want := range c.profiles {
				require.Equal(t, want, section(got.ProfileFault(name)), name)
			}
			for _, u := range got.FaultyUplinks() {
				var found []string
				for _, d := range u.Devices {
					found = append(found, d.Device+d.PCI+d.MAC)
				}
				slices.Sort(found)
				if want, asked := c.devices[u.Name]; asked {
					require.Equal(t, want, found)
				}
			}
			if c.check != nil {
				c.check(t, got)
			}
		})
	}
}

// A line is the file's, wherever the section stands in it.
func TestLinesOfFaults(t *testing.T) {
	c, err := Parse("c", []byte("# 1\n[uplink]\n\na.device = \"x\" # 4\nb.also = [\n  \"y\",\n  7,\n]\n[uplink.c]\n# 10\ndevice = \"a/b\"\n"))
	require.NoError(t, err)
	require.Equal(t, []string{"a"}, c.UplinkNames())
	require.Equal(t, 7, c.Faults()[0].Line, c.Faults()[0])
	require.Equal(t, 11, c.Faults()[1].Line, c.Faults()[1])
}

// Whatever is in the file's place, the hook waits for nobody who would write there, and
// does not read without end.
func TestWhatIsNoFileIsAnErrorAtOnce(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	long := filepath.Join(t.TempDir(), "long")
	require.NoError(t, os.WriteFile(long, bytes.Repeat([]byte("#"), 1<<20+1), 0o600))
	loop := filepath.Join(t.TempDir(), "loop")
	require.NoError(t, os.Symlink(loop, loop))
	for file, said := range map[string]string{
		fifo: "not a regular file", "/dev/zero": "not a regular file", t.TempDir(): "not a regular file", long: "longer than 1 MiB",
		loop: "too many levels of symbolic links",
	} {
		_, err := Load(file)
		require.ErrorIs(t, err, ErrConfig, file)
		require.ErrorContains(t, err, said)
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
	f.Add([]byte("uplnik.a = {devcie='x'}\n[[uplink]]\n[profile]\na.vlan=''\n[vlan]\r\ncreate = '''\n'''"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse("c", b)
		if err != nil {
			require.ErrorIs(t, err, ErrConfig)
			return
		}
		require.NotEmpty(t, c.VLAN.Create)
		for _, e := range c.Faults() {
			require.NotContains(t, e.File+e.Fix, "\n")
			require.NotContains(t, c.UplinkNames(), e.name)
		}
		for name, u := range c.Uplinks {
			require.Equal(t, name, u.Name)
		}
	})
}

// What is taken for a socket's path is one that the kernel takes, wherever a process is.
func FuzzSocketPath(f *testing.F) {
	for _, s := range []string{"/run/openvswitch/db.sock", "unix:/srv/db.sock", "unix:unix:/x", "tcp:127.0.0.1:6640", "", "/", "/a/../../b", "//x\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := SocketPath(s)
		if err != nil {
			require.ErrorIs(t, err, ErrSocket)
			return
		}
		require.True(t, filepath.IsAbs(p) && len(p) <= 107 && filepath.Clean(p) == p, p)
		again, err := SocketPath(p)
		require.NoError(t, err)
		require.Equal(t, p, again)
	})
}
