package hooks

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/plan"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/link"
	"libvirt-direct/xmlfilter"
)

const tunnels = `
[uplink.lan]
device = "enpb"
also = ["nica"]
vlans = ["10-19"]
`

// stack returns of a device the VLANs below it and the device that they are on:
// "enpb 10 20".
func (w *world) stack(name string) string {
	w.t.Helper()
	l, err := w.kernel.ByName(w.t.Context(), name)
	require.NoError(w.t, err, name)
	if l.Kind != "vlan" {
		return l.Name
	}
	parent, err := w.kernel.ByIndex(w.t.Context(), l.Parent)
	require.NoError(w.t, err, name)
	return w.stack(parent.Name) + " " + itoa(l.VLANID)
}

func (w *world) explained(doc string) string {
	w.t.Helper()
	d, err := xmlfilter.Parse([]byte(doc))
	require.NoError(w.t, err)
	host, err := Survey(w.t.Context(), w.kernel, w.cfg, w.hook.records(), d)
	require.NoError(w.t, err)
	var out bytes.Buffer
	require.NoError(w.t, Explain(&out, "", d, w.cfg, host))
	return out.String()
}

// A name of several VLANs, one in the other, says which devices are missing. They are made
// from the outside in, and removed from the inside out.
func TestVLANsInVLANs(t *testing.T) {
	for name, c := range map[string]struct {
		cfg, words string
		nic        string
		device     string // on which the macvtap stands
		stack      string
		rewritten  bool // it has to be, before
	}{
		"two":                    {nic: direct(mac1, "nica.10.20", "bridge"), device: "nica.10.20", stack: "nica 10 20"},
		"three":                  {nic: direct(mac1, "nica.10.20.30", "bridge"), device: "nica.10.20.30", stack: "nica 10 20 30"},
		"in the uplink's":        {cfg: tunnels, nic: direct(mac1, "enpb.10.20", "bridge"), device: "enpb.10.20", stack: "enpb 10 20"},
		"by the uplink's name":   {cfg: tunnels, nic: direct(mac1, "lan.10.20", "bridge"), device: "lan.10.20", stack: "enpb 10 20"},
		"three, by its name":     {cfg: tunnels, nic: direct(mac1, "lan.10.20.30", "bridge"), device: "lan.10.20.30", stack: "enpb 10 20 30"},
		"<vlan> on two":          {nic: direct(mac1, "nica.10.20", "bridge", "<vlan><tag id='30'/></vlan>"), device: "nica.10.20.30", stack: "nica 10 20 30", rewritten: true},
		"<vlan> on one":          {nic: direct(mac1, "nica.10", "bridge", "<vlan><tag id='20'/></vlan>"), device: "nica.10.20", stack: "nica 10 20", rewritten: true},
		"<vlan> says the same":   {nic: direct(mac1, "nica.10.20", "bridge", "<vlan><tag id='20'/></vlan>"), device: "nica.10.20", stack: "nica 10 20", rewritten: true},
		"settings on one":        {words: "dev='nica.10' vlan='20'", nic: direct(mac1, "nica.10", "bridge"), device: "nica.10.20", stack: "nica 10 20", rewritten: true},
		"settings say the same":  {words: "vlan='20'", nic: direct(mac1, "nica.10.20", "bridge"), device: "nica.10.20", stack: "nica 10 20"},
		"uplink in its settings": {cfg: tunnels, words: "uplink='lan'", nic: direct(mac1, "other.10.20", "bridge"), device: "enpb.10.20", stack: "enpb 10 20", rewritten: true},
		"hook-owned, by dev":     {words: "own='hook' dev='nica.10' vlan='20' mode='bridge'", nic: owned(mac1, "ldt1"), device: "nica.10.20", stack: "nica 10 20"},
		"hook-owned, on the two": {words: "own='hook' dev='nica.10.20' mode='bridge'", nic: owned(mac1, "ldt1"), device: "nica.10.20", stack: "nica 10 20"},
		"to be hook-owned":       {words: "own='hook'", nic: direct(mac1, "nica.10.20", "bridge"), device: "nica.10.20", stack: "nica 10 20", rewritten: true},
		"hook-owned, by uplink":  {cfg: tunnels, words: "own='hook' dev='lan.10' vlan='20' mode='bridge'", nic: owned(mac1, "ldt1"), device: "enpb.10.20", stack: "enpb 10 20"},
		"a long name":            {nic: direct(mac1, "enp129s0f0np0.1", "bridge", "<vlan><tag id='20'/></vlan>"), stack: "enp129s0f0np0 1 20", rewritten: true},
		"a long name, by uplink": {cfg: strings.ReplaceAll(tunnels, "enpb", "enp129s0f0np0"), nic: direct(mac1, "lan.10.20", "bridge"), stack: "enp129s0f0np0 10 20", rewritten: false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, c.cfg, "nica", "enpb", "enp129s0f0np0")
			if c.cfg != "" {
				w = newWorld(t, c.cfg, "enpb", "enp129s0f0np0")
			}
			before := w.dump()
			if c.words != "" {
				c.words = vfWords(mac1, c.words)
			}
			doc := domain(uuidA, c.words, c.nic)
			if c.rewritten {
				_, err := w.run(step.Prepare, doc)
				require.ErrorIs(t, err, plan.ErrNotRewritten)
				doc, err = w.rewritten(doc)
				require.NoError(t, err)
			}
			if c.device == "" {
				c.device = strings.Split(strings.Split(doc[strings.Index(doc, "<devices>"):], "<source dev='")[1], "'")[0]
			}
			again, err := w.rewritten(doc)
			require.NoError(t, err)
			w.must(step.Prepare, doc)
			require.Equal(t, c.stack, w.stack(c.device))
			if again != doc { // what rewrite makes of it means the same
				made := w.dump()
				w.must(step.Release, doc)
				w.must(step.Prepare, again)
				require.Equal(t, len(strings.Split(made, "\n")), len(strings.Split(w.dump(), "\n")))
			}
			w.must(step.Release, doc)
			require.Equal(t, before, w.dump())
			require.Empty(t, w.journals())
		})
	}
}

func itoa(n int) string { return strconv.Itoa(n) }

// The manual's `virsh metadata --set` replaces what rewrite has noted: its <source> is then of
// another VLAN, and no VLAN in that is made.
func TestVLANOfASourceInAnother(t *testing.T) {
	for name, c := range map[string]struct{ cfg, words, source string }{
		"settings": {"", "vlan='200'", "nica.100"}, "profile": {"[profile.p]\nvlan = 200\n", "profile='p'", "nica.100"},
		"hook-owned": {"", "vlan='200' own='hook'", "nica.100"}, "not there": {"", "vlan='200'", "enpb.7"}, "odd name": {"", "vlan='200'", "tenants"},
	} {
		w := newWorld(t, c.cfg, "nica", "enpb")
		parent, err := w.kernel.ByName(t.Context(), "nica")
		require.NoError(t, err)
		for i, vlan := range []string{"nica.100", "tenants"} {
			w.kernel.Add(link.Link{Name: vlan, Kind: "vlan", VLANID: 100 + i, Parent: parent.Index, Up: true})
		}
		doc := domain(uuidA, vfWords(mac1, c.words), direct(mac1, c.source, "bridge"))
		_, err = w.rewritten(doc)
		require.ErrorContains(t, err, "say dev='", name)
		_, err = w.run(step.Prepare, doc)
		require.Error(t, err, name)
		if name == "settings" {
			require.ErrorContains(t, err, "its <source> is VLAN 100 of nica, and its settings say vlan='200' and no device; say dev='nica' there for VLAN 200, or <source dev='nica.100.200'/> for VLAN 200 in VLAN 100")
		}
	}
}

// A device in the settings, without a VLAN, does not silently take the VLAN away that <source>
// names, at the start or by rewriting.
func TestDevOfASourceInAVLAN(t *testing.T) {
	for _, words := range []string{"dev='nica'", "dev='enpb'", "dev='nica' own='hook'"} {
		for _, source := range []string{"nica.10", "nica.10.20", "other.10"} {
			w := newWorld(t, "", "nica", "enpb")
			_, err := w.rewritten(domain(uuidA, vfWords(mac1, words), direct(mac1, source, "bridge")))
			require.ErrorContains(t, err, "its <source> is VLAN ", "%s %s", words, source)
			require.ErrorContains(t, err, "and no VLAN; say vlan='")
			_, err = w.run(step.Prepare, domain(uuidA, vfWords(mac1, words), direct(mac1, source, "bridge")))
			require.Error(t, err)
		}
	}
	w := newWorld(t, "", "nica", "enpb")
	for words, want := range map[string]string{
		"dev='enpb' vlan='10'": "enpb.10", "dev='enpb.10'": "enpb.10", "dev='nica.10'": "nica.10", "dev='enpb' vlan='20'": "enpb.20",
	} {
		out, err := w.rewritten(domain(uuidA, vfWords(mac1, words), direct(mac1, "nica.10", "bridge")))
		require.NoError(t, err, words)
		require.Contains(t, out, "<source dev='"+want+"'", words)
	}
}

// A VLAN of one device is not made under the name of another device's VLAN: the next guest that
// names that one would be in the wrong network.
func TestVLANIsNotCalledAsAnothersVLAN(t *testing.T) {
	for name, c := range map[string]struct{ cfg, words, source string }{
		"dev":                 {"", "dev='enpb' vlan='10'", "nica.10"},
		"uplink":              {tunnels, "uplink='lan' vlan='10'", "nicb.10"},
		"by an uplink's name": {tunnels, "dev='nicb' vlan='10'", "lan.10"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, c.cfg, "nica", "nicb", "enpb")
			doc := domain(uuidA, vfWords(mac1, c.words), direct(mac1, c.source, "bridge"))
			_, err := w.run(step.Prepare, doc)
			require.ErrorIs(t, err, plan.ErrNotRewritten)
			require.False(t, w.has(c.source))
			out, err := w.rewritten(doc)
			require.NoError(t, err)
			w.must(step.Prepare, out)
			w.must(step.Prepare, domain(uuidB, "", direct(mac2, c.source, "bridge")))
			parent, _, _ := strings.Cut(c.source, ".")
			if parent == "lan" {
				parent = "enpb"
			}
			require.Equal(t, parent+" 10", w.stack(c.source))
		})
	}
}

// What several guests stand on goes with the last, at each level.
func TestVLANsInVLANsAreShared(t *testing.T) {
	inner := domain(uuidA, "", direct(mac1, "nica.10.20", "bridge"))
	for name, other := range map[string]string{
		"the same":      domain(uuidB, "", direct(mac2, "nica.10.20", "bridge")),
		"the outer":     domain(uuidB, "", direct(mac2, "nica.10", "bridge")),
		"another in it": domain(uuidB, "", direct(mac2, "nica.10.21", "bridge")),
		"below":         domain(uuidB, "", direct(mac2, "nica.10.20.30", "bridge")),
	} {
		t.Run(name, func(t *testing.T) {
			for _, order := range [][]string{{inner, other}, {other, inner}} {
				for _, ends := range [][]int{{0, 1}, {1, 0}} {
					w := newWorld(t, "", "nica")
					before := w.dump()
					w.must(step.Prepare, order[0])
					w.must(step.Prepare, order[1])
					w.must(step.Release, order[ends[0]])
					left := order[ends[1]]
					w.must(step.Reconnect, left)
					dev := strings.Split(strings.Split(left, "<source dev='")[1], "'")[0]
					require.Equal(t, strings.ReplaceAll(dev, ".", " "), w.stack(dev))
					w.must(step.Release, left)
					require.Equal(t, before, w.dump())
					require.Empty(t, w.journals())
				}
			}
		})
	}
}

// An outer VLAN of the administrator's stays, and what is in it is ours alone.
func TestVLANInTheAdministratorsVLAN(t *testing.T) {
	for name, outer := range map[string]link.Link{
		"by that name": {Name: "nica.10", Kind: "vlan", VLANID: 10},
		"another VLAN": {Name: "nica.10", Kind: "vlan", VLANID: 99},
		"no VLAN":      {Name: "nica.10", Kind: "bridge"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "", "nica")
			nica, err := w.kernel.ByName(t.Context(), "nica")
			require.NoError(t, err)
			outer.MTU, outer.Up = 1500, true
			if outer.Kind == "vlan" {
				outer.Parent = nica.Index
			}
			w.kernel.Add(outer)
			before := w.dump()
			doc := domain(uuidA, "", direct(mac1, "nica.10.20", "bridge"))
			w.must(step.Prepare, doc)
			want := "nica.10 20"
			if outer.Kind == "vlan" {
				want = "nica " + itoa(outer.VLANID) + " 20"
			}
			require.Equal(t, want, w.stack("nica.10.20"))
			w.must(step.Release, doc)
			require.Equal(t, before, w.dump())
		})
	}
}

// What the configuration forbids is refused before anything is made; vlans are the tags that
// leave by the uplink, the outermost.
func TestVLANsInVLANsThatAreNotAllowed(t *testing.T) {
	for name, c := range map[string]struct {
		cfg, dev, says string
		there          []string // VLANs that are there already, outermost first
	}{
		"outer not listed":        {tunnels, "enpb.20.10", `VLAN 20 on uplink "lan"`, nil},
		"outer not listed, there": {tunnels, "enpb.20.10", `VLAN 20 on uplink "lan"`, []string{"enpb.20"}},
		"inner not listed":        {tunnels, "enpb.10.20", "", nil},
		"inner not listed, there": {tunnels, "enpb.10.20", "", []string{"enpb.10", "enpb.10.20"}},
		"by the uplink's name":    {tunnels, "lan.20.10", `VLAN 20 on uplink "lan"`, nil},
		"enforced":                {tunnels + "enforce = true\n", "enpb.20.10", `VLAN 20 on uplink "lan"`, nil},
		"enforced, allowed":       {tunnels + "enforce = true\n", "enpb.10.20", "", nil},
		"never":                   {"[vlan]\ncreate = 'never'\n", "enpb.10.20", "enpb.10 is not there", nil},
		"never, outer there":      {"[vlan]\ncreate = 'never'\n", "enpb.10.20", "enpb.10.20 is not there", []string{"enpb.10"}},
		"never, both there":       {"[vlan]\ncreate = 'never'\n", "enpb.10.20", "", []string{"enpb.10", "enpb.10.20"}},
		"never, by uplink":        {tunnels + "[vlan]\ncreate = 'never'\n", "lan.10.20", "", []string{"enpb.10", "enpb.10.20"}},
		"never, one by uplink":    {tunnels + "[vlan]\ncreate = 'never'\n", "lan.10", "", []string{"enpb.10"}},
		"uplinks":                 {"[vlan]\ncreate = 'uplinks'\n", "enpb.10.20", "enpb is no uplink", nil},
		"uplinks, on one":         {tunnels + "[vlan]\ncreate = 'uplinks'\n", "enpb.10.20", "", nil},
		"an uplink in a VLAN":     {"[uplink.in]\ndevice = 'enpb.10'\nvlans = ['7']\n", "enpb.10.20", `VLAN 20 on uplink "in"`, []string{"enpb.10"}},
		"no bottom":               {"", "eth9.10.20", `"eth9.10.20"; say what it is here`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, c.cfg, "enpb")
			for _, dev := range c.there {
				i := strings.LastIndexByte(dev, '.')
				parent, err := w.kernel.ByName(t.Context(), dev[:i])
				require.NoError(t, err)
				vid, err := strconv.Atoi(dev[i+1:])
				require.NoError(t, err)
				w.kernel.Add(link.Link{Name: dev, Kind: "vlan", VLANID: vid, Parent: parent.Index, MTU: 1500, Up: true})
			}
			before := w.dump()
			doc := domain(uuidA, "", direct(mac1, c.dev, "bridge"))
			_, err := w.run(step.Prepare, doc)
			if c.says == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.says)
			require.Contains(t, w.explained(doc), "refused: ")
			require.Equal(t, before, w.dump())
			require.Empty(t, w.journals())
		})
	}
}

// Killed at any change, the devices go with gc or with the next end.
func TestVLANsInVLANsKilledAnywhere(t *testing.T) {
	doc := domain(uuidA, "", direct(mac1, "nica.10.20.30", "bridge"))
	for _, op := range []step.Op{step.Prepare, step.Release} {
		for _, after := range []bool{false, true} {
			for n, died := 1, true; died; n++ {
				for _, cure := range []string{"gc", "restart", "release"} {
					w := newWorld(t, "", "nica")
					before := w.dump()
					if op == step.Release {
						w.must(step.Prepare, doc)
					}
					if died = w.kill(op, doc, n, after); !died {
						require.Greater(t, n, 3)
						break
					}
					switch cure {
					case "gc":
						w.gc(false)
						w.gc(false)
					case "restart":
						w.must(step.Prepare, doc)
						w.must(step.Release, doc)
					case "release":
						w.must(step.Release, doc)
					}
					require.Equal(t, before, w.dump(), "%s killed at %d (after=%t), then %s", op, n, after, cure)
					require.Empty(t, w.journals())
				}
			}
		}
	}
}

// When /run was lost gc removes them all at once.
func TestVLANsInVLANsWithoutJournal(t *testing.T) {
	w := newWorld(t, "", "nica")
	before := w.dump()
	w.must(step.Prepare, domain(uuidA, "", direct(mac1, "nica.10.20.30", "bridge")))
	require.NoError(t, os.RemoveAll(w.journal))
	require.Len(t, w.gc(true), 1, "the others are in use")
	require.Len(t, w.gc(false), 3)
	require.Equal(t, before, w.dump())
}

// The other host's name of an uplink stands at the bottom of such a name, too.
func TestVLANsInVLANsMove(t *testing.T) {
	w := newWorld(t, tunnels, "enpb")
	for _, op := range []step.Op{step.Migrate, step.Restore} {
		for _, dev := range []string{"nica.10.20", "lan.10.20"} {
			out := w.must(op, domain(uuidA, "", direct(mac1, dev, "bridge")))
			if dev == "nica.10.20" {
				require.Contains(t, out, "<source dev='enpb.10.20'", dev)
			}
			if out == "" {
				out = domain(uuidA, "", direct(mac1, dev, "bridge"))
			}
			require.Empty(t, w.must(op, out))
			w.must(step.Prepare, out)
			require.Equal(t, "enpb 10 20", w.stack("enpb.10.20"))
			w.must(step.Release, out)
			require.False(t, w.has("enpb.10"))
		}
	}
}
