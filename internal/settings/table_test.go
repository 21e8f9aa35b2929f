package settings

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/internal/link"
)

// tags lists the keys of a struct and of those that it embeds.
func tags(t reflect.Type) []string {
	var all []string
	for i := range t.NumField() {
		f := t.Field(i)
		if tag := f.Tag.Get("toml"); tag != "" && tag != "-" {
			all = append(all, tag)
		} else if f.Anonymous {
			all = append(all, tags(f.Type)...)
		}
	}
	return all
}

// A setting is an entry of the table, a field and a part of the manual, and none is
// without the others.
func TestEverySettingIsComplete(t *testing.T) {
	require.ElementsMatch(t, Names(InProfile), tags(reflect.TypeFor[NIC]()), "the keys of [profile.NAME]")
	require.ElementsMatch(t, Names(InOVS), tags(reflect.TypeFor[OVS]()), "the keys of [profile.NAME.ovs]")
	seen := map[string]bool{}
	for _, s := range All() {
		require.NotEmpty(t, s.Name)
		require.NotEmpty(t, s.Help, s.Name)
		require.NotContains(t, s.Help, "|")
		require.NotZero(t, s.NICs, s.Name)
		require.NotZero(t, s.Places, s.Name)
		require.NotEmpty(t, s.Since, s.Name)
		require.NotEmpty(t, s.Restricts, "%s: does a guest without it have more rights?", s.Name)
		if r := string(s.Restricts); s.Restricts != Never && s.Restricts != Always {
			require.Contains(t, s.Values, r, s.Name)
		}
		require.True(t, (s.Values == nil) != (s.Form == ""), "%s: values or their form", s.Name)
		for p := InNIC; p <= InOVS; p <<= 1 {
			if key := fmt.Sprint(p, s.Name); s.In(p) {
				require.False(t, seen[key], "%s: twice in one place", s.Name)
				seen[key] = true
				found, ok := Lookup(p, s.Name)
				require.True(t, ok)
				require.Equal(t, s.Help, found.Help)
			}
		}
	}
}

// sample is a value that a setting can have.
func sample(s Setting) string {
	switch {
	case s.Values != nil:
		return s.Values[len(s.Values)-1]
	case s.typ == typeNumber, s.Name == NameVLAN:
		return "100"
	case s.Name == NameTrunk:
		return "7,100-101"
	}
	return "x"
}

// What is written is read again, goes before others' values, and gives way to them where
// it is unset.
func TestParseTextOverride(t *testing.T) {
	for _, s := range All() {
		if s.typ == typeTable {
			continue
		}
		v := sample(s)
		if s.Name == "qos" {
			v = "3"
		}
		if s.Name == "tunnel" || s.Name == "ovn" {
			v = "yes" // what is not so is unset
		}
		if s.Name == "mtu" {
			v = "1400"
		}
		var n NIC
		require.NoError(t, s.Parse(&n, v), s.Name)
		text, set := s.Text(n)
		require.True(t, set, s.Name)
		require.Equal(t, v, text, s.Name)
		require.NoError(t, n.Check(), s.Name)
		require.Equal(t, n, NIC{}.Override(n), s.Name)
		require.Equal(t, n, n.Override(NIC{}), s.Name)
		for _, o := range All() {
			if _, set := o.Text(n); set && o.typ != typeTable {
				require.Equal(t, s.Help, o.Help, "%s sets %s too", s.Name, o.Name)
			}
		}
	}
	yes, no := true, false
	require.Equal(t, &no, VF{VFAttributes: VFAttributes{Trust: &no}}.Override(VF{VFAttributes: VFAttributes{Trust: &yes}}).Trust, "no goes before yes")
	require.False(t, VF{}.Set())
	require.False(t, Port{}.Set())
	require.True(t, Port{Trunk: "7"}.Set())
}

// What restricts is told from what does not, by value.
func TestRestricting(t *testing.T) {
	for text, want := range map[string]bool{
		"isolated yes": true, "isolated no": false, "learning no": true, "learning yes": false, "vlan 7": true, "trunk 7,8": true, "spoofchk on": true, "spoofchk off": false,
		"trust no": true, "maxrate 100": true, "minrate 5": true, "linkstate disable": true, "linkstate enable": false, "locked yes": true, "flood no": true,
		"portprofile gold": true, "allmulticast yes": false, "own hook": false, "hairpin yes": false, "uplink lan": false,
	} {
		name, value, _ := strings.Cut(text, " ")
		s, ok := Lookup(InNIC, name)
		require.True(t, ok, name)
		var n NIC
		require.NoError(t, s.Parse(&n, value))
		require.Equal(t, want, len(n.Restricting()) == 1, text)
	}
	require.Len(t, NIC{OVS: &OVS{IngressRate: 5, IngressBurst: 5, OVN: true, Mirror: "ids"}}.Restricting(), 2)
	require.Empty(t, NIC{}.Restricting())
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"vlan 4095": "vlan = 4095: want 1 to 4094", "vlan 0": "vlan = 0: want 1 to 4094", "vlan x": `vlan = "x": want 1 to 4094`,
		"mode VEPA": `mode = "VEPA": want vepa, bridge, private, passthrough`, "own me": `own = "me": want hook or libvirt`,
		"trust maybe": `trust = "maybe": want yes or no`, "minrate -1": "minrate = -1: want Mbit/s, 0 for no bound",
		"linkstate up": `linkstate = "up": want auto, enable or disable`, "qos 8": "qos = 8: want 0 to 7",
		"proto 802.1x": `proto = "802.1x": want 802.1Q or 802.1ad`, "native no": `native = "no": want untagged or tagged`,
		"trunk 0":                                `trunk = "0": want VLAN identifiers and ranges within 1-4094, as in 100,200-299`,
		"ifaceid a\n":                            `ifaceid = "a\n": want the name of a logical port, at most 255 octets`,
		"portprofile " + strings.Repeat("x", 40): `want at most 39 octets`,
	} {
		name, value, _ := strings.Cut(text, " ")
		s, ok := Lookup(InNIC, name)
		require.True(t, ok, name)
		var n NIC
		err := s.Parse(&n, value)
		var wrong *ValueError
		require.ErrorAs(t, err, &wrong)
		require.Contains(t, err.Error(), want)
		require.Equal(t, NIC{}, n, "nothing is set")
	}
	_, ok := Lookup(InProfile, NameDev)
	require.False(t, ok, "another host's device is nothing for a profile")
	_, ok = Lookup(InNIC, "mac")
	require.False(t, ok)
}

// A profile's values come from TOML: they are brought into one spelling, or refused.
func TestCheck(t *testing.T) {
	yes, low := "yes", -1
	n := NIC{VF: VF{Proto: "802.1AD", VFAttributes: VFAttributes{LinkState: &yes}}}
	require.NoError(t, n.Check())
	require.Equal(t, link.Dot1AD, n.Proto)
	require.Equal(t, link.LinkEnable, *n.LinkState)
	for want, n := range map[string]NIC{
		"vlan = -1: want 1 to 4094":                     {VLAN: -1},
		"minrate = -1: want Mbit/s, 0 for no bound":     {VF: VF{VFAttributes: VFAttributes{MinRate: &low}}},
		"ovs.mtu = 5: want 68 to 65535":                 {OVS: &OVS{MTU: 5}},
		"ovs.minrate = 6: want no more than maxrate":    {OVS: &OVS{MinRate: 6, MaxRate: 5}},
		`optional = "speed": want some of trust, spoof`: {Optional: []string{"speed"}},
	} {
		require.ErrorContains(t, n.Check(), want)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range All() {
		f.Add(s.Name, sample(s))
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		for _, s := range All() {
			var n NIC
			if s.Name != name || s.Parse(&n, value) != nil {
				continue
			}
			require.NoError(t, n.Check())
			if text, set := s.Text(n); set && s.typ != typeTable {
				var again NIC
				require.NoError(t, s.Parse(&again, text))
				require.Equal(t, n, again)
			}
		}
	})
}
