package linkproto

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/helper/internal/ether"
)

var update = flag.Bool("update", false, "rewrite the table in docs/")

const page = "../../../docs/link-protocols.md"

// An entry is complete, and its addresses read as they are written.
func TestTable(t *testing.T) {
	require.LessOrEqual(t, len(All()), 64*len(Set{}))
	seen := map[string]bool{}
	for _, p := range All() {
		require.Regexp(t, `^[a-z0-9][a-z0-9-]+$`, p.Name)
		require.False(t, seen[p.Name], p.Name)
		seen[p.Name] = true
		require.NotEmpty(t, p.What, p.Name)
		require.NotEmpty(t, p.Reference, p.Name)
		require.NotContains(t, p.What+p.Reference, "|")
		require.NotZero(t, len(p.Groups)+len(p.Types)+len(p.SAPs)+len(p.SNAPs), p.Name)
		for _, g := range p.Groups {
			require.Regexp(t, `^[0-9a-f]{2}(:[0-9a-f]{2}){2,5}$|^[0-9a-f]{2}(:[0-9a-f]{2}){3,4}:[0-9a-f]$`, string(g), p.Name)
			require.Len(t, g.String(), 17)
		}
		for _, n := range p.Types {
			require.GreaterOrEqual(t, n, uint16(0x600), p.Name)
			require.NotContains(t, []uint16{0x0800, 0x0806, 0x86dd}, n, p.Name)
			require.NotContains(t, Tags, n, p.Name)
		}
		for _, s := range p.SAPs { // antispoof drops no other's
			require.True(t, s == SAPBridge || p.Elsewhere, p.Name)
		}
		require.True(t, !p.Elsewhere || len(p.Groups) > 0 && len(p.SNAPs) == 0, p.Name)
	}
}

func TestPrefix(t *testing.T) {
	for prefix, has := range map[Prefix]ether.MAC{
		"01:80:c2":          {1, 0x80, 0xc2, 1, 2, 3},
		"01:80:c2:00:00:3":  {1, 0x80, 0xc2, 0, 0, 0x3f},
		"01:80:c2:00:00:0e": {1, 0x80, 0xc2, 0, 0, 0x0e},
	} {
		require.True(t, prefix.Has(has), prefix)
		require.False(t, prefix.Has(ether.MAC{1, 0x80, 0xc3, 0, 0, 0x0e}), prefix)
	}
	require.False(t, Prefix("01:80:c2:00:00:3").Has(ether.MAC{1, 0x80, 0xc2, 0, 0, 0x40}))
	require.Equal(t, "01:80:c2:xx:xx:xx", Prefix("01:80:c2").String())
	require.Equal(t, "01:80:c2:00:00:3x", Prefix("01:80:c2:00:00:3").String())
}

func TestSet(t *testing.T) {
	var s Set
	require.Empty(t, s.Protocols())
	require.False(t, s.Add("lldp "))
	for i, p := range All() {
		require.True(t, s.Add(p.Name))
		require.Len(t, s.Protocols(), i+1)
		require.Len(t, s.Others(), len(All())-i-1)
	}
	require.Equal(t, len(All()), len(strings.Fields(Names())))
}

// The manual's table is this one: go test ./helper/internal/linkproto -update writes it.
func TestTableOfTheManual(t *testing.T) {
	raw, err := os.ReadFile(page)
	require.NoError(t, err)
	text := string(raw)
	at := regexp.MustCompile(`(?m)^\| name .*\n(\|.*\n)+`).FindStringIndex(text)
	require.NotNil(t, at)
	if *update {
		require.NoError(t, os.WriteFile(page, []byte(text[:at[0]]+manual()+text[at[1]:]), 0o644))
		return
	}
	require.Equal(t, manual(), text[at[0]:at[1]], "%s: go test ./helper/internal/linkproto -update", page)
	for _, tpid := range Tags {
		require.Contains(t, text, fmt.Sprintf("%04x", tpid))
	}
}

func manual() string {
	var b strings.Builder
	b.WriteString("| name | protocols | destinations | EtherTypes, LLC, SNAP | reference |\n|---|---|---|---|---|\n")
	for _, p := range All() {
		var groups, forms []string
		for _, g := range p.Groups {
			groups = append(groups, g.String())
		}
		for _, n := range p.Types {
			forms = append(forms, fmt.Sprintf("%04x", n))
		}
		for _, s := range p.SAPs {
			forms = append(forms, fmt.Sprintf("LLC %02x", s))
		}
		for _, s := range p.SNAPs {
			form := fmt.Sprintf("SNAP %06x", s.OUI)
			if s.OUI == AnyVendor {
				form = "SNAP of any vendor"
			}
			if !s.AnyPID {
				form += fmt.Sprintf("/%04x", s.PID)
			}
			forms = append(forms, form)
		}
		form := strings.Join(forms, ", ")
		switch {
		case form == "":
			form = "any"
		case p.Elsewhere:
			form += ", to these destinations only"
		}
		dst := strings.Join(groups, ", ")
		if dst == "" {
			dst = "any"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", p.Name, p.What, dst, form, p.Reference)
	}
	return b.String()
}
