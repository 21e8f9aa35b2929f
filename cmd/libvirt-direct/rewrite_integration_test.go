//go:build integration

package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host"
)

func TestRewriteDefined(t *testing.T) {
	h := newFixture(t, uplinkConfig)
	h.up()
	for name, c := range map[string]struct {
		domain host.Domain
		after  []string // what the definition has then
		gone   []string
	}{
		"vlan": {
			vlanGuest("v", ""),
			[]string{"<source dev='nica.100' mode='vepa'/>", "<ld:was", `uplink="storage"`},
			nil,
		},
		"hook-owned": {
			ownedGuest("o", ""),
			[]string{"<interface type='ethernet'>", "managed='no'/>", `mode="bridge"`},
			[]string{"<interface type='direct'>"},
		},
		"secrets": {
			vlanGuest("v", "", "<graphics type='vnc' port='-1' passwd='s3cret'/>"),
			[]string{"passwd='s3cret'", "nica.100"},
			nil,
		},
		"odd name": {
			vlanGuest("-v '\"& ü", ""),
			[]string{"nica.100"},
			nil,
		},
		"other words": {
			vlanGuest("v", "<x:y xmlns:x='urn:x'>text</x:y>"),
			[]string{"<x:y xmlns:x=\"urn:x\">text</x:y>", "nica.100"},
			nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := h.in(t)
			h.MustDefine(c.domain)
			before := h.inactive(c.domain.Name)
			names, _, code := h.cli("__complete", "rewrite", "--domain", "")
			require.Zero(t, code)
			require.Contains(t, names, c.domain.Name+"\n", "what a Tab offers")

			out := h.ok("rewrite", "--domain", c.domain.Name, "--dry-run")
			require.Contains(t, out, "nothing was done (--dry-run)\n")
			require.Equal(t, before, h.inactive(c.domain.Name))

			out = h.ok("rewrite", "--domain", c.domain.Name)
			require.Contains(t, out, "NIC "+map[bool]string{true: mac1, false: mac2}[name != "hook-owned"])
			after := h.inactive(c.domain.Name)
			for _, want := range c.after {
				require.Contains(t, after, want)
			}
			for _, not := range c.gone {
				require.NotContains(t, after, not)
			}

			out = h.ok("rewrite", "--domain", c.domain.Name)
			require.Contains(t, out, ": nothing to change\n")
			require.Equal(t, after, h.inactive(c.domain.Name))

			out = h.ok("rewrite", "--undo", "--domain", c.domain.Name)
			require.Contains(t, out, "put back what was before rewrite")
			require.Equal(t, before, h.inactive(c.domain.Name))
			out = h.ok("rewrite", "--undo", "--domain", c.domain.Name)
			require.Contains(t, out, ": nothing to change\n")
		})
	}
}

func TestRewriteOfARunningDomainIsForItsNextStart(t *testing.T) {
	h := newFixture(t, uplinkConfig)
	h.up()
	plain := host.Domain{Name: "r", UUID: "aaaaaaaa-0000-4000-8000-000000000001", Interfaces: []string{host.DirectNIC(mac1, "nica", "bridge")}}
	h.MustDefine(plain)
	h.MustVirsh("start", "r")
	live := h.MustVirsh("dumpxml", "r")
	later := vlanGuest("r", "")
	later.UUID = plain.UUID
	require.NoError(t, h.Define(h.Ctx, later.XML()))

	require.Contains(t, h.ok("rewrite", "--domain", "r"), `domain "r" is running: it changes with its next start`)
	require.Contains(t, h.inactive("r"), "<source dev='nica.100' mode='vepa'/>")
	require.Equal(t, live, h.MustVirsh("dumpxml", "r"))
	require.Equal(t, "running\n", h.MustVirsh("domstate", "r"))
}

func TestRewriteRefuses(t *testing.T) {
	h := newFixture(t, uplinkConfig)
	require.Contains(t, h.fails("rewrite", "--domain", "v"), "is libvirtd or virtqemud running?")
	h.up()
	require.Equal(t, "libvirt-direct: no such domain: \"v\"\n", h.fails("rewrite", "--domain", "v"))

	elsewhere := host.Domain{Name: "e", Interfaces: []string{host.DirectNIC(mac1, "eth7", "bridge")}}
	h.MustDefine(elsewhere)
	before := h.inactive("e")
	require.Contains(t, h.fails("rewrite", "--domain", "e"), `domain "e", NIC `+mac1+`: no such device on this host: "eth7"`)
	require.Equal(t, before, h.inactive("e"))

	// A transient domain would become a persistent one.
	transient := host.Domain{Name: "t", Interfaces: []string{host.DirectNIC(mac2, "nica", "bridge")}}
	xml := filepath.Join(t.TempDir(), "t.xml")
	require.NoError(t, os.WriteFile(xml, []byte(transient.XML()), 0o644))
	h.MustVirsh("create", xml)
	require.Contains(t, h.fails("rewrite", "--domain", "t"), "is transient")
	h.MustVirsh("destroy", "t")
	_, err := h.Virsh(h.Ctx, "dominfo", "t")
	require.Error(t, err)
}
