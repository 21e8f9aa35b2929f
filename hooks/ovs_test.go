package hooks

import (
	"cmp"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/hooktest"
	"libvirt-direct/hooks/plan"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/ovs"
	"libvirt-direct/xmlfilter"
)

const interfaceID = "09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f"

// onSwitch is a NIC on Open vSwitch; more is what else its <interface> has.
func onSwitch(mac string, more ...string) string {
	return "<interface type='bridge'><mac address='" + mac + "'/><source bridge='ovsbr0'/><virtualport type='openvswitch'>" +
		"<parameters interfaceid='" + interfaceID + "'/></virtualport>" + strings.Join(more, "") + "</interface>"
}

// wasOnSwitch is the same once it is hook-owned, with its words.
func wasOnSwitch(mac, target, words string, more ...string) (nic, word string) {
	return owned(mac, target), "<ld:nic mac='" + mac + "' own='hook' " + words + "><ld:was type='bridge'><source bridge='ovsbr0'/>" +
		"<virtualport type='openvswitch'><parameters interfaceid='" + interfaceID + "'/></virtualport>" + strings.Join(more, "") + "</ld:was></ld:nic>"
}

const switchProfiles = `
[uplink.fabric]
device = "ovsbr0"
vlans = ["100-199"]
[profile.shaped]
vlan = 110
[profile.shaped.ovs]
ingressrate = 20000
ingressburst = 1600
minrate = 10
maxrate = 50
mtu = 1400
mirror = "tap-ids"
[profile.tunnel.ovs]
tunnel = true
[profile.trunk]
trunk = "100-102"
native = "tagged"
[profile.ovn.ovs]
ovn = true
`

func (w *world) withSwitch(bridge string) {
	w.ovs = hooktest.NewOVS(bridge)
	w.ovs.Others = []string{"tap-ids"}
	w.ovs.Gate = w.gate
	w.hook.OVS = w.openSwitch
}

// libvirt makes the port between prepare and start, and removes it between stopped and
// release.
func TestAssistedOVSPort(t *testing.T) {
	w := newWorld(t, switchProfiles, "ovsbr0")
	w.withSwitch("ovsbr0")
	doc := domain(uuidA, "<ld:nic mac='"+mac1+"' profile='shaped' ifaceid='lsp one'/>", onSwitch(mac1, "<target dev='vnet3'/>"))
	w.must(step.Prepare, doc)
	require.Empty(t, w.journals())
	_, err := w.run(step.Start, doc)
	require.ErrorIs(t, err, ovs.ErrNoPort)
	require.Empty(t, w.journals(), "a start that failed holds nothing")

	w.ovs.ByName["vnet3"] = ovs.Port{Name: "vnet3", Bridge: "ovsbr0"}
	w.must(step.Start, doc)
	tag := 110
	want := ovs.Port{
		Name: "vnet3", Bridge: "ovsbr0", Owner: uuidA, IDs: map[string]string{"iface-id": "lsp one"}, VLAN: &ovs.VLAN{Tag: &tag}, MTU: 1400,
		IngressRate: 20000, IngressBurst: 1600, QoS: &ovs.QoS{Type: "linux-htb", MinRate: 10_000_000, MaxRate: 50_000_000}, Mirror: "tap-ids",
	}
	require.Equal(t, want, w.ovs.ByName["vnet3"])
	require.Empty(t, w.gc(false, uuidA))
	w.must(step.Reconnect, doc)
	require.Equal(t, want, w.ovs.ByName["vnet3"])

	// libvirt has removed it, and another guest has the name by now.
	w.must(step.Stopped, doc)
	w.ovs.ByName["vnet3"] = ovs.Port{Name: "vnet3", Bridge: "ovsbr0", Owner: uuidB}
	w.must(step.Release, doc)
	require.Equal(t, uuidB, w.ovs.ByName["vnet3"].Owner)
	require.Empty(t, w.journals())
}

func TestOVSWaits(t *testing.T) {
	w := newWorld(t, switchProfiles, "br-int")
	w.withSwitch("br-int")
	nic := strings.ReplaceAll(onSwitch(mac1, "<target dev='vnet0'/>"), "ovsbr0", "br-int")
	doc := domain(uuidA, "<ld:nic mac='"+mac1+"' profile='ovn'/>", nic)
	w.ovs.ByName["vnet0"] = ovs.Port{Name: "vnet0", Bridge: "br-int"}
	w.must(step.Start, doc)
	require.Equal(t, []string{"vnet0"}, w.ovs.Waited)
	w.must(step.Reconnect, doc)
	require.Len(t, w.ovs.Waited, 1, "a running guest waits for nothing")
}

func TestHookOwnedOVSPort(t *testing.T) {
	w := newWorld(t, switchProfiles, "ovsbr0")
	w.withSwitch("ovsbr0")
	before := w.kernel.Dump()
	d, err := xmlfilter.Parse([]byte(domain(uuidA, "<ld:nic mac='"+mac1+"' profile='tunnel' own='hook'/>",
		onSwitch(mac1, "<vlan><tag id='100'/></vlan>", "<driver queues='2'/>", "<mtu size='1400'/>"))))
	require.NoError(t, err)
	_, err = w.run(step.Prepare, domain(uuidA, "<ld:nic mac='"+mac1+"' own='hook'/>", onSwitch(mac1)))
	require.ErrorIs(t, err, plan.ErrNotRewritten)
	// The filter for migration keeps what the hook reads, as rewriting does.
	host, err := Survey(t.Context(), w.kernel, w.cfg, w.hook.records(), d)
	require.NoError(t, err)
	changes, err := plan.Rewrite(d, w.cfg, host)
	require.NoError(t, err)
	out, err := d.Rewrite(changes)
	require.NoError(t, err)
	doc := string(out)
	w.must(step.Prepare, doc)
	name := changes[0].Ethernet
	tag := 100
	require.Equal(t, map[string]ovs.Port{name: {
		Name: name, Bridge: "ovsbr0", Owner: uuidA, VLAN: &ovs.VLAN{Mode: "dot1q-tunnel", Tag: &tag},
		IDs: map[string]string{"attached-mac": mac1, "iface-id": interfaceID, "vm-id": uuidA, "iface-status": "active"},
	}}, w.ovs.ByName)
	l, err := w.kernel.ByName(t.Context(), name)
	require.NoError(t, err)
	require.False(t, l.Up, "until the guest runs")
	require.Equal(t, 1400, l.MTU)
	require.Equal(t, step.Alias+" "+uuidA, l.Alias)
	w.must(step.Start, doc)
	held := func() string {
		all, err := Status(t.Context(), w.kernel, w.ovs, w.hook.Journal)
		require.NoError(t, err)
		require.Len(t, all, 1)
		return all[0].Held[1].Holds() + ": " + all[0].Held[1].Difference
	}
	require.Equal(t, "Open vSwitch port "+name+" on ovsbr0: ", held())
	delete(w.ovs.ByName, name) // somebody's ovs-vsctl
	require.Equal(t, "Open vSwitch port "+name+" on ovsbr0: gone", held())
	w.must(step.Reconnect, doc)
	require.Contains(t, w.ovs.ByName, name)
	w.must(step.Stopped, doc)
	l, err = w.kernel.ByName(t.Context(), name)
	require.NoError(t, err)
	require.False(t, l.Up)
	w.must(step.Release, doc)
	require.Empty(t, w.ovs.ByName)
	require.Equal(t, before, w.kernel.Dump())
	require.Empty(t, w.journals())
}

// Another host's bridge is found by its uplink, for either owner, there and back.
func TestOVSBridgeIsMapped(t *testing.T) {
	conf := func(here, there string) string {
		return "[uplink.fabric]\ndevice = '" + here + "'\nalso = ['" + there + "']\n"
	}
	for _, own := range []string{"", "<ld:nic mac='" + mac1 + "' own='hook'/>"} {
		a, b := newWorld(t, conf("ovsbr0", "br-b"), "ovsbr0"), newWorld(t, conf("br-b", "ovsbr0"), "br-b")
		b.withSwitch("br-b")
		doc, err := a.rewritten(domain(uuidA, own, onSwitch(mac1, "<target dev='vnet0'/>")))
		require.NoError(t, err)
		there := cmp.Or(b.must(step.Migrate, doc), doc) // hook-owned: its settings name the uplink
		b.ovs.ByName["vnet0"] = ovs.Port{Name: "vnet0", Bridge: "br-b"}
		b.must(step.Prepare, there)
		b.must(step.Start, there)
		if own == "" {
			require.Contains(t, there, "<source bridge='br-b'/>")
			require.Equal(t, uuidA, b.ovs.ByName["vnet0"].Owner)
		} else {
			require.Len(t, b.ovs.ByName, 2)
		}
		back := cmp.Or(a.must(step.Migrate, there), there)
		a.ovs.ByName["vnet0"] = ovs.Port{Name: "vnet0", Bridge: "ovsbr0"}
		a.must(step.Prepare, back)
		a.must(step.Start, back)
		for _, p := range a.ovs.ByName {
			require.Equal(t, "ovsbr0", p.Bridge)
		}
		require.Equal(t, own == "", len(a.ovs.ByName) == 1)
		require.Empty(t, a.must(step.Migrate, back), "what was mapped needs no mapping")
	}
}

func TestOVSVLANsAreChecked(t *testing.T) {
	word := func(text string) string { return "<ld:nic mac='" + mac1 + "' " + text + "/>" }
	for name, c := range map[string]struct {
		words, more string
		want        error
	}{
		"access":                  {"", "<vlan><tag id='100'/></vlan>", nil},
		"not allowed":             {"", "<vlan><tag id='99'/></vlan>", plan.ErrNotAllowed},
		"trunk":                   {"", "<vlan trunk='yes'><tag id='100'/><tag id='101'/></vlan>", nil},
		"trunk with one too many": {"", "<vlan trunk='yes'><tag id='100'/><tag id='200'/></vlan>", plan.ErrNotAllowed},
		"native":                  {"", "<vlan><tag id='100' nativeMode='untagged'/><tag id='101'/></vlan>", nil},
		"all of them":             {"", "", plan.ErrNotAllowed},
		"by profile":              {word("profile='shaped'"), "", nil},
		"trunk by profile":        {word("profile='trunk' vlan='101'"), "", nil},
		"native not allowed":      {word("profile='trunk' vlan='99'"), "", plan.ErrNotAllowed},
		"said twice":              {word("profile='shaped'"), "<vlan><tag id='100'/></vlan>", step.ErrUnsuitable},
		"tunnel without tag":      {word("profile='tunnel'"), "", step.ErrUnsuitable},
		"tunnel":                  {word("profile='tunnel'"), "<vlan><tag id='100'/></vlan>", nil},
		"trunk by word":           {word("trunk='100,105'"), "", nil},
		"native without trunk":    {word("native='tagged' vlan='100'"), "", step.ErrUnsuitable},
		"a Linux bridge's word":   {word("hairpin='yes'"), "<vlan><tag id='100'/></vlan>", step.ErrUnsuitable},
		"isolated":                {word("isolated='yes'"), "<vlan><tag id='100'/></vlan>", nil},
		"tunnel and trunk":        {word("profile='tunnel' trunk='100'"), "", step.ErrUnsuitable},
		"another uplink":          {word("uplink='other'"), "<vlan><tag id='100'/></vlan>", plan.ErrNotRewritten},
		"two bandwidths":          {word("profile='shaped'"), "<bandwidth/>", step.ErrUnsuitable},
	} {
		w := newWorld(t, switchProfiles+"[uplink.other]\ndevice='eth0'\n", "ovsbr0", "eth0")
		w.withSwitch("ovsbr0")
		w.ovs.ByName["vnet0"] = ovs.Port{Name: "vnet0", Bridge: "ovsbr0"}
		doc := domain(uuidA, c.words, onSwitch(mac1, "<target dev='vnet0'/>", c.more))
		for _, op := range []step.Op{step.Prepare, step.Start} { // a libvirt network's bridge is known at start only
			_, err := w.run(op, doc)
			if c.want == nil {
				require.NoError(t, err, name)
			} else {
				require.ErrorIs(t, err, c.want, name)
			}
		}
	}
}

func TestOVSWordsElsewhereAreRefused(t *testing.T) {
	w := newWorld(t, switchProfiles, "nica")
	w.withSwitch("ovsbr0")
	for _, nic := range []string{direct(mac1, "nica", "bridge"), "<interface type='bridge'><mac address='" + mac1 + "'/><source bridge='br0'/></interface>"} {
		_, err := w.run(step.Prepare, domain(uuidA, "<ld:nic mac='"+mac1+"' profile='ovn'/>", nic))
		require.ErrorIs(t, err, step.ErrUnsuitable)
	}
	// A libvirt network shows at start what it is.
	network := "<interface type='network'><mac address='" + mac1 + "'/><source network='default'/></interface>"
	w.must(step.Prepare, domain(uuidA, "<ld:nic mac='"+mac1+"' ifaceid='x'/>", network))
	_, err := w.run(step.Start, domain(uuidA, "<ld:nic mac='"+mac1+"' ifaceid='x'/>", network))
	require.ErrorIs(t, err, step.ErrUnsuitable)
	_, err = w.run(step.Prepare, domain(uuidA, "<ld:nic mac='"+mac1+"' profile='tunnel' own='hook'/>", network))
	require.ErrorIs(t, err, step.ErrUnsuitable)
}

// libvirt reads the first <source>. Without a bridge there nothing would tell what the NIC was.
func TestOVSWithoutBridgeIsNotOwned(t *testing.T) {
	w := newWorld(t, switchProfiles, "ovsbr0")
	w.withSwitch("ovsbr0")
	nic := strings.Replace(onSwitch(mac1), "<source ", "<source dev='other'/><source ", 1)
	_, err := w.rewritten(domain(uuidA, "<ld:nic mac='"+mac1+"' own='hook'/>", nic))
	require.ErrorIs(t, err, step.ErrUnsuitable)
	require.ErrorContains(t, err, "names no bridge")
}

func TestCollectorRemovesStalePorts(t *testing.T) {
	w := newWorld(t, "", "mvt1")
	w.withSwitch("ovsbr0")
	for name, owner := range map[string]string{
		"vnet0": uuidA, "vnet1": uuidB, "mvt1": "helper uid=1000", "mvt2": "helper uid=1000", "other": "",
	} {
		w.ovs.ByName[name] = ovs.Port{Name: name, Owner: owner}
	}
	lines := w.gc(true, uuidB)
	require.Len(t, lines, 2)
	require.Len(t, w.ovs.ByName, 5)
	lines = w.gc(false, uuidB)
	require.Len(t, lines, 2)
	require.Contains(t, strings.Join(lines, "\n"), "removed Open vSwitch port vnet0")
	for _, stays := range []string{"vnet1", "mvt1", "other"} {
		require.Contains(t, w.ovs.ByName, stays)
	}
	require.Empty(t, w.gc(false, uuidB))
}

func TestForeignTapIsNotTouched(t *testing.T) {
	w := newWorld(t, switchProfiles, "ovsbr0", "ldt9")
	w.withSwitch("ovsbr0")
	nic, word := wasOnSwitch(mac1, "ldt9", "vlan='100'")
	_, err := w.run(step.Prepare, domain(uuidA, word, nic))
	require.ErrorIs(t, err, step.ErrWrongDevice)
	require.True(t, w.has("ldt9"))

	w.fail = func(_ int, op string) error {
		if op == "attach" {
			return errors.New("boom")
		}
		return nil
	}
	nic, word = wasOnSwitch(mac1, "ldt8", "vlan='100'")
	_, err = w.run(step.Prepare, domain(uuidA, word, nic))
	require.ErrorContains(t, err, "boom")
	require.False(t, w.has("ldt8"))
}
