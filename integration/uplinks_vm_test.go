//go:build vm

package integration

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host/hosttest"
)

// The device of an uplink is a bond's, a switch's, or taken by another kind of device: check and
// explain name the device that can carry guests, and a managed guest does not start, before
// the kernel says EBUSY. A plain one is libvirt's to try.
func TestUplinkThatCarriesNoMacvtap(t *testing.T) {
	if !inMachine() {
		t.Skip("this is for the test machine: go test -tags vm -exec testvm")
	}
	ctx := hosttest.Deadline(t, 4*time.Minute)
	out, err := exec.CommandContext(ctx, "modprobe", "-a", "openvswitch", "8021q", "bonding").CombinedOutput()
	require.NoError(t, err, "%s", out)
	h := newFixture(ctx, t, "a", "[uplink.lan]\ndevice = \"nica\"\n")
	const bond = "ip link add bond0 type bond mode active-backup; ip link set nica down; ip link set nica master bond0; ip link set bond0 up; "
	for _, c := range []struct {
		name, setup string
		says        string // with which a start on the uplink itself ends; "" where it goes on
		vlan        string // what explain says of VLAN 5
	}{
		{"nothing in the way", "", "", ""},
		{"bond", bond, "it is a port of bond bond0: use bond0", "it is a port of bond bond0: a VLAN of it has no other way when this port fails: use a VLAN of bond0"},
		{
			"bond in a bridge", bond + "ip link add br0 type bridge; ip link set bond0 master br0",
			"use the bridge, which has bond0 as a port: <interface type='bridge'> with <source bridge='br0'/>", "use a VLAN of bond0",
		},
		{"bond in Open vSwitch", bond + "ovs-dpctl add-dp dp0; ovs-dpctl add-if dp0 bond0", "use the bridge, which has bond0 as a port: <interface type='bridge'> with <virtualport type='openvswitch'/>", "use a VLAN of bond0"},
		{"bridge", "ip link add br0 type bridge; ip link set nica master br0", "use the bridge: <interface type='bridge'> with <source bridge='br0'/>", ""},
		{"Open vSwitch", "ovs-dpctl add-dp dp0; ovs-dpctl add-if dp0 nica", "it is a port of Open vSwitch: use the bridge", ""},
		{"ipvlan", "ip link add link nica name ipv0 type ipvlan mode l2", "ipv0 stands on it: ipvlan and macvtap exclude each other", ""},
		{"passthrough macvtap", "ip link add link nica name pt0 type macvtap mode passthru", "pt0 stands on it: it has the device alone, by mode passthrough", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := h.in(t)
			h.MustRun("sh", "-ec", "ip link add nica type veth peer name far; ip link set far up; ip link set nica up; "+c.setup)
			defer h.MustRun("sh", "-c", "ip link del nica; for d in bond0 br0; do ip link del $d 2>/dev/null; done; ovs-dpctl del-dp dp0 2>/dev/null; true")
			explain := func(nic string) string {
				d := tiny("g", nic)
				d.Metadata = metadata(1, "allmulticast='yes'")
				return h.MustPipe(d.XML(), program(t, "libvirt-direct"), "explain")
			}
			checked, _ := h.Run(ctx, program(t, "libvirt-direct"), "check") // it may find faults
			d := tiny("g", direct(1, "lan", "bridge"))
			d.UUID = uuid
			d.Metadata = metadata(1, "allmulticast='yes'")
			hook := h.Command(ctx, hookPath, "g", "prepare", "begin", "-")
			hook.Stdin = strings.NewReader(d.XML())
			said, err := hook.CombinedOutput()
			if c.says == "" {
				require.NoError(t, err, "%s", said)
				require.NotContains(t, checked, "no macvtap can be made")
				require.NotContains(t, explain(direct(1, "lan", "bridge")), "on its device")
			} else {
				require.Error(t, err)
				require.Contains(t, string(said), c.says)
				require.Contains(t, explain(direct(1, "lan", "bridge")), c.says)
				if c.name == "bridge" { // which has its own check
					require.Contains(t, checked, "nica is a port of br0")
				} else {
					require.Contains(t, checked, "no macvtap can be made on nica: ")
					require.Contains(t, checked, c.says)
				}
			}
			d = tiny("g", direct(1, "nica", "bridge"))
			d.UUID = uuid
			h.MustPipe(d.XML(), hookPath, "g", "prepare", "begin", "-")
			vlan := explain(direct(1, "nica.5", "bridge"))
			if c.vlan == "" {
				require.NotContains(t, vlan, "on its device")
			} else {
				require.Contains(t, vlan, c.vlan)
			}
		})
	}
}

// A rule of tc that drops frames, and a bridge's own table, on a kernel with actions and modules.
func TestFilterThatEatsFrames(t *testing.T) {
	if !inMachine() {
		t.Skip("this is for the test machine: go test -tags vm -exec testvm")
	}
	ctx := hosttest.Deadline(t, 2*time.Minute)
	h := newFixture(ctx, t, "a", "[uplink.lan]\ndevice = \"nica\"\n")
	h.MustRun("sh", "-ec", "ip link add nica type veth peer name far; ip link set far up; ip link set nica up; tc qdisc add dev nica clsact")
	for _, c := range []struct{ filter, side, fate string }{
		{"protocol ip u32 match u8 0 0 action drop", "ingress", "come in by"},
		{"protocol ip flower ip_proto udp action drop", "egress", "leave by"},
		{"matchall action drop", "ingress", "come in by"},
		{"protocol ip flower ip_proto udp action pass", "ingress", ""},
	} {
		h.MustRun("sh", "-ec", "tc filter add dev nica "+c.side+" "+c.filter)
		out, _ := h.Run(ctx, program(t, "libvirt-direct"), "check")
		if c.fate == "" {
			require.NotContains(t, out, "filter")
		} else {
			require.Contains(t, out, "some frames that "+c.fate+" nica, guests' among them, are dropped by tc; look for the rule: tc filter show dev nica "+c.side)
		}
		h.MustRun("tc", "filter", "del", "dev", "nica", c.side)
	}
}
