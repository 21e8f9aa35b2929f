package checks

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/link"
	"libvirt-direct/lldpad"
	"libvirt-direct/vdp"
)

// fakeKernel has what the checks of an uplink ask for.
type fakeKernel struct {
	step.Kernel // what is not asked
	links       []link.Link
	vlans       map[int][]link.PortVLAN
	obstacles   []link.Obstacle
}

func (f *fakeKernel) ByIndex(_ context.Context, index int) (link.Link, error) {
	for _, l := range f.links {
		if l.Index == index {
			return l, nil
		}
	}
	return link.Link{}, link.ErrNotFound
}

func (f *fakeKernel) ByName(_ context.Context, name string) (link.Link, error) {
	for _, l := range f.links {
		if l.Name == name || slices.Contains(l.AltNames, name) {
			return l, nil
		}
	}
	return link.Link{}, link.ErrNotFound
}

func (f *fakeKernel) All(context.Context) ([]link.Link, error)             { return f.links, nil }
func (f *fakeKernel) Elsewhere(context.Context) *link.Elsewhere            { return nil }
func (f *fakeKernel) VFUses(context.Context, string) ([]link.VFUse, error) { return nil, nil }

func (f *fakeKernel) PortVLANs(_ context.Context, index int) ([]link.PortVLAN, error) {
	return f.vlans[index], nil
}

func (f *fakeKernel) Lower(context.Context, string, string, *link.Elsewhere) ([]link.Obstacle, error) {
	return f.obstacles, nil
}

func TestMacvtap(t *testing.T) {
	slow := link.Obstacle{Use: link.Use{Kind: link.UseUnfit, Evidence: "it is a wireless device"}, Advice: "use a wired one"}
	busy := link.Obstacle{Use: link.Use{Evidence: "ipvlan0 stands on it"}, Errno: unix.EBUSY, Advice: "use another"}
	k := &fakeKernel{links: []link.Link{{Index: 7, Kind: "openvswitch"}, {Index: 8, Kind: "bond"}}, obstacles: []link.Obstacle{busy}}
	text := "no macvtap can be made on eth0: ipvlan0 stands on it: use another"
	for _, c := range []struct {
		name   string
		device link.Link
		want   []Finding
	}{
		{"refused by the kernel", link.Link{Name: "eth0"}, []Finding{{Fault, "uplink u", text}}},
		{"in a bond", link.Link{Name: "eth0", Master: 8}, []Finding{{Fault, "uplink u", text}}},
		{"a port of Open vSwitch", link.Link{Name: "eth0", Master: 7}, []Finding{{Note, "uplink u", text}}},
		{"a bridge's port, of which another check tells", link.Link{Name: "eth0", Port: &link.BridgePort{}}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.want, macvtap(t.Context(), &Env{}, k, uplink{&config.Uplink{Name: "u"}, c.device}))
		})
	}
	k.obstacles = []link.Obstacle{slow}
	requireFindings(t, []Finding{{Note, "uplink u", "a macvtap on wlan0 does not get all of its frames: it is a wireless device: use a wired one"}},
		macvtap(t.Context(), &Env{}, k, uplink{&config.Uplink{Name: "u"}, link.Link{Name: "wlan0"}}))
	k.obstacles = nil
	require.Empty(t, macvtap(t.Context(), &Env{}, k, uplink{&config.Uplink{Name: "u"}, link.Link{Name: "eth0"}}))
}

func TestBridgeVLANs(t *testing.T) {
	vlans := &[]config.VLANRange{{First: 10, Last: 12}}
	filtering := link.Link{Index: 3, Name: "br0", Bridge: &link.Bridge{VLANFiltering: true}}
	links := []link.Link{filtering, {Index: 4, Name: "eth0", Master: 3}, {Index: 5, Name: "vnet0", Kind: "tun", Master: 3}, {Index: 6, Name: "eth1"}}
	every := []link.PortVLAN{{ID: 10}, {ID: 11}, {ID: 12}}
	for _, c := range []struct {
		name   string
		device link.Link
		allows *[]config.VLANRange
		vlans  map[int][]link.PortVLAN
		want   []Finding
	}{
		{"no bridge", link.Link{Name: "eth0"}, vlans, nil, nil},
		{"any VLAN is allowed", filtering, nil, nil, nil},
		{"no filter", link.Link{Name: "br0", Bridge: &link.Bridge{}}, vlans, nil, []Finding{{Note, "bridge u", "br0 does not filter VLANs, so that no guest can have one of its vlans: ip link set br0 type bridge vlan_filtering 1"}}},
		{"carried by its port", filtering, vlans, map[int][]link.PortVLAN{4: every}, []Finding{{OK, "bridge u", "br0 carries its VLANs beyond the guests' taps"}}},
		{"by a guest's tap alone", filtering, vlans, map[int][]link.PortVLAN{4: every[1:2], 5: every, 6: every},
			[]Finding{{Note, "bridge u", "no port of br0 but guests' taps carries VLANs 10,12: bridge vlan add dev UPLINK vid 10, and so on"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := &fakeKernel{links: links, vlans: c.vlans}
			require.Equal(t, c.want, bridgeVLANs(t.Context(), nil, k, uplink{&config.Uplink{Name: "u", VLANs: c.allows}, c.device}))
		})
	}
}

func TestEnforced(t *testing.T) {
	some, none, all := &[]config.VLANRange{{First: 100, Last: 199}}, &[]config.VLANRange{}, &[]config.VLANRange{{First: 1, Last: 4094}}
	card := link.Link{Name: "eth0"}
	flat, filtering := link.Link{Name: "br0", Bridge: &link.Bridge{}}, link.Link{Name: "br0", Bridge: &link.Bridge{VLANFiltering: true}}
	const not = "vlans of [uplink.u] is not enforced for "
	for _, c := range []struct {
		name    string
		device  link.Link
		vlans   *[]config.VLANRange
		enforce bool
		want    []Finding
	}{
		{"no vlans", card, nil, false, nil},
		{"all of them", card, all, false, nil},
		{"nothing to enforce", card, nil, true, []Finding{{Note, "uplink u", "enforce of [uplink.u] has no effect"}}},
		{"all of them enforced", card, all, true, []Finding{{Note, "uplink u", "enforce of [uplink.u] has no effect"}}},
		{"not enforced", card, some, false, []Finding{{Note, "uplink u",
			not + "macvtaps on eth0 itself and for virtual functions without a VLAN, whose guests can send any tag: to refuse these, set enforce = true in /c.toml"}}},
		{"none allowed, not enforced", card, none, false, []Finding{{Note, "uplink u", not + "macvtaps on eth0 itself"}}},
		{"enforced", card, some, true, []Finding{{OK, "uplink u", "a guest that could send VLANs that are not allowed onto eth0 is refused"}}},
		{"none allowed, enforced", card, none, true, []Finding{{OK, "uplink u", "a guest that could send VLANs that are not allowed onto eth0 is refused"}}},
		{"bridge without a filter", flat, some, false, []Finding{{Note, "uplink u", not + "taps in br0, which does not filter VLANs: ip link set br0 type bridge vlan_filtering 1"}}},
		{"the same, enforced", flat, some, true, []Finding{{Note, "uplink u", not + "taps in br0 that have no settings: ip link set br0 type bridge vlan_filtering 1"}}},
		{"bridge that filters", filtering, some, false, nil},
		{"the same, enforced", filtering, some, true, []Finding{{OK, "uplink u", "a guest that could send VLANs that are not allowed onto br0 is refused"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := uplink{&config.Uplink{Name: "u", VLANs: c.vlans, Enforce: c.enforce}, c.device}
			requireFindings(t, c.want, enforced(t.Context(), &Env{Config: "/c.toml"}, nil, u))
		})
	}
}

func TestAlsoNames(t *testing.T) {
	own := link.Link{Index: 3, Name: "eth0", AltNames: []string{"enp3s0"}}
	k := &fakeKernel{links: []link.Link{own, {Index: 4, Name: "eno1"}, {Index: 5, Name: "eth5", AltNames: []string{"enp5s0"}}}}
	u := uplink{&config.Uplink{Name: "u", Also: []string{"eno1", "enp5s0", "enp3s0", "eth0", "elsewhere"}}, own}
	requireFindings(t, []Finding{
		{Note, "uplink u", "also names a device of this host: eno1; it means eth0 in the XML of guests that come from elsewhere, and itself in this host's own: take it out of also of [uplink.u]"},
		{Note, "uplink u", "also names a device of this host: enp5s0 (eth5); it means eth0"},
	}, alsoNames(t.Context(), nil, k, u))
	u.config.Also = nil
	require.Empty(t, alsoNames(t.Context(), nil, k, u))
}

func TestBridgePort(t *testing.T) {
	for _, c := range []struct {
		name   string
		port   *link.BridgePort
		bridge link.Link
		want   []Finding
	}{
		{"no port", nil, link.Link{}, nil},
		{"of what is gone", &link.BridgePort{}, link.Link{}, []Finding{{Note, "bridge u", "eth0 is a port of a bridge that cannot be looked up"}}},
		{"with a spanning tree, blocked", &link.BridgePort{State: 1}, link.Link{Index: 3, Name: "br0", Bridge: &link.Bridge{STP: true}}, []Finding{
			{Note, "bridge u", "eth0 is a port of br0: the kernel makes no macvtap on it; give guests <interface type='bridge'>, or take it out: ip link set eth0 nomaster"},
			{Note, "bridge u", "br0 runs a spanning tree: it sends BPDUs out of eth0"},
			{Note, "bridge u", "the spanning tree of br0 lets nothing through eth0 now (state 1)"},
			{OK, "bridge u", "LLDP (01:80:C2:00:00:0E) of guests in br0 ends there"},
		}},
		{"with one that forwards", &link.BridgePort{State: forwarding}, link.Link{Index: 3, Name: "br0", Bridge: &link.Bridge{STP: true, GroupFwdMask: lldpBit}}, []Finding{
			{Note, "bridge u", "eth0 is a port of br0"},
			{Note, "bridge u", "br0 runs a spanning tree"},
			{Note, "bridge u", "group_fwd_mask of br0 passes LLDP (01:80:C2:00:00:0E) on to guests: lldpad does not hear it on eth0"},
		}},
		{"without", &link.BridgePort{State: forwarding}, link.Link{Index: 3, Name: "br0", Bridge: &link.Bridge{}}, []Finding{
			{Note, "bridge u", "eth0 is a port of br0"},
			{Note, "bridge u", "br0 runs no spanning tree and so passes frames to 01:80:C2:00:00:00 on: lldpad hears neither EVB nor VDP on eth0, guests' BPDUs reach the switch; use vdpd, or: ip link set br0 type bridge stp_state 1"},
			{OK, "bridge u", "LLDP (01:80:C2:00:00:0E) of guests in br0 ends there, as IEEE 802.1Q wants it; where a guest is to speak with the switch: ip link set br0 type bridge group_fwd_mask 0x4000"},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := &fakeKernel{links: []link.Link{c.bridge}}
			device := link.Link{Name: "eth0", Master: 3, Port: c.port}
			requireFindings(t, c.want, bridgePort(t.Context(), nil, k, uplink{&config.Uplink{Name: "u"}, device}))
		})
	}
}

func TestLLDPAD(t *testing.T) {
	require.Empty(t, ofLLDPAD("a", "eth0", lldpad.Report{Err: lldpad.ErrNoDaemon}))
	stale := fmt.Errorf("%w; %w: process 7 is gone", lldpad.ErrNoDaemon, lldpad.ErrStalePid)
	require.Equal(t, []Finding{{Note, "a", "lldpad does not run: systemctl start lldpad; /run/lldpad.pid is left over: process 7 is gone"}},
		ofLLDPAD("a", "eth0", lldpad.Report{Err: stale}))
	require.Equal(t, []Finding{{OK, "a", "lldpad and the switch have agreed on eth0, edition 2012"}}, ofLLDPAD("a", "eth0", lldpad.Report{Edition: vdp.Edition2012}))
	require.Equal(t, []Finding{{Note, "a", lldpad.ErrNoLink.Error()}}, ofLLDPAD("a", "eth0", lldpad.Report{Err: lldpad.ErrNoLink}))
	require.Equal(t, []Finding{
		{Note, "a", lldpad.ErrNeedsReload.Error()},
		{Note, "a", "what follows mends it; reloading lldpad drops all VSIs that it holds"},
		{Note, "a", "to fix it: one"},
		{Note, "a", "to fix it: two"},
	}, ofLLDPAD("a", "eth0", lldpad.Report{Err: lldpad.ErrNeedsReload, Fix: []string{"one", "two"}}))
}

func TestNamesOfOtherDevices(t *testing.T) {
	k := &fakeKernel{links: []link.Link{{Index: 1, Name: "eth0", AltNames: []string{"wan"}}, {Index: 2, Name: "eth1", AltNames: []string{"a-name-of-more-than-fifteen"}}}}
	for name, c := range map[string]struct {
		uplink config.Uplink
		want   []string // the beginning of each text
	}{
		"of none":                    {config.Uplink{Name: "lan", Also: []string{"eno1", "wan"}}, nil},
		"of its own device":          {config.Uplink{Name: "eth0", Also: []string{"wan"}}, nil},
		"of another":                 {config.Uplink{Name: "eth1"}, []string{"another device of this host has the uplink's name: eth1; settings that name the uplink mean eth0"}},
		"also of another":            {config.Uplink{Name: "lan", Also: []string{"eth1"}}, []string{"also names a device of this host: eth1;"}},
		"also another's alternative": {config.Uplink{Name: "lan", Also: []string{"a-name-of-more-than-fifteen"}}, []string{"also names a device of this host: a-name-of-more-than-fifteen (eth1);"}},
	} {
		t.Run(name, func(t *testing.T) {
			found := alsoNames(t.Context(), &Env{}, k, uplink{&c.uplink, k.links[0]})
			require.Len(t, found, len(c.want))
			for i, want := range c.want {
				require.Equal(t, Note, found[i].Level)
				require.Contains(t, found[i].Text, want)
			}
		})
	}
}

func TestOneDevice(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.toml")
	require.NoError(t, os.WriteFile(file, []byte("[uplink.a]\ndevice = \"eth0\"\n[uplink.b]\ndevice = \"wan\"\n[uplink.c]\ndevice = \"eth1\"\n[uplink.d]\ndevice = \"gone\"\n"), 0o600))
	k := &fakeKernel{links: []link.Link{{Index: 1, Name: "eth0", AltNames: []string{"wan"}}, {Index: 2, Name: "eth1"}}}
	for i, want := range []string{"", "eth0 is the device of uplink a, too: ", ""} {
		found := oneDevice(t.Context(), &Env{Config: file}, k, uplink{&config.Uplink{Name: string(rune('a' + i))}, k.links[i/2]})
		if want == "" {
			require.Empty(t, found)
			continue
		}
		require.Len(t, found, 1)
		require.Contains(t, found[0].Text, want)
	}
}
