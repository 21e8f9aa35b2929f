package policy

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/helper/internal/ether"
	"libvirt-direct/helper/internal/linkproto"
)

const example = `# what the admin wrote
passthrough = ens1f0v0 ens1f0v1

[lan]
kind = macvtap
lower = eth0
vlan = 100
allow = user:alice gid:36
allow = group:kvm
max-per-user = 2
mac = 52:54:00:* derived

[vf]
kind=macvtap
mode = passthrough
lower = ens1f0v0 ens1f0v1
allow = uid:1000

	[guests]
kind = bridge
bridge = br0
isolated = yes
learning = no
anti-spoof = yes
guest-vlans = 10 20-29
allow = everyone
`

func TestParse(t *testing.T) {
	c, err := Parse([]byte(example))
	require.NoError(t, err)
	require.Equal(t, []string{"ens1f0v0", "ens1f0v1"}, c.Passthrough)
	lan := c.Profile("lan")
	require.Equal(t, Profile{
		Name: "lan", Line: 4, Kind: Macvtap, Device: Isolated, Mode: BridgeMode, Lower: []string{"eth0"}, VLAN: 100, Learning: true,
		Allow:      []Subject{{Kind: User, Name: "alice"}, {Kind: GID, ID: 36}, {Kind: Group, Name: "kvm"}},
		MaxPerUser: 2, Max: DefaultMax, Queues: DefaultQueues, AntiSpoof: true,
		MACRules: []MACRule{{Kind: PrefixMAC, MAC: ether.MAC{0x52, 0x54}, Octets: 3}, {Kind: DerivedMAC}},
	}, *lan)
	require.Equal(t, []MACRule{{Kind: LowerMAC}}, c.Profile("vf").MACRules)
	guests := c.Profile("guests")
	require.True(t, guests.Isolated && !guests.Learning && guests.AntiSpoof)
	require.Equal(t, VLANSet{Ranges: []VLANRange{{10, 10}, {20, 29}}}, guests.GuestVLANs)
	require.Equal(t, []MACRule{{Kind: AnyMAC}}, guests.MACRules)
	require.Nil(t, c.Profile("eth0"))
}

func TestParseRefuses(t *testing.T) {
	const (
		lan = "[lan]\nkind = macvtap\nlower = eth0\n"
		br  = "[b]\nkind = bridge\nbridge = br0\n"
		ovs = "[o]\nkind = ovs\nbridge = b\n"
		vf  = "passthrough = eth0\n" + lan + "mode = passthrough\n"
	)
	for text, want := range map[string]string{
		"kind = macvtap\n":                     ":1: unknown key kind before the first profile",
		"[lan]\n":                              ":1: profile lan: kind is missing",
		lan + "[lan]\n":                        ":4: profile lan stands twice",
		lan + "lower = eth1\n":                 ":4: lower stands twice",
		lan + "colour = red\n":                 ":4: unknown key colour",
		lan + "Mode = vepa\n":                  ":4: unknown key Mode",
		lan + "mode =\n":                       ":4: mode: no value",
		lan + "mode\n":                         ":4: neither",
		lan + "mode = passthrough\n":           ":1: profile lan: device eth0 is not in the file's passthrough line",
		lan + "bridge = br0\n":                 ":1: profile lan: bridge is not for kind macvtap",
		br + "visible = yes\n":                 ":1: profile b: visible is not for kind bridge",
		br + "guest-vlans = 3\n":               ":1: profile b: guest-vlans needs anti-spoof",
		br + "mac = lower\n":                   ":1: profile b: mac = lower",
		lan + "mac = lower\n":                  ":1: profile lan: mac = lower",
		lan + "mac = 53:54:00:*\n":             ":4: mac",
		lan + "mac = 52:54:00:aa:bb:cc:*\n":    ":4: mac",
		lan + "mac = 52:54:00*\n":              ":4: mac",
		lan + "allow = alice\n":                ":4: allow",
		lan + "allow = uid:-1\n":               ":4: allow",
		lan + "allow = uid:4294967295\n":       ":4: allow",
		lan + "allow = user:\n":                ":4: allow",
		lan + "vlan = 4095\n":                  ":4: vlan",
		lan + "vlan = 0\n":                     ":4: vlan",
		lan + "guest-vlans = 5-4\n":            ":4: guest-vlans",
		lan + "max = 4097\n":                   ":4: max",
		lan + "max-per-user = 0\n":             ":4: max-per-user",
		lan + "visible = true\n":               ":4: visible",
		lan + "allow = everyone # all\n":       ":4: allow",
		"[lan]\nkind = macvtap\n":              "lower is missing",
		"[lan]\nkind = macvtap\nlower = a b\n": "only mode passthrough",
		"[lan]\nkind = macvtap\nlower = a/b\n": ":3: lower",
		"[lan]\nkind = macvtap\nlower = " + strings.Repeat("e", 16) + "\n": ":3: lower",
		"[b]\nkind = bridge\n":                            "bridge is missing",
		"[b]\nkind = ovn\n":                               ":2: kind",
		"[o]\nkind = ovs\n":                               "bridge is missing",
		ovs + "anti-spoof = yes\ndevice = tap\n":          ":1: profile o: anti-spoof = yes needs device = isolated: ovs-vswitchd clears",
		ovs + "guest-vlans = 3\n":                         ":1: profile o: guest-vlans needs anti-spoof",
		ovs + "device = macvtap\n":                        ":1: profile o: device = macvtap: must be isolated or tap for kind ovs",
		br + "device = veth\n":                            ":1: profile b: device = veth: must be isolated or tap for kind bridge",
		lan + "device = tap\n":                            ":1: profile lan: device = tap: must be isolated or macvtap for kind macvtap",
		lan + "visible = yes\ndevice = isolated\n":        "device = isolated: a visible device is in the host's network namespace",
		vf + "device = isolated\n":                        "device = isolated: mode passthrough hands over the lower device itself",
		br + "link-protocols = lldp\n":                    ":1: profile b: link-protocols needs anti-spoof = yes",
		lan + "anti-spoof = no\nlink-protocols = lldp\n":  ":1: profile lan: link-protocols needs anti-spoof = yes",
		lan + "anti-spoof = no\nguest-vlans = 3\n":        ":1: profile lan: guest-vlans needs anti-spoof = yes",
		lan + "link-protocols = lldp LACP\n":              ":4: link-protocols = lldp LACP: must be names from stp garp ",
		"[o]\nkind = ovs\nbridge = b\nmode = vepa\n":      "mode is not for kind ovs",
		"[o]\nkind = ovs\nbridge = a\"b\n":                "the name of an Open vSwitch bridge",
		"[o]\nkind = ovs\nbridge = b\ntrunks = all\n":     ":4: trunks",
		"[o]\nkind = ovs\nbridge = b\ntrunks = 0-5\n":     ":4: trunks",
		"[o]\nkind = ovs\nbridge = b\ningress-rate = 0\n": ":4: ingress-rate",
		br + "trunks = 5\n":                               "trunks is not for kind bridge",
		"[l an]\n":                                        ":1: a profile's name",
		"[../x]\n":                                        ":1: a profile's name",
		"[lan]x\n":                                        ":1: a profile's name",
		lan + "mode = vepa\x00\n":                         ":4: not printable ASCII",
		lan + "mode = vepa\r\n":                           ":4: not printable ASCII",
		lan + "#" + strings.Repeat("x", 1023) + "\n":      ":4: line longer",
	} {
		_, err := Parse([]byte(text))
		require.ErrorContains(t, err, Path+":", "%q", text)
		require.ErrorContains(t, err, want, "%q", text)
	}
}

func TestDevice(t *testing.T) {
	const (
		macvtap = "[p]\nkind = macvtap\nlower = eth0\n"
		bridge  = "[p]\nkind = bridge\nbridge = br0\n"
		ovs     = "[p]\nkind = ovs\nbridge = br0\n"
	)
	for text, want := range map[string]Device{
		macvtap:                       Isolated,
		macvtap + "anti-spoof = no\n": Plain,
		macvtap + "anti-spoof = no\ndevice = isolated\n":                            Isolated,
		macvtap + "device = macvtap\n":                                              Plain,
		macvtap + "visible = yes\n":                                                 Plain,
		macvtap + "visible = yes\ndevice = macvtap\n":                               Plain,
		"passthrough = eth0\n" + macvtap + "mode = passthrough\nanti-spoof = yes\n": Plain,
		bridge:                        Plain,
		bridge + "anti-spoof = yes\n": Isolated,
		"[p]\ndevice = tap\nanti-spoof = yes\nbridge = br0\nkind = bridge\n": Plain,
		bridge + "device = isolated\n":                                       Isolated,
		ovs:                                                                  Plain,
		ovs + "anti-spoof = yes\n":                                           Isolated,
		ovs + "anti-spoof = yes\nguest-vlans = all\n":                        Isolated,
		ovs + "device = isolated\n":                                          Isolated,
		ovs + "anti-spoof = no\ndevice = tap\ntrunks = 3\n":                  Plain,
	} {
		c, err := Parse([]byte(text))
		require.NoError(t, err, text)
		require.Equal(t, want, c.Profile("p").Device, text)
	}
}

func TestLinkProtocols(t *testing.T) {
	c, err := Parse([]byte("[p]\nkind = bridge\nbridge = br0\nanti-spoof = yes\nlink-protocols = lldp\tlacp lldp\n[q]\nkind = macvtap\nlower = e\n"))
	require.NoError(t, err)
	var names []string
	for _, p := range c.Profile("p").LinkProtocols.Protocols() {
		names = append(names, p.Name)
	}
	require.ElementsMatch(t, []string{"lacp", "lldp"}, names)
	require.Empty(t, c.Profile("q").LinkProtocols.Protocols())
}

func TestAllows(t *testing.T) {
	c, err := Parse([]byte(example))
	require.NoError(t, err)
	id := func(want string, n uint32) func(string) (uint32, bool, error) {
		return func(name string) (uint32, bool, error) { return n, name == want, nil }
	}
	names := Names{User: id("alice", 1001), Group: id("kvm", 78)}
	for _, test := range []struct {
		profile string
		caller  Caller
		want    bool
	}{
		{"lan", Caller{UID: 1001}, true}, {"lan", Caller{UID: 1002}, false}, {"lan", Caller{UID: 36}, false},
		{"lan", Caller{UID: 5, GID: 36}, true}, {"lan", Caller{UID: 5, Groups: []uint32{1, 36}}, true},
		{"lan", Caller{UID: 5, Groups: []uint32{78}}, true}, {"lan", Caller{UID: 0, GID: 0}, false},
		{"vf", Caller{UID: 1000}, true}, {"vf", Caller{UID: 1001, GID: 1000}, false}, {"guests", Caller{UID: 7}, true},
	} {
		got, err := c.Profile(test.profile).Allows(test.caller, names)
		require.NoError(t, err)
		require.Equal(t, test.want, got, "%+v", test)
	}
}

func TestMACs(t *testing.T) {
	derive := func(slot int) ether.MAC { return ether.MAC{0x52, 9, 9, 9, 9, byte(slot)} }
	c, err := Parse([]byte(example))
	require.NoError(t, err)
	lan := c.Profile("lan")
	got, err := lan.MACs(nil, ether.MAC{}, derive)
	require.NoError(t, err)
	require.Equal(t, []Candidate{{MAC: derive(0), Slot: 0}, {MAC: derive(1), Slot: 1}}, got)
	for mac, slot := range map[ether.MAC]int{derive(1): 1, {0x52, 0x54, 0, 1, 2, 3}: -1} {
		got, err = lan.MACs(&mac, ether.MAC{}, derive)
		require.NoError(t, err)
		require.Equal(t, []Candidate{{MAC: mac, Slot: slot}}, got)
	}
	for _, mac := range []ether.MAC{derive(2), {0x52, 0x54, 1, 1, 2, 3}} {
		_, err = lan.MACs(&mac, ether.MAC{}, derive)
		require.ErrorIs(t, err, ErrMACDenied)
	}
	guests := c.Profile("guests")
	_, err = guests.MACs(nil, ether.MAC{}, nil)
	require.ErrorIs(t, err, ErrMACNeeded, "the filter needs an address")
	guests.AntiSpoof = false
	got, err = guests.MACs(nil, ether.MAC{}, nil)
	require.NoError(t, err)
	require.True(t, got[0].None)
}

// The socket of Open vSwitch is the file's, in each profile that needs it.
func TestOVSSocket(t *testing.T) {
	const profile = "\n[a]\nkind = ovs\nbridge = b\n"
	c, err := Parse([]byte("ovs-socket = /usr/local/var/run/openvswitch/db.sock" + profile))
	require.NoError(t, err)
	require.Equal(t, "/usr/local/var/run/openvswitch/db.sock", c.Profile("a").OVSSocket)
	for _, value := range []string{"run/db.sock", "unix:/run/db.sock", "tcp:127.0.0.1:6640", "/" + strings.Repeat("x", 107)} {
		_, err := Parse([]byte("ovs-socket = " + value + profile))
		require.ErrorContains(t, err, "helper.conf:1: ovs-socket: not the absolute path of a socket", value)
	}
	_, err = Parse([]byte(profile + "ovs-socket = /run/db.sock\n"))
	require.Error(t, err, "it is not for one profile")
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte("[a]\nkind = bridge\nbridge = b\n"))
	f.Add([]byte("[a]\nkind = ovs\nbridge = b\nanti-spoof = yes\ndevice = isolated\nlink-protocols = lldp stp\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse(b)
		if err != nil {
			return
		}
		for i := range c.Profiles {
			p := &c.Profiles[i]
			if p.Kind == Macvtap && len(p.Lower) == 0 || p.Kind != Macvtap && p.Bridge == "" || p.MaxPerUser < 1 || len(p.MACRules) == 0 {
				t.Fatalf("%+v", p)
			}
			if p.Device == 0 || p.Device == Isolated && (p.Visible || p.Mode == Passthrough && p.Kind == Macvtap) ||
				p.Kind == OVS && p.AntiSpoof && p.Device != Isolated ||
				!p.AntiSpoof && (p.LinkProtocols != linkproto.Set{} || p.GuestVLANs.All || p.GuestVLANs.Ranges != nil) {
				t.Fatalf("%+v", p)
			}
		}
	})
}
