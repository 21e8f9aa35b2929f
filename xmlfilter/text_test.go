package xmlfilter

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// As libvirt 9.0 has read them.
func TestNumbersAsLibvirt(t *testing.T) {
	const no = -1
	for _, c := range []struct {
		text             string
		decimal, anyBase int64
	}{
		{"100", 100, 100}, {" 100", 100, 100}, {"\t\n100", 100, 100}, {"+0100", 100, 64}, {"010", 10, 8}, {"0", 0, 0}, {"00", 0, 0},
		{"0x64", no, 100}, {"0X64", no, 100}, {"0x0000", no, 0}, {"0xffffffff", no, 1<<32 - 1}, {"4294967295", 1<<32 - 1, 1<<32 - 1},
		{"0x100000000", no, no}, {"4294967296", no, no}, {"08", 8, no},
		{"100 ", no, no}, {"-1", no, no}, {"-0", no, no}, {"", no, no}, {" ", no, no}, {"+", no, no}, {"++1", no, no}, {"+ 1", no, no},
		{"0x", no, no}, {"x1", no, no}, {"1_0", no, no}, {"0b1", no, no}, {"0o7", no, no}, {"1e1", no, no}, {"１", no, no},
	} {
		for base, want := range map[int]int64{10: c.decimal, 0: c.anyBase} {
			got, ok := Number(c.text, base, 32)
			require.Equal(t, want != no, ok, "%q, base %d", c.text, base)
			if ok {
				require.Equal(t, uint64(want), got, "%q, base %d", c.text, base)
			}
		}
	}
}

func TestMACsAsLibvirt(t *testing.T) {
	for text, want := range map[string]string{
		"52:54:00:AA:BB:CC": "52:54:00:aa:bb:cc", "52:54:0:11:22:4A": "52:54:00:11:22:4a", "2:0:0:0:0:1": "02:00:00:00:00:01",
		" 52:54:00:11:22:44": "", "52:54:00:11:22:44 ": "", "52-54-00-11-22-44": "", "5254.0011.2244": "", "0x52:54:00:11:22:44": "",
		"52:54:00:11:22": "", "52:54:00:11:22:44:55": "", "52:54:00:11:22:": "", "52:54:00:11:22:+4": "", "52:54:00:11:22:444": "", "": "",
	} {
		mac, ok := parseMAC(text)
		require.Equal(t, want != "", ok, "%q", text)
		if ok {
			require.Equal(t, want, mac)
		}
	}
}

func TestUUIDsAsLibvirt(t *testing.T) {
	const uuid = "6d6c1f0e-1111-4222-8333-012345678aaa"
	for _, text := range []string{uuid, strings.ToUpper(uuid), " " + uuid + "\n", strings.ReplaceAll(uuid, "-", ""), "6d6c1f0e-1111-42228333-012345678aaa"} {
		require.Equal(t, uuid, CanonicalUUID(text))
	}
	require.Equal(t, "../x", CanonicalUUID("../X"))
	require.Equal(t, uuid+"0", CanonicalUUID(uuid+"0"))
}

// readNICs reads the interfaces of a domain that has nothing else.
func readNICs(t *testing.T, devices string) []NIC {
	t.Helper()
	d, err := Parse([]byte("<domain><name>n</name>" + devices + "</domain>"))
	require.NoError(t, err)
	return d.NICs
}

func TestPCIAddressesAsLibvirt(t *testing.T) {
	for attrs, want := range map[string]string{
		"domain='0x10000' bus='0x01' slot='0x10' function='0x1'": "10000:01:10.1", // Intel VMD
		"domain='65536' bus='1' slot='16' function='1'":          "10000:01:10.1",
		"domain='0xffffffff' bus='255' slot='31' function='7'":   "ffffffff:ff:1f.7",
		"domain='0xa1b2' bus='0' slot='2' function='0'":          "a1b2:00:02.0", // Hyper-V
		"domain='10000' bus='0x03' slot='010' function='0'":      "2710:03:08.0",
		"bus='3'":              "0000:03:00.0",
		"domain='0x100000000'": "",
		"domain='-1'":          "",
		"domain=''":            "",
		"domain='1_0'":         "",
		"bus='256'":            "",
		"slot='0x20'":          "",
		"function='8'":         "",
		"domain='0' bus='3' slot='16' function='a'": "",
	} {
		n := readNICs(t, "<devices><interface type='hostdev' managed='yes'><mac address='52:54:00:11:22:55'/><source><address type='pci' "+attrs+"/></source></interface></devices>")[0]
		require.Equal(t, want, n.Source.PCI, attrs)
		if want == "" {
			require.ErrorIs(t, n.Err(), ErrNIC, attrs)
		} else {
			require.NoError(t, n.Err())
		}
	}
}

func TestNICValuesAsLibvirt(t *testing.T) {
	nic := func(inner string) NIC {
		return readNICs(t, "<devices><interface type='direct'><source dev='a'/>"+inner+"</interface></devices>")[0]
	}
	for inner, want := range map[string]VLAN{
		"<vlan trunk='YES'><tag id='1'/></vlan>":               {Trunk: true, Tags: []int{1}},
		"<vlan trunk='no'><tag id=' 0100'/></vlan>":            {Tags: []int{100}},
		"<vlan><tag id='1'/></vlan><vlan><tag id='2'/></vlan>": {Tags: []int{1}},
		"<vlan><tag id='4095'/></vlan>":                        {Tags: []int{4095}},
		`<vlan><!-- c --><tag id="&#49;0"></tag></vlan>`:       {Tags: []int{10}},
	} {
		n := nic(inner)
		require.NoError(t, n.Err(), inner)
		require.Equal(t, want, *n.VLAN, inner)
	}
	n := nic("<driver queues=' 010'/><mtu size='70000'/>")
	require.NoError(t, n.Err())
	require.Equal(t, []int{10, 70000}, []int{n.Queues, n.MTU}, "libvirt takes any, and leaves it to the device")
	for _, inner := range []string{
		"<vlan><tag id='0x64'/></vlan>", "<vlan><tag id='100 '/></vlan>", "<vlan><tag id=''/></vlan>", "<vlan><tag id='4096'/></vlan>",
		"<driver queues='0x4'/>", "<driver queues='-4'/>", "<mtu size=''/>", "<mac address=''/>", "<mac address='52-54-00-11-22-44'/>",
	} {
		n := nic(inner)
		require.ErrorIs(t, n.Err(), ErrNIC, inner)
	}
}

// libvirt reads the interfaces of each <devices>.
func TestSeveralDevices(t *testing.T) {
	nics := readNICs(t, "<devices><interface type='direct'/></devices><devices><disk/><interface type='bridge'/></devices>")
	require.Len(t, nics, 2)
	require.Equal(t, 1, nics[1].Index)
}

func FuzzText(f *testing.F) {
	for _, s := range []string{" +0x1f", "010", "52:54:0:11:22:4A", "6D6C1F0E111142228333012345678AAA", "ua-x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, ok := Number(s, 10, 12); ok {
			require.Less(t, n, uint64(1<<12))
			again, ok := Number(s, 10, 64)
			require.True(t, ok)
			require.Equal(t, n, again)
		}
		if mac, ok := parseMAC(s); ok {
			again, ok := parseMAC(mac)
			require.True(t, ok)
			require.Equal(t, mac, again)
		}
		require.Equal(t, CanonicalUUID(s), CanonicalUUID(CanonicalUUID(s)))
	})
}
