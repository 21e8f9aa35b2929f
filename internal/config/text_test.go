package config

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A file means the same whatever editor wrote it.
func TestEditors(t *testing.T) {
	const text = "# café\n[uplink.a]\ndevice = \"eth0\"\nvlans = [\"100\"]\nenforce = true\n"
	want, err := Parse("c", []byte(text))
	require.NoError(t, err)
	for name, written := range map[string]string{
		"byte order mark": "\ufeff" + text,
		"Windows":         "\ufeff" + strings.ReplaceAll(text, "\n", "\r\n"),
		"no last line":    strings.TrimSuffix(text, "\n"),
		"tabs":            strings.ReplaceAll(text, " = ", "\t=\t"),
	} {
		c, err := Parse("c", []byte(written))
		require.NoError(t, err, name)
		require.Empty(t, c.Faults(), name)
		require.Equal(t, want, c, name)
	}
	c, err := Parse("c", []byte("\ufeff[uplink.a]\r\ndevice = \"eth0\"\r\nvlan = 3\r\n[uplink.b]\r\ndevice = \"eth1\"\r\n"))
	require.NoError(t, err)
	require.Equal(t, []string{"b"}, c.UplinkNames())
	require.Equal(t, 3, c.Faults()[0].Line)
	_, err = Parse("c", []byte("\xff\xfe[\x00v\x00l\x00a\x00n\x00]\x00"))
	require.EqualError(t, err, "c:1: it is not in UTF-8 but in UTF-16: save it as UTF-8")
}

// What a value is not, in the terms of the file.
func TestValuesAsPeopleWriteThem(t *testing.T) {
	for text, want := range map[string]string{
		"[uplink.a]\ndevice='x'\nvlans='100, 200-299'\n":     `c:3: uplink.a: vlans: it is a TOML string: want a list such as ["100", "200-299"]`,
		"[uplink.a]\ndevice='x'\nvlans=['100, 200-299']\n":   `c:3: uplink.a: "100, 200-299": want a VLAN identifier or a range within 1-4094, as in ["100", "200-299"]`,
		"[uplink.a]\ndevice='x'\nvlans=['299-200']\n":        `"299-200": want a VLAN`,
		"[uplink.a]\ndevice='x'\nvlans=['0x64']\n":           `"0x64": want a VLAN`,
		"[uplink.a]\ndevice='x'\nvlans=[0x64]\n":             `"0x64": want a VLAN`,
		"[uplink.a]\ndevice='x'\nvlans=['+5']\n":             `"+5": want a VLAN`,
		"[uplink.a]\ndevice='x'\nvlans=['1-']\n":             `"1-": want a VLAN`,
		"[uplink.a]\ndevice='x'\nvlans=['65636']\n":          `"65636": want a VLAN`,
		"[uplink.a]\ndevice='x'\nvlans=['4294967396']\n":     `"4294967396": want a VLAN`,
		"[uplink.a]\ndevice='x'\nvlans=['100–199']\n":        `"100–199": want a VLAN`,
		"[uplink.a]\ndevice='x'\nvlans=100\n":                `vlans: it is a TOML integer: want a list`,
		"[uplink.a]\ndevice='x'\nvfs=2\n":                    `vfs: it is a TOML integer: want a list such as ["0", "2-7"]`,
		"[uplink.a]\ndevice='x'\nvfs=['65536']\n":            `"65536": want a virtual function's number`,
		"[uplink.a]\ndevice='x'\nenforce='yes'\n":            `c:3: uplink.a: enforce: it is a TOML string: want true or false, without quotes`,
		"[uplink.a]\ndevice='x'\nalso='eth9'\n":              `also: it is a TOML string: want a list such as ["a", "b"]`,
		"[uplink.a]\ndevice='x'\nalso=['']\n":                `c:3: uplink.a: also: "" is no device name`,
		"[uplink.a]\ndevice=' x'\n":                          `c:2: uplink.a: device = " x" is no device name`,
		"[uplink.a]\ndevice='sixteen-and-a-/-in-it'\n":       `is no device name`,
		"[uplink.a]\ndevice='x'\nDevice='y'\n":               `c:3: uplink.a: Device stands here twice, in other letters; leave one`,
		"[uplink.a]\ndevice='x'\n[Uplink.a]\ndevice='y'\n":   `stands here twice, in other letters`,
		"[uplink.a]\nmac='00:00:00:00:00:00'\n":              `c:2: uplink.a: mac = "00:00:00:00:00:00": want the six octets of one card's address`,
		"[uplink.a]\nmac='01:80:c2:00:00:0e'\n":              `mac = "01:80:c2:00:00:0e": want`,
		"[uplink.a]\nmac='00:00:00:00:fe:80:00:00'\n":        `mac = "00:00:00:00:fe:80:00:00": want`,
		"[uplink.a]\npci='0000:03:00'\n":                     `c:2: uplink.a: pci = "0000:03:00": want the address as lspci -D prints it`,
		"[uplink.a]\npci='0000:03:20.0'\n":                   `pci = "0000:03:20.0": want`,
		"[uplink.a]\npci=3\n":                                `pci: it is a TOML integer: want text in quotes`,
		"deadline = 10\n":                                    `c:1: deadline: it is a number without a unit: want a duration such as "10s", at most 10m`,
		"DEADLINE = 5_000_000_000\n":                         `it is a number without a unit`,
		"deadline = '10'\n":                                  `"10": want a duration such as "10s", at most 10m`,
		"[profile.p]\nvlan = '120'\n":                        `c:2: profile.p: vlan: it is a TOML string: want a number, without quotes`,
		"[profile.p]\nvlan = 120.0\n":                        `vlan: it is a TOML float: want a number, without quotes`,
		"[profile.p]\nmaxrate = 4294967396\n":                `maxrate = 4294967396: want Mbit/s, 0 for no bound`,
		"[profile.p]\nuplink = 'sixteen-and-more'\nvlan=1\n": `uplink = "sixteen-and-more" is not configured`,
	} {
		c, err := Parse("c", []byte(text))
		require.NoError(t, err, text)
		require.Len(t, c.Faults(), 1, text)
		require.Contains(t, c.Faults()[0].Error(), want)
		require.NotContains(t, c.Faults()[0].Error(), "\n")
		require.NotZero(t, c.Faults()[0].Line, text)
		require.Empty(t, c.UplinkNames(), text)
		require.Empty(t, c.Profiles, text)
		require.Equal(t, Duration(DefaultDeadline), c.Deadline)
	}
	for text, want := range map[string]Uplink{
		"pci='3:0.0'":                                 {PCI: "0000:03:00.0"},
		"pci='03:00.0'":                               {PCI: "0000:03:00.0"},
		"pci='0000:3B:00.0'":                          {PCI: "0000:3b:00.0"},
		"pci='10000:e1:00.0'":                         {PCI: "10000:e1:00.0"},
		"mac='3C-FD-FE-00-11-22'":                     {MAC: "3c:fd:fe:00:11:22"},
		"mac='3cfd.fe00.1122'":                        {MAC: "3c:fd:fe:00:11:22"},
		"device='enp65s0f0np0-more-than-fifteen'":     {Device: "enp65s0f0np0-more-than-fifteen"},
		"device='x'\nalso=['also-more-than-fifteen']": {Device: "x", Also: []string{"also-more-than-fifteen"}},
		"device='x'\nvlans=['100-199','150-300',7]":   {Device: "x", VLANs: &[]VLANRange{{100, 199}, {150, 300}, {7, 7}}},
		"device='x'\nvlans=[' 100 - 199 ','010']":     {Device: "x", VLANs: &[]VLANRange{{100, 199}, {10, 10}}},
	} {
		c, err := Parse("c", []byte("[uplink.a]\n"+text+"\n"))
		require.NoError(t, err, text)
		require.Empty(t, c.Faults(), text)
		want.Name = "a"
		require.Equal(t, &want, c.Uplinks["a"], text)
	}
}

// A name, a PCI function and a MAC mean one uplink, however they are written.
func TestUplinksOfOneName(t *testing.T) {
	for text, want := range map[string]string{
		"[uplink.a]\ndevice='x'\nalso=['y']\n[uplink.b]\ndevice='y'\n":                         `"y" already means uplink "a"`,
		"[uplink.a]\ndevice='x'\nalso=['y']\n[uplink.b]\ndevice='z'\nalso=['y']\n":             `"y" already means uplink "a"`,
		"[uplink.a]\ndevice='b'\n[uplink.b]\ndevice='z'\n":                                     `"b" already means uplink "a"`,
		"[uplink.a]\ndevice='x'\n[uplink.b]\ndevice='a'\n":                                     `"a" already means uplink "a"`,
		"[uplink.a]\npci='03:00.0'\n[uplink.b]\npci='0000:03:00.0'\n":                          `"0000:03:00.0" already means uplink "a"`,
		"[uplink.a]\nmac='3C-FD-FE-00-11-22'\n[uplink.b]\nmac='3cfd.fe00.1122'\n":              `"3c:fd:fe:00:11:22" already means uplink "a"`,
		"[uplink.a]\ndevice='x'\n[uplink.b]\npci='03:00.0'\n[uplink.c]\npci='10000:03:00.0'\n": "",
	} {
		c, err := Parse("c", []byte(text))
		require.NoError(t, err, text)
		if want == "" {
			require.Empty(t, c.Faults(), text)
			continue
		}
		require.Len(t, c.Faults(), 1, text)
		require.Equal(t, "uplink.b", c.Faults()[0].Section, text)
		require.ErrorContains(t, c.Faults()[0], want+"; leave it to one of them")
		require.Equal(t, []string{"a"}, c.UplinkNames())
	}
}
