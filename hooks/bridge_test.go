package hooks

import (
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/hooktest"
	"libvirt-direct/hooks/plan"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/link"
	"libvirt-direct/xmlfilter"
)

// withBridges adds two bridges and a tap in one of them: br0 filters VLANs and runs a
// spanning tree, br1 does neither.
func withBridges(f *hooktest.Kernel) {
	f.Links[100] = &link.Link{Index: 100, Name: "br0", Kind: "bridge", MTU: 1500, Bridge: &link.Bridge{VLANFiltering: true, STP: true}}
	f.Links[101] = &link.Link{Index: 101, Name: "br1", Kind: "bridge", MTU: 1500, Bridge: &link.Bridge{}}
	f.Links[102] = &link.Link{Index: 102, Name: "vnet0", Kind: "tun", MTU: 1500}
	f.Join("vnet0", "br0")
}

// bridged is a NIC in a bridge; its tap has a name once libvirt has made it.
func bridged(mac, bridge, tap string, more ...string) string {
	nic := "<interface type='bridge'><mac address='" + mac + "'/><source bridge='" + bridge + "'/>"
	if tap != "" {
		nic += "<target dev='" + tap + "'/>"
	}
	for _, m := range more {
		nic += m
	}
	return nic + "</interface>"
}

const trunkVLAN = "<vlan trunk='yes'><tag id='10' nativeMode='untagged'/><tag id='20'/><tag id='21'/></vlan>"

// What the words say is set on the tap at start, and again when libvirt is restarted;
// nothing is held.
func TestBridgePortIsSetAtStart(t *testing.T) {
	w := newWorld(t, "[profile.access]\nisolated = true\nvlan = 30\n")
	withBridges(w.kernel)
	doc := domain(uuidA, vfWords(mac1, "profile='access' vlan='10' trunk='20-21' learning='no' bpduguard='yes'"), bridged(mac1, "br0", "vnet0"))
	w.must(step.Prepare, domain(uuidA, vfWords(mac1, "profile='access'"), bridged(mac1, "br0", "")))
	require.Zero(t, w.calls)
	for _, op := range []step.Op{step.Start, step.Reconnect} {
		w.kernel.Join("vnet0", "br0")
		w.kernel.PortMACs[102] = nil
		w.must(op, doc)
		require.Equal(t, "isolated on, learning off, hairpin off, bpduguard on, flood on, mcastflood on, neighsuppress off, locked off",
			w.kernel.Links[102].Port.String())
		require.Equal(t, []link.PortVLAN{{ID: 10, PVID: true, Untagged: true}, {ID: 20}, {ID: 21}}, w.kernel.PortVLANs[102])
		require.Equal(t, []string{mac1}, w.kernel.PortMACs[102])
	}
	require.Contains(t, w.log.String(), "vnet0 in br0 has isolated on, learning off, bpduguard on, native VLAN 10, tagged 20-21, address "+mac1)
	require.Empty(t, w.journals())
}

// A locked port does not learn, and has the NIC's address before it is locked. What the
// kernel does not know refuses the start.
func TestLockedBridgePort(t *testing.T) {
	w := newWorld(t, "[profile.tenant]\nlocked = true\nflood = false\nmcastflood = false\nneighsuppress = true\n")
	withBridges(w.kernel)
	var ops []string
	w.fail = func(_ int, op string) error {
		ops = append(ops, op)
		return nil
	}
	doc := domain(uuidA, vfWords(mac1, "profile='tenant' vlan='10'"), bridged(mac1, "br0", "vnet0"))
	for _, op := range []step.Op{step.Start, step.Reconnect} {
		w.must(op, doc)
		require.Equal(t, []string{"set port VLANs", "add port MAC", "set port flags"}, ops)
		require.Equal(t, "isolated off, learning off, hairpin off, bpduguard off, flood off, mcastflood off, neighsuppress on, locked on",
			w.kernel.Links[102].Port.String())
		require.Equal(t, []string{mac1}, w.kernel.PortMACs[102])
		ops = nil
	}
	w.kernel.Join("vnet0", "br0")
	w.kernel.Links[102].Port.Locked = nil
	_, err := w.run(step.Start, doc)
	require.ErrorIs(t, err, link.ErrNotSupported)
	require.ErrorContains(t, err, mac1)
	require.ErrorContains(t, err, "vnet0: locked: not supported by this kernel")
	w.must(step.Start, domain(uuidA, vfWords(mac1, "flood='no'"), bridged(mac1, "br0", "vnet0")))
}

// What libvirt's network turned out to be decides.
func TestBridgePortOfANetwork(t *testing.T) {
	w := newWorld(t, "")
	withBridges(w.kernel)
	doc := domain(uuidA, vfWords(mac1, "isolated='yes'"), "<interface type='network'><mac address='"+mac1+"'/><source network='default' bridge='br0'/><target dev='vnet0'/></interface>")
	w.must(step.Prepare, doc)
	w.must(step.Start, doc)
	require.True(t, *w.kernel.Links[102].Port.Isolated)

	for name, c := range map[string]struct{ words, nic, want string }{
		"macvtap": {"isolated='yes'", "<interface type='direct'><mac address='" + mac1 + "'/><source network='pool' dev='nica' mode='bridge'/></interface>",
			"isolated='yes' is for ports of a bridge, and this is type='direct'"},
		"VLAN of a macvtap": {"vlan='10'", "<interface type='direct'><mac address='" + mac1 + "'/><source network='pool' dev='nica' mode='bridge'/></interface>",
			`libvirt's network "pool" has given it nica, which is no virtual function`},
		"VF words": {"trust='yes'", bridged(mac1, "br0", "vnet0"), "virtual functions, and libvirt has put it into bridge br0"},
	} {
		_, err := w.run(step.Start, domain(uuidA, vfWords(mac1, c.words), c.nic))
		require.ErrorContains(t, err, c.want, name)
	}
}

func TestBridgePortRefused(t *testing.T) {
	w := newWorld(t, "[uplink.office]\ndevice = \"br0\"\nvlans = [\"10-19\"]\n", "nica")
	withBridges(w.kernel)
	for name, c := range map[string]struct {
		words, nic, want string
		kind             error
	}{
		"no filter": {"vlan='10'", bridged(mac1, "br1", ""),
			"br1 does not filter VLANs; run: ip link set br1 type bridge vlan_filtering 1, and let its uplink have them: bridge vlan add dev UPLINK vid 10", plan.ErrBridge},
		"no spanning tree":         {"bpduguard='yes'", bridged(mac1, "br1", ""), "br1 runs no spanning tree", plan.ErrBridge},
		"MTU":                      {"isolated='yes'", bridged(mac1, "br0", "", "<mtu size='9000'/>"), "<mtu size='9000'> is larger than 1500 of br0; run: ip link set br0 mtu 9000", plan.ErrBridge},
		"no bridge":                {"isolated='yes'", bridged(mac1, "br7", ""), `bridge "br7"`, plan.ErrNoDevice},
		"no Linux bridge":          {"isolated='yes'", bridged(mac1, "nica", ""), "nica is no Linux bridge", step.ErrUnsuitable},
		"VLAN not allowed":         {"vlan='10' trunk='20'", bridged(mac1, "br0", ""), `VLAN 20 on uplink "office"; add it to vlans of [uplink.office]`, plan.ErrNotAllowed},
		"native alone":             {"vlan='10' native='tagged'", bridged(mac1, "br0", ""), "native='tagged' needs vlan, the native one, and trunk", step.ErrUnsuitable},
		"own":                      {"own='hook'", bridged(mac1, "br0", ""), "libvirt makes the device of type='bridge'", step.ErrUnsuitable},
		"VF words":                 {"trust='yes'", bridged(mac1, "br0", ""), "this is a port of br0", step.ErrUnsuitable},
		"macvtap":                  {"hairpin='yes'", direct(mac1, "nica", "vepa"), "hairpin='yes' is for ports of a bridge", step.ErrUnsuitable},
		"learns what it locks out": {"locked='yes' learning='yes'", bridged(mac1, "br0", ""), "locked='yes' with learning='yes'", step.ErrUnsuitable},
		"other uplink":             {"uplink='office' isolated='yes'", bridged(mac1, "br1", ""), `uplink "office" is br0 here, and its <source> says br1`, plan.ErrNotRewritten},
	} {
		_, err := w.run(step.Prepare, domain(uuidA, vfWords(mac1, c.words), c.nic))
		require.ErrorContains(t, err, c.want, name)
		require.ErrorIs(t, err, c.kind, name)
		require.ErrorContains(t, err, mac1)
	}
	for _, flag := range []string{"learning", "hairpin", "bpduguard", "flood", "mcastflood", "neighsuppress", "locked"} {
		_, err := w.run(step.Prepare, domain(uuidA, vfWords(mac1, "isolated='yes' "+flag+"='no'"), bridged(mac1, "br0", "", "<virtualport type='openvswitch'/>")))
		require.ErrorIs(t, err, step.ErrUnsuitable)
		require.ErrorContains(t, err, flag+"='no' is for ports of a Linux bridge, and this is one of Open vSwitch")
	}
	require.Zero(t, w.calls)
}

// The tap is elsewhere than libvirt says.
func TestBridgePortOfAnotherBridge(t *testing.T) {
	w := newWorld(t, "")
	withBridges(w.kernel)
	_, err := w.run(step.Start, domain(uuidA, vfWords(mac1, "isolated='yes'"), bridged(mac1, "br1", "vnet0")))
	require.ErrorIs(t, err, step.ErrWrongDevice)
	require.ErrorContains(t, err, "vnet0 is no port of br1")
	require.Zero(t, w.calls)
}

func TestBridgeVLANIsRewritten(t *testing.T) {
	w := newWorld(t, "[uplink.office]\ndevice = \"br0\"\n")
	withBridges(w.kernel)
	for name, c := range map[string]struct{ words, nic, want string }{
		"access": {"", bridged(mac1, "br0", "", "<vlan><tag id='10'/></vlan>"), "vlan='10'"},
		"trunk":  {"", bridged(mac1, "br0", "", trunkVLAN), "vlan='10' trunk='20-21'"},
		"tagged native": {"", bridged(mac1, "br0", "", "<vlan trunk='yes'><tag id='10' nativeMode='tagged'/><tag id='20'/></vlan>"),
			"vlan='10' trunk='20' native='tagged'"},
		"trunk of one": {"", bridged(mac1, "br0", "", "<vlan trunk='yes'><tag id='10'/></vlan>"), "trunk='10'"},
		"uplink":       {vfWords(mac1, "uplink='office' vlan='10'"), bridged(mac1, "br1", ""), "uplink='office' vlan='10'"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := w.rewritten(domain(uuidA, c.words, c.nic))
			require.NoError(t, err)
			d, err := xmlfilter.Parse([]byte(out))
			require.NoError(t, err)
			require.Nil(t, d.NICs[0].VLAN)
			require.Equal(t, "br0", d.NICs[0].Source.Bridge)
			require.Contains(t, out, "<ld:nic mac='"+mac1+"' "+c.want+"><ld:was ")
			again, err := w.rewritten(out)
			require.NoError(t, err)
			require.Equal(t, out, again, "twice is once")
		})
	}
	_, err := w.rewritten(domain(uuidA, vfWords(mac1, "vlan='11'"), bridged(mac1, "br0", "", "<vlan><tag id='10'/></vlan>")))
	require.ErrorContains(t, err, "<vlan> says vlan='10' and its settings say '11'")
	// A libvirt that knows <vlan> there does it; nothing of ours stands in its way.
	w.must(step.Prepare, domain(uuidA, "", bridged(mac1, "br0", "", trunkVLAN)))
	w.must(step.Start, domain(uuidA, "", bridged(mac1, "br0", "vnet0", trunkVLAN)))
	require.Zero(t, w.calls)
}
