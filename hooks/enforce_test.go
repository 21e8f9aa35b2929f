package hooks

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/plan"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/link"
	"libvirt-direct/xmlfilter"
)

// limited are uplinks of every kind, each with vlans; %[1]s is their enforce.
const limited = `
[uplink.lan]
device = "nica"
also = ["eth9"]
vlans = ["100-199"]
%[1]s
[uplink.none]
device = "nicb"
vlans = []
%[1]s
[uplink.fast]
device = "ens1f0"
vlans = ["100", "42"]
%[1]s
[uplink.flat]
device = "br1"
vlans = ["100"]
%[1]s
[uplink.filtered]
device = "br0"
vlans = ["100"]
%[1]s
[uplink.switch]
device = "ovsbr0"
vlans = ["100"]
%[1]s
[uplink.tunnel]
device = "over.7"
vlans = ["100"]
%[1]s
[uplink.every]
device = "nicd"
vlans = ["1-4000", "4001-4094"]
%[1]s
[uplink.all]
device = "nicc"
%[1]s
`

func newLimitedWorld(t *testing.T, enforce string) *world {
	w := newWorld(t, fmt.Sprintf(limited, enforce), "nica", "nicb", "nicc", "nicd", "nice", "ens1f0", "ovsbr0")
	withBridges(w.kernel)
	w.kernel.AddVFs("ens1f0", 3)
	for name, of := range map[string]struct {
		parent string
		vid    int
	}{"nica.100": {"nica", 100}, "odd": {"nica", 100}, "stray": {"nica", 999}, "over.7": {"nice", 7}} {
		parent, err := w.kernel.ByName(t.Context(), of.parent)
		require.NoError(t, err)
		w.kernel.Add(link.Link{Name: name, Kind: "vlan", VLANID: of.vid, Parent: parent.Index, Up: true})
	}
	above, err := w.kernel.ByName(t.Context(), "stray")
	require.NoError(t, err)
	w.kernel.Add(link.Link{Name: "inner", Kind: "vlan", VLANID: 100, Parent: above.Index, Up: true})
	return w
}

func TestWhoCanTag(t *testing.T) {
	ld := func(attrs string) string { return vfWords(mac1, attrs) }
	vlan := func(id int) string { return fmt.Sprintf("<vlan><tag id='%d'/></vlan>", id) }
	ethernet := func(attrs string) string { return domain(uuidA, ld("own='hook' "+attrs), owned(mac1, "ldt1")) }
	lone := func(nic string) string { return domain(uuidA, "", nic) }
	managed := func(attrs, nic string) string { return domain(uuidA, ld(attrs), nic) }
	wasOVS, wasSettings := wasOnSwitch(mac1, "ldt1", "uplink='switch'", vlan(100))
	const any, itself, noVLAN = "any VLAN tag", "its macvtap is on ", " has no VLAN"

	for name, c := range map[string]struct {
		doc     string
		uplink  string // onto which the guest can send VLANs, "" for none
		what    string
		why     string
		fix     string
		atStart bool // it is refused then, too
	}{
		"bridge mode":                {doc: lone(direct(mac1, "nica", "bridge")), uplink: "lan", what: any, why: itself + "nica itself", fix: "<source dev='nica.N'>"},
		"VEPA":                       {doc: lone(direct(mac1, "nica", "vepa")), uplink: "lan", what: any, why: itself + "nica itself"},
		"private":                    {doc: lone(direct(mac1, "nica", "private")), uplink: "lan", what: any, why: itself + "nica itself"},
		"passthrough of a card":      {doc: lone(direct(mac1, "nica", "passthrough")), uplink: "lan", what: any, why: itself + "nica itself"},
		"no VLANs":                   {doc: lone(direct(mac1, "nicb", "bridge")), uplink: "none", what: any, why: itself + "nicb itself", fix: "give it another device"},
		"by the uplink's name":       {doc: lone(direct(mac1, "lan", "bridge")), uplink: "lan", what: any, why: itself + "nica itself"},
		"by another host's":          {doc: lone(direct(mac1, "eth9", "bridge")), uplink: "lan", what: any, why: itself + "nica itself"},
		"with settings":              {doc: managed("allmulticast='yes'", direct(mac1, "nica", "bridge")), uplink: "lan", what: any, why: itself + "nica itself", fix: "vlan='N'"},
		"uplink in its settings":     {doc: managed("uplink='lan'", direct(mac1, "nica", "bridge")), uplink: "lan", what: any, why: itself + "nica itself"},
		"dev in its settings":        {doc: managed("dev='nica'", direct(mac1, "nica", "bridge")), uplink: "lan", what: any, why: itself + "nica itself"},
		"VLAN":                       {doc: lone(direct(mac1, "nica.100", "bridge"))},
		"VLAN by the uplink":         {doc: lone(direct(mac1, "lan.101", "bridge"))},
		"VLAN of another name":       {doc: lone(direct(mac1, "odd", "bridge"))},
		"VLAN in its settings":       {doc: managed("uplink='lan' vlan='101'", direct(mac1, "nica.101", "bridge"))},
		"VLAN that is not allowed":   {doc: lone(direct(mac1, "stray", "bridge")), uplink: "lan", what: "VLAN 999", why: itself + "stray, which is VLAN 999 of nica", fix: "add it to vlans"},
		"allowed in one that is not": {doc: lone(direct(mac1, "inner", "bridge")), uplink: "lan", what: "VLAN 999", why: itself + "stray, which is VLAN 999 of nica"},
		"uplink that is a VLAN":      {doc: lone(direct(mac1, "over.7", "bridge")), uplink: "tunnel", what: any, why: itself + "over.7 itself"},
		"no uplink":                  {doc: lone(direct(mac1, "nice", "bridge"))},
		"vlans not set":              {doc: lone(direct(mac1, "nicc", "bridge"))},
		"vlans that are all":         {doc: lone(direct(mac1, "nicd", "bridge"))},
		"network's":                  {doc: lone("<interface type='direct'><mac address='" + mac1 + "'/><source network='pool' dev='nica' mode='bridge'/></interface>"), uplink: "lan", what: any, why: itself + "nica itself", atStart: true},
		"hook-owned":                 {doc: ethernet("uplink='lan' mode='bridge'"), uplink: "lan", what: any, why: itself + "nica itself", fix: "vlan='N' in its settings"},
		"hook-owned, by device":      {doc: ethernet("dev='nica'"), uplink: "lan", what: any, why: itself + "nica itself"},
		"hook-owned, uplink first":   {doc: ethernet("uplink='lan' dev='vf1' mode='bridge'"), uplink: "lan", what: any, why: itself + "nica itself"},
		"hook-owned, card":           {doc: ethernet("dev='nica' mode='passthrough'"), uplink: "lan", what: any, why: itself + "nica itself"},
		"hook-owned, VLAN":           {doc: ethernet("uplink='lan' vlan='100'")},
		"hook-owned, VLAN's device":  {doc: ethernet("dev='nica.100'")},
		"hook-owned, stray VLAN":     {doc: ethernet("dev='stray'"), uplink: "lan", what: "VLAN 999", why: itself + "stray, which is VLAN 999 of nica"},
		"hook-owned, any VF":         {doc: ethernet("uplink='fast' mode='passthrough'"), uplink: "fast", what: any, why: "its virtual function" + noVLAN, fix: "vlan='N' in its settings"},
		"hook-owned, VF":             {doc: ethernet("dev='vf1' mode='passthrough'"), uplink: "fast", what: any, why: "VF 1 of ens1f0" + noVLAN},
		"hook-owned, VF with VLAN":   {doc: ethernet("dev='vf1' mode='passthrough' vlan='42'")},
		"hook-owned, any with VLAN":  {doc: ethernet("uplink='fast' mode='passthrough' vlan='42'")},
		"VF":                         {doc: lone(direct(mac1, "vf0", "passthrough")), uplink: "fast", what: any, why: "VF 0 of ens1f0" + noVLAN, fix: "<vlan><tag id='N'/></vlan>"},
		"VF with VLAN 0":             {doc: lone(direct(mac1, "vf0", "passthrough", vlan(0))), uplink: "fast", what: any, why: "VF 0 of ens1f0" + noVLAN},
		"VF with VLAN":               {doc: lone(direct(mac1, "vf0", "passthrough", vlan(42)))},
		"VF with a VLAN's settings":  {doc: managed("vlan='42'", direct(mac1, "vf0", "passthrough"))},
		"VF, not passed through":     {doc: lone(direct(mac1, "vf0", "bridge")), uplink: "fast", what: any, why: "VF 0 of ens1f0" + noVLAN},
		"card with VFs":              {doc: lone(direct(mac1, "ens1f0", "bridge")), uplink: "fast", what: any, why: itself + "ens1f0 itself"},
		"hostdev":                    {doc: lone(hostdev(mac1, "1", "")), uplink: "fast", what: any, why: "VF 1 of ens1f0" + noVLAN},
		"hostdev with settings":      {doc: managed("trust='yes'", hostdev(mac1, "1", "")), uplink: "fast", what: any, why: "VF 1 of ens1f0" + noVLAN},
		"hostdev with VLAN":          {doc: lone(hostdev(mac1, "1", vlan(42)))},
		"hostdev, VLAN in settings":  {doc: managed("vlan='42' trust='yes'", hostdev(mac1, "1", ""))},
		"bridge":                     {doc: managed("isolated='yes'", bridged(mac1, "br1", "vnet0")), uplink: "flat", what: any, why: "br1 does not filter VLANs", fix: "ip link set br1 type bridge vlan_filtering 1"},
		"bridge that filters":        {doc: managed("isolated='yes'", bridged(mac1, "br0", "vnet0"))},
		"macvtap on that":            {doc: lone(direct(mac1, "br0", "bridge"))},
		"macvtap on a bridge":        {doc: lone(direct(mac1, "br1", "bridge")), uplink: "flat", what: any, why: itself + "br1 itself"},
		"Open vSwitch":               {doc: lone(onSwitch(mac1, vlan(100), "<target dev='vnet0'/>"))},
		"hook-owned, Open vSwitch":   {doc: domain(uuidA, wasSettings, wasOVS)},
	} {
		t.Run(name, func(t *testing.T) {
			for _, enforce := range []string{"", "enforce = true"} {
				w := newLimitedWorld(t, enforce)
				d, err := xmlfilter.Parse([]byte(c.doc))
				require.NoError(t, err)
				host, err := Survey(t.Context(), w.kernel, w.cfg, w.hook.records(), d)
				require.NoError(t, err)
				tagging := plan.CanTag(w.cfg, host, &d.NICs[0])
				if c.uplink == "" {
					require.Nil(t, tagging)
				} else {
					require.NotNil(t, tagging)
					require.Equal(t, c.uplink, tagging.Uplink.Name)
					require.Contains(t, tagging.String(), c.what)
					require.Equal(t, c.why, tagging.Why)
					require.Contains(t, tagging.Fix, c.fix)
					require.Contains(t, plan.Describe(d, w.cfg, host, &d.NICs[0]), "; "+tagging.String())
				}

				refusing := map[step.Op]bool{}
				if enforce != "" && c.uplink != "" {
					refusing[step.Prepare], refusing[step.Start] = true, c.atStart
				}
				for _, op := range []step.Op{step.Prepare, step.Start, step.Reconnect} {
					_, err := plan.For(op, d, w.cfg, host)
					if !refusing[op] {
						require.NoError(t, err, op)
						continue
					}
					require.ErrorIs(t, err, plan.ErrNotAllowed)
					require.ErrorContains(t, err, `domain "vm a", NIC `+mac1+`: not allowed on this host: it `+tagging.String()+"; "+tagging.Fix+", or leave enforce out of [uplink."+c.uplink+"] in ")
				}
				host.Running = true
				for _, op := range []step.Op{step.Prepare, step.Start, step.Reconnect} {
					_, err := plan.For(op, d, w.cfg, host)
					require.NoError(t, err, "a running guest is never refused")
				}
			}
		})
	}
}

// A tap that the hook does not make and has no settings for is not refused, but explain tells.
func TestTapOfNobody(t *testing.T) {
	w := newLimitedWorld(t, "enforce = true")
	doc := domain(uuidA, "", bridged(mac1, "br1", ""))
	w.must(step.Prepare, doc)
	d, err := xmlfilter.Parse([]byte(doc))
	require.NoError(t, err)
	host, err := Survey(t.Context(), w.kernel, w.cfg, w.hook.records(), d)
	require.NoError(t, err)
	require.Equal(t, `type='bridge', not ours; can send any VLAN tag onto uplink "flat", whose vlans are 100: br1 does not filter VLANs`,
		plan.Describe(d, w.cfg, host, &d.NICs[0]))
}

// Of the uplinks that have one device the one that enforces its vlans is meant.
func TestOneUplinkOfTwoEnforces(t *testing.T) {
	w := newWorld(t, "[uplink.a]\ndevice = 'nica'\nvlans = ['1']\n[uplink.b]\npci = '0000:03:00.0'\nvlans = ['2']\nenforce = true\n[uplink.c]\nmac = '52:54:00:00:00:77'\nvlans = []\n", "nica")
	w.kernel.PCI["0000:03:00.0"] = "nica"
	_, err := w.run(step.Prepare, domain(uuidA, "", direct(mac1, "nica", "bridge")))
	require.ErrorIs(t, err, plan.ErrNotAllowed)
	require.ErrorContains(t, err, `uplink "b", whose vlans are 2`)
}

// Who runs already goes on, and what is missing of it is put right; what is refused leaves
// nothing behind.
func TestEnforceInAGuestsLife(t *testing.T) {
	for name, doc := range map[string]string{
		"plain":      domain(uuidA, "", direct(mac1, "nica", "bridge")),
		"managed":    domain(uuidA, vfWords(mac1, "uplink='lan'"), direct(mac1, "nica", "bridge")),
		"network's":  domain(uuidA, "", "<interface type='direct'><mac address='"+mac1+"'/><source network='pool' dev='nica' mode='bridge'/></interface>"),
		"hook-owned": domain(uuidA, vfWords(mac1, "own='hook' uplink='lan'"), owned(mac1, "ldt1")),
		"VF":         domain(uuidA, "", direct(mac1, "vf0", "passthrough")),
		"hostdev":    domain(uuidA, "", hostdev(mac1, "0", "")),
	} {
		t.Run(name, func(t *testing.T) {
			w := newLimitedWorld(t, "")
			w.must(step.Prepare, doc)
			w.must(step.Start, doc)
			w.cfg = newLimitedWorld(t, "enforce = true").cfg
			w.log.Reset()
			w.must(step.Reconnect, doc)
			require.NotContains(t, w.log.String(), "goes on, but")
			w.must(step.Stopped, doc)
			w.must(step.Release, doc)

			before := w.all()
			_, err := w.run(step.Prepare, doc)
			if err == nil {
				_, err = w.run(step.Start, doc)
			}
			require.ErrorIs(t, err, plan.ErrNotAllowed)
			_, _ = w.run(step.Stopped, doc)
			w.must(step.Release, doc)
			require.Equal(t, before, w.all())
			require.Empty(t, w.journals())
		})
	}
}

// What refuses a plain guest is the plan. A host of which nothing can be known refuses none.
func TestEnforceOnABrokenHost(t *testing.T) {
	w := newLimitedWorld(t, "enforce = true")
	doc := domain(uuidA, "", direct(mac1, "nica", "bridge"))
	unlock, err := w.hook.Journal.Lock(t.Context(), claimsLock)
	if err == nil {
		t.Cleanup(unlock)
	}
	_, err = w.run(step.Prepare, doc)
	require.ErrorIs(t, err, plan.ErrNotAllowed, "whoever else is at work")
	w.hook.Kernel = func() (step.Kernel, func(), error) { return nil, nil, errors.New("no netlink socket") }
	w.must(step.Prepare, doc)
}
