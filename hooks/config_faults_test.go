package hooks

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/plan"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/link"
)

const oneFaulty = `
[uplink.good]
device = "nica"
vlans = ["100-199"]

[uplink.bad]
device = "nicb"
also = ["ens9"]
vlan = ["100-199"]   # it is called vlans

[profile.fine]
uplink = "good"

[profile.lost]
uplink = "bad"

[profile.wrong]
mode = "passthru"
`

// A faulty section refuses the NICs that depend on it, with its fault, and nobody else.
func TestOneFaultySection(t *testing.T) {
	const uplink, profile = "uplink.bad", "profile.wrong"
	ld := func(attrs string) string { return "<ld:nic mac='" + mac1 + "' " + attrs + "/>" }
	for name, c := range map[string]struct {
		doc  string
		want string // the faulty section, "" where the guest starts
	}{
		"good uplink":            {domain(uuidA, ld("uplink='good'"), direct(mac1, "nica", "bridge")), ""},
		"good uplink's VLAN":     {domain(uuidA, ld("uplink='good' vlan='100'"), direct(mac1, "nica.100", "bridge")), ""},
		"good profile":           {domain(uuidA, ld("profile='fine'"), direct(mac1, "nica", "bridge")), ""},
		"no uplink":              {domain(uuidA, ld("allmulticast='yes'"), direct(mac1, "nicc", "bridge")), ""},
		"faulty uplink":          {domain(uuidA, ld("uplink='bad'"), direct(mac1, "nicb", "bridge")), uplink},
		"its device":             {domain(uuidA, ld("allmulticast='yes'"), direct(mac1, "nicb", "bridge")), uplink},
		"a VLAN of its device":   {domain(uuidA, ld("vlan='100'"), direct(mac1, "nicb.100", "bridge")), uplink},
		"VLAN that is there":     {domain(uuidA, ld("allmulticast='yes'"), direct(mac1, "lan7", "bridge")), uplink},
		"its name elsewhere":     {domain(uuidA, ld("allmulticast='yes'"), direct(mac1, "ens9", "bridge")), uplink},
		"hook-owned":             {domain(uuidA, ld("own='hook' uplink='bad'"), owned(mac1, "ldt1")), uplink},
		"hook-owned, by device":  {domain(uuidA, ld("own='hook' dev='nicb'"), owned(mac1, "ldt1")), uplink},
		"by its profile":         {domain(uuidA, ld("profile='lost'"), direct(mac1, "nicb", "bridge")), uplink},
		"faulty profile":         {domain(uuidA, ld("profile='wrong'"), direct(mac1, "nica", "bridge")), profile},
		"beside a managed NIC":   {domain(uuidA, "<ld:nic mac='"+mac2+"' uplink='good'/>", direct(mac1, "nicb", "bridge")+direct(mac2, "nica", "bridge")), uplink},
		"plain":                  {domain(uuidA, "", direct(mac1, "nica", "bridge")), ""},
		"plain, on its device":   {domain(uuidA, "", direct(mac1, "nicb", "bridge")), ""},
		"plain, its VLAN":        {domain(uuidA, "", direct(mac1, "nicb.100", "bridge")), uplink},
		"plain, by its own name": {domain(uuidA, "", direct(mac1, "bad", "bridge")), uplink},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, oneFaulty, "nica", "nicb", "nicc")
			parent, err := w.kernel.ByName(t.Context(), "nicb")
			require.NoError(t, err)
			w.kernel.Add(link.Link{Name: "lan7", Kind: "vlan", VLANID: 7, Parent: parent.Index, Up: true})
			before := w.dump()
			_, err = w.run(step.Prepare, c.doc)
			if c.want == "" {
				require.NoError(t, err)
				w.must(step.Start, c.doc)
				w.must(step.Stopped, c.doc)
				w.must(step.Release, c.doc)
				return
			}
			var fault *config.Error
			require.ErrorAs(t, err, &fault)
			require.Equal(t, c.want, fault.Section)
			require.NotZero(t, fault.Line)
			var nic *plan.NICError
			require.ErrorAs(t, err, &nic)
			require.Equal(t, "NIC "+mac1, nic.NIC)
			require.NotEmpty(t, nic.Domain)
			require.Contains(t, err.Error(), c.want)
			require.Equal(t, before, w.dump())
			_, err = w.run(step.Migrate, c.doc)
			require.ErrorAs(t, err, &fault, "nor does it arrive")
		})
	}
}

// Guests on a card whose uplink is faulty have its virtual functions no more than itself.
func TestFaultyUplinkOfVirtualFunctions(t *testing.T) {
	w := newWorld(t, "[uplink.fast]\ndevice = \"ens1f0\"\nvlans = [0]\n", "ens1f0", "ens2f0")
	w.kernel.AddVFs("ens1f0", 2)
	for _, doc := range []string{
		domain(uuidA, vfWords(mac1, "trust='yes'"), direct(mac1, "vf0", "passthrough")),
		domain(uuidA, vfWords(mac1, "trust='yes'"), hostdev(mac1, "0", vlan42)),
		domain(uuidA, vfWords(mac1, "own='hook' mode='passthrough' uplink='fast'"), owned(mac1, "ldt1")),
	} {
		_, err := w.run(step.Prepare, doc)
		require.ErrorIs(t, err, config.ErrConfig, doc)
	}
	w.must(step.Prepare, domain(uuidA, "", direct(mac1, "vf0", "passthrough", vlan42)))
}

// Where VLANs may be made is not known: those that are there serve.
func TestFaultyVLANSection(t *testing.T) {
	for _, cfg := range []string{"[vlan]\ncreate = \"some\"\n", "[valn]\ncreate = \"never\"\n", "[firewall]\ndefault = \"drop\"\n"} {
		w := newWorld(t, cfg, "nica")
		doc := domain(uuidA, "", direct(mac1, "nica.100", "bridge"))
		_, err := w.run(step.Prepare, doc)
		require.ErrorIs(t, err, config.ErrConfig)
		w.must(step.Prepare, domain(uuidB, "<ld:nic mac='"+mac1+"' allmulticast='yes'/>", direct(mac1, "nica", "bridge")))
		parent, err := w.kernel.ByName(t.Context(), "nica")
		require.NoError(t, err)
		w.kernel.Add(link.Link{Name: "nica.100", Kind: "vlan", VLANID: 100, Parent: parent.Index, Up: true})
		w.must(step.Prepare, doc)
	}
	for _, cfg := range []string{"deadline = \"soon\"\n", "[watch]\ndomains = [\"[\"]\n"} {
		w := newWorld(t, cfg, "nica")
		w.must(step.Prepare, domain(uuidA, "", direct(mac1, "nica.100", "bridge")))
	}
}

// A file that is no TOML stops managed guests, and no plain one.
func TestNoConfigurationAtAll(t *testing.T) {
	w := newWorld(t, "", "nica")
	w.hook.Config = func() (*config.Config, error) { return config.Parse("c", []byte("[uplink.a\n")) }
	_, err := w.run(step.Prepare, domain(uuidA, "<ld:nic mac='"+mac1+"' allmulticast='yes'/>", direct(mac1, "nica", "bridge")))
	require.True(t, errors.Is(err, config.ErrConfig))
	w.must(step.Prepare, domain(uuidB, "", direct(mac2, "nica", "bridge")))
}

// Of a guest that runs the NICs are looked after that depend on no faulty section.
func TestReconnectBesideAFaultySection(t *testing.T) {
	w := newWorld(t, "[uplink.lan]\ndevice='nicb'\n", "nica", "nicb")
	doc := domain(uuidA, vfWords(mac1, "own='hook' uplink='lan' mode='bridge'")+vfWords(mac2, "own='hook' dev='nica' mode='bridge'"),
		owned(mac1, "ldt1")+owned(mac2, "ldt2"))
	w.must(step.Prepare, doc)
	w.must(step.Start, doc)
	l, _ := w.kernel.ByName(t.Context(), "ldt2")
	w.kernel.Links[l.Index].Up = false
	faulty, err := config.Parse("", []byte("[uplink.lan]\ndevice='nicb'\nvlan=['1']\n"))
	require.NoError(t, err)
	w.cfg = faulty
	w.must(step.Reconnect, doc)
	if l, _ = w.kernel.ByName(t.Context(), "ldt2"); !l.Up {
		t.Errorf("ldt2 was not taken up again: %s", w.log.String())
	}
	w.must(step.Stopped, doc)
	w.must(step.Release, doc)
	require.Empty(t, w.journals())
}

// A hook-owned port leads to its uplink by what rewrite has kept.
func TestFaultyUplinkOfAHookOwnedPort(t *testing.T) {
	for _, c := range []string{
		"[uplink.lan]\ndevice = \"ovsbr0\"\nvlans = [\"100\"]\n",
		"[uplink.lan]\ndevice = \"ovsbr0\"\nvlan = [\"100\"]\n",
	} {
		w := newWorld(t, c)
		w.withSwitch("ovsbr0")
		w.kernel.Add(link.Link{Name: "ovsbr0", Kind: "openvswitch", MTU: 1500})
		nic, word := wasOnSwitch(mac4, "ldt4", "", "<vlan><tag id='7'/></vlan>")
		_, err := w.run(step.Prepare, domain(uuidA, word, nic))
		require.Error(t, err, c)
		if strings.Contains(c, "vlan =") {
			require.ErrorIs(t, err, config.ErrConfig)
		}
	}
}
