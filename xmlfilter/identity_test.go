package xmlfilter

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/internal/settings"
)

const (
	mac1 = "52:54:00:11:22:44"
	mac2 = "52:54:00:11:22:45"
)

// twins is a domain with the given <nic> elements and interfaces of one MAC.
func twins(nics string, aliases ...string) string {
	var b strings.Builder
	b.WriteString("<domain type='kvm'>\n  <name>twin</name>\n  <metadata>\n    <ld:nics xmlns:ld='urn:libvirt-direct:1'>" + nics + "</ld:nics>\n  </metadata>\n  <devices>\n")
	for _, a := range aliases {
		b.WriteString("    <interface type='direct'>\n      <mac address='" + mac1 + "'/>\n      <source dev='va' mode='bridge'/>\n")
		if a != "" {
			b.WriteString("      <alias name='" + a + "'/>\n")
		}
		b.WriteString("    </interface>\n")
	}
	return b.String() + "  </devices>\n</domain>\n"
}

func TestSettingsNameOneNIC(t *testing.T) {
	for name, c := range map[string]struct {
		doc  string
		says []string // "" where it is read
	}{
		"a MAC that two have":                        {twins("<ld:nic mac='"+mac1+"' vlan='5'/>", "ua-a", ""), []string{mac1 + " ua-a", mac1 + " #1", "<nic alias='ua-a'>"}},
		"a MAC that three have":                      {twins("<ld:nic mac='"+mac1+"' vlan='5'/>", "", "", ""), []string{"#0", "#1", "#2"}},
		"a MAC that two have, of which one is named": {twins("<ld:nic alias='ua-a' vlan='4'/><ld:nic mac='"+mac1+"' vlan='5'/>", "ua-a", "ua-b"), []string{"ua-a", "ua-b"}},
		"an alias that two have":                     {twins("<ld:nic alias='ua-a' vlan='5'/>", "ua-a", "ua-a"), []string{"<nic alias='ua-a'>"}},
		"by MAC and by alias":                        {twins("<ld:nic mac='"+mac1+"' vlan='5'/><ld:nic alias='ua-a' vlan='5'/>", "ua-a"), []string{"<nic mac='" + mac1 + "'>", "<nic alias='ua-a'>"}},
		"by MAC in two spellings":                    {twins("<ld:nic mac='"+mac1+"'/><ld:nic mac='52-54-00-11-22-44'/>", "ua-a"), []string{"same"}},
		"by MAC in upper case":                       {twins("<ld:nic mac='52:54:00:AA:22:44'/><ld:nic mac='5254.00aa.2244'/>", ""), nil}, // belongs to no NIC
		"by MAC without leading zeros":               {twins("<ld:nic mac='"+mac1+"'/><ld:nic mac='52:54:0:11:22:44'/>", ""), []string{"same"}},
		"an alias of libvirt's own":                  {twins("<ld:nic alias='net0' vlan='5'/>", "net0"), []string{"ua-"}},
		"an alias that is another's MAC":             {twins("<ld:nic alias='"+mac1+"' vlan='5'/>", mac1), []string{"ua-"}},
		"an alias that libvirt drops":                {twins("<ld:nic alias='ua-a b' vlan='5'/>", "ua-a b"), []string{"ua-"}},
		"by alias, of one MAC":                       {twins("<ld:nic alias='ua-a' vlan='5'/><ld:nic alias='ua-b' vlan='6'/>", "ua-a", "ua-b"), nil},
		"none of two of one MAC":                     {twins("", "", ""), nil},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(c.doc))
			if c.says == nil {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, ErrSettings)
			for _, s := range c.says {
				require.ErrorContains(t, err, s)
			}
			require.NotContains(t, err.Error(), "\n")
		})
	}
}

func TestIDsDiffer(t *testing.T) {
	d, err := Parse([]byte(twins("", "ua-a", "net1", "", "ua-b")))
	require.NoError(t, err)
	var ids []string
	for i := range d.NICs {
		ids = append(ids, d.NICs[i].ID())
	}
	require.Equal(t, []string{mac1 + " ua-a", mac1 + " #1", mac1 + " #2", mac1 + " ua-b"}, ids, "libvirt's own alias is there only from start on")

	d, err = Parse([]byte(strings.Replace(twins("", "ua-a", ""), mac1, mac2, 1)))
	require.NoError(t, err)
	require.Equal(t, mac2, d.NICs[0].ID())
	require.Equal(t, mac1, d.NICs[1].ID())
}

// What Rewrite notes for NICs that share their MAC it can read again, and undo.
func TestRewriteNamesTwinsByAlias(t *testing.T) {
	for name, doc := range map[string]string{
		"no aliases":       twins("", "", ""),
		"libvirt's own":    twins("", "net0", "net1"),
		"a user's":         twins("", "ua-a", ""),
		"the same number":  twins("", "", "ua-ld-0"),
		"the next number":  strings.Replace(twins("", "", ""), "<devices>", "<devices><disk><alias name='ua-ld-0'/></disk>", 1),
		"another device's": strings.Replace(twins("", "", ""), "<devices>", "<devices><disk><alias name='ua-ld-1'/></disk>", 1),
		"without MACs":     strings.ReplaceAll(twins("", "", ""), "<mac address='"+mac1+"'/>", ""),
		"one has settings": twins("<ld:nic alias='ua-a' trust='yes'/>", "ua-a", "ua-b"),
	} {
		t.Run(name, func(t *testing.T) {
			d, err := Parse([]byte(doc))
			require.NoError(t, err)
			var changes []Change
			for i := range d.NICs {
				changes = append(changes, Change{NIC: i, SourceDev: "va.5", Keep: true, Settings: map[string]string{settings.NameVLAN: "5"}})
			}
			out, err := d.Rewrite(changes)
			require.NoError(t, err)
			after, err := Parse(out)
			require.NoError(t, err)
			require.Empty(t, after.Stray)
			for i := range after.NICs {
				require.NotNil(t, after.NICs[i].Settings, "NIC %d", i)
				require.Equal(t, 5, after.NICs[i].Settings.VLAN)
				require.True(t, after.NICs[i].UserAlias())
			}
			back, err := after.Undo()
			require.NoError(t, err)
			require.Equal(t, doc, string(back))
		})
	}
}

func TestUserKeepsAnAliasGivenMeanwhile(t *testing.T) {
	d, err := Parse([]byte(twins("", "", "")))
	require.NoError(t, err)
	out, err := d.Rewrite([]Change{{NIC: 0, SourceDev: "va.5", Keep: true, Settings: map[string]string{settings.NameVLAN: "5"}}})
	require.NoError(t, err)
	after, err := Parse([]byte(strings.ReplaceAll(string(out), "<alias name='ua-ld-0'/>", "<alias name='ua-mine'/>")))
	require.NoError(t, err)
	require.Equal(t, "ua-ld-0", after.Stray[0].Key, "its settings name the alias that was taken away")
}

// Several edits of one element add up.
func TestEditsOfOneElement(t *testing.T) {
	const iface = "<interface type='direct'><mac address='52:54:00:00:00:0%d'/><source dev='a'/><vlan><tag id='5'/></vlan></interface>"
	devices := "<devices>" + strings.Replace(iface, "%d", "1", 1) + strings.Replace(iface, "%d", "2", 1) + strings.Replace(iface, "%d", "3", 1) + "</devices>"
	for name, nics := range map[string]string{
		"self-closed":              "<ld:nics xmlns:ld='urn:libvirt-direct:1'/>",
		"with blanks":              "<ld:nics xmlns:ld='urn:libvirt-direct:1'  />",
		"with a wish":              "<ld:nics xmlns:ld='urn:libvirt-direct:1' rewrite='yes'/>",
		"empty":                    "<ld:nics xmlns:ld='urn:libvirt-direct:1'></ld:nics>",
		"white space":              "<ld:nics xmlns:ld='urn:libvirt-direct:1'>\n  </ld:nics>",
		"a comment":                "<ld:nics xmlns:ld='urn:libvirt-direct:1'><!-- c --></ld:nics>",
		"CDATA":                    "<ld:nics xmlns:ld='urn:libvirt-direct:1'><![CDATA[ ]]></ld:nics>",
		"text":                     "<ld:nics xmlns:ld='urn:libvirt-direct:1'>the guests' <![CDATA[ NICs]]></ld:nics>",
		"text beside it":           "of web1 <ld:nics xmlns:ld='urn:libvirt-direct:1'/>",
		"a processing instruction": "<ld:nics xmlns:ld='urn:libvirt-direct:1'>\n<?p i?>\n</ld:nics>",
		"a default namespace":      "<nics xmlns='urn:libvirt-direct:1'/>",
		"one nic":                  "<nics xmlns='urn:libvirt-direct:1'><nic mac='52:54:00:00:00:01'/></nics>",
		"others beside it":         "<x:y xmlns:x='urn:x'/><ld:nics xmlns:ld='urn:libvirt-direct:1'/><x:z xmlns:x='urn:x'/>",
		"nothing":                  "",
	} {
		for form, metadata := range map[string]string{"": "<metadata>" + nics + "</metadata>", "lines": "\n  <metadata>\n    " + nics + "\n  </metadata>\n  "} {
			t.Run(name+" "+form, func(t *testing.T) {
				d, err := Parse([]byte("<domain><name>n</name>" + metadata + devices + "</domain>"))
				require.NoError(t, err)
				var changes []Change
				for i := range d.NICs {
					changes = append(changes, Change{NIC: i, SourceDev: "b", SourceMode: "bridge", DropVLAN: true, Keep: true,
						Settings: map[string]string{settings.NameVLAN: "5", settings.NameDev: "b"}})
				}
				out, err := d.Rewrite(changes)
				require.NoError(t, err)
				after, err := Parse(out)
				require.NoError(t, err, "%s", out)
				for i := range after.NICs {
					n := &after.NICs[i]
					require.NotNil(t, n.Settings)
					require.Equal(t, 5, n.Settings.VLAN)
					require.Equal(t, "b", n.Settings.Dev)
					require.Equal(t, Source{Dev: "b", Mode: "bridge"}, n.Source)
					require.Nil(t, n.VLAN)
				}
				require.Equal(t, d.Wish, after.Wish)
				back, err := after.Undo()
				require.NoError(t, err)
				require.Equal(t, string(d.doc), string(back))
			})
		}
	}
}

// What libvirt does not read, behind the first of a name, does not take the first one's place.
func TestElementsTwiceOfAnOwnedNIC(t *testing.T) {
	doc := "<domain><name>n</name><devices><interface type='direct'><vlan><tag id='5'/></vlan><source dev='a'/><mac address='52:54:00:00:00:01'/>" +
		"<source dev='b'/><target dev='x'/><target dev='y'/><vlan><tag id='6'/></vlan></interface></devices></domain>"
	d, err := Parse([]byte(doc))
	require.NoError(t, err)
	out, err := d.Rewrite([]Change{{NIC: 0, Ethernet: "ldt0", Keep: true}})
	require.NoError(t, err)
	require.Contains(t, string(out), "<interface type='ethernet'><target dev='ldt0' managed='no'/><mac address='52:54:00:00:00:01'/></interface>")
	after, err := Parse(out)
	require.NoError(t, err)
	back, err := after.Undo()
	require.NoError(t, err)
	require.Equal(t, doc, string(back))
}

// A setting that Rewrite replaces comes back, one that it removes as well.
func TestUndoPutsSettingsBack(t *testing.T) {
	doc := twins("<ld:nic alias='ua-a' portprofile='a &amp; b' dev='old' vlan='5'/>", "ua-a")
	d, err := Parse([]byte(doc))
	require.NoError(t, err)
	out, err := d.Rewrite([]Change{{NIC: 0, SourceDev: "b", Keep: true, Settings: map[string]string{settings.NamePortProfile: "c", settings.NameDev: "", settings.NameVLAN: "5", settings.NameUplink: "lan"}}})
	require.NoError(t, err)
	after, err := Parse(out)
	require.NoError(t, err)
	require.Equal(t, "c", after.NICs[0].Settings.VF.PortProfile)
	require.Empty(t, after.NICs[0].Settings.Dev)
	back, err := after.Undo()
	require.NoError(t, err)
	require.Equal(t, doc, string(back))
}
