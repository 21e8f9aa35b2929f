package link

import (
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// An attribute is an entry of the table and a field, and each has the other.
func TestVFAttributesAreTheFields(t *testing.T) {
	fields := map[string]string{} // the toml tag by the json one
	typ := reflect.TypeFor[VFSettings]()
	for i := range typ.NumField() {
		name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
		fields[name] = typ.Field(i).Tag.Get("toml")
	}
	fresh := FreshVF()
	require.NoError(t, fresh.Check())
	for _, a := range VFAttributes() {
		require.Contains(t, fields, a.Name)
		want := a.Name
		if a.Libvirt {
			want = "-"
		}
		require.Equal(t, want, fields[a.Name], "the configuration's key")
		require.NotEmpty(t, a.Help)
		require.NotEmpty(t, a.Want)
		text, set := fresh.Value(a.Name)
		require.True(t, set, a.Name)
		require.Equal(t, []string{a.Name}, VFSettings{}.Differ(fresh.Only(func(attr string) bool { return attr == a.Name })))

		var other VFSettings
		for _, v := range append(a.Values, text) {
			if a.Name != AttrVLAN { // whose text also has the priority
				require.NoError(t, a.Parse(&other, v))
				have, _ := other.Value(a.Name)
				require.Equal(t, v, have)
			}
		}
		require.Equal(t, fresh, VFSettings{}.Override(fresh))
		require.Equal(t, fresh, fresh.Override(full), "what is set stays")
		delete(fields, a.Name)
	}
	require.Empty(t, fields, "fields that nothing reads or writes")
}

func TestVFAttributeParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"trust maybe":        "want on or off",
		"minrate -1":         "want Mbit/s, 0 for no bound",
		"maxrate 9999999999": "want Mbit/s, 0 for no bound",
		"linkstate up":       "want auto, enable or disable",
		"vlan x":             "want 0 to 4094",
	} {
		name, value, _ := strings.Cut(text, " ")
		for _, a := range VFAttributes() {
			var s VFSettings
			if a.Name == name {
				require.EqualError(t, a.Parse(&s, value), want)
				require.Equal(t, VFSettings{}, s)
			}
		}
	}
}

func FuzzVFAttributes(f *testing.F) {
	f.Add("on")
	f.Add("802.1ad")
	f.Fuzz(func(t *testing.T, text string) {
		for _, a := range VFAttributes() {
			var s VFSettings
			if a.Parse(&s, text) != nil {
				require.Equal(t, VFSettings{}, s)
				continue
			}
			if s.Check() == nil {
				_, err := vfAttr(0, a.Name, s, VFSettings{})
				require.NoError(t, err)
			}
		}
	})
}
