//go:build integration

package checks

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/internal/config"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/link/linktest"
)

// filterHost has a bridge with a guest's tap, and a macvtap on another card; each row sets
// up rules with the programs that people have.
type filterHost struct {
	*linktest.Netns
	t *testing.T
}

func newFilterHost(t *testing.T) filterHost {
	t.Helper()
	h := filterHost{linktest.NewNetns(t), t}
	h.Card("nica")
	h.Card("nicb")
	h.Add("bridge", "br0", "")
	h.Up("br0")
	h.Join("nica", "br0")
	h.Do("ip", "tuntap", "add", "mode", "tap", "name", "vnet5")
	h.Join("vnet5", "br0")
	h.Add("macvtap", "mt0", "nicb", "mode", "bridge")
	require.NoError(t, os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("0"), 0o600))
	require.NoError(t, os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-ip6tables", []byte("0"), 0o600))
	return h
}

// look is filters, for this host.
func (h filterHost) look() (found []Finding) {
	h.t.Helper()
	ctx := h.t.Context()
	p, err := guestPaths(ctx, h.Conn(), &config.Config{})
	require.NoError(h.t, err)
	require.Equal(h.t, []guestBridge{{"br0", "nica", "vnet5"}}, p.bridges)
	return findFilters(ctx, h.Conn(), p)
}

func TestFilters(t *testing.T) {
	const docker = `iptables-nft -P FORWARD DROP; iptables-nft -N DOCKER-USER; iptables-nft -A FORWARD -j DOCKER-USER
		iptables-nft -A FORWARD -o docker0 -m conntrack --ctstate ESTABLISHED -j ACCEPT; iptables-nft -A FORWARD -i docker0 ! -o docker0 -j ACCEPT; `
	const called = `echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables; `
	const shown = " shows the rule or the policy"
	const dockerDrops = "FAULT all IPv4 packets of guests in bridge br0 are dropped: nft list chain ip filter FORWARD" + shown +
		"; br_netfilter is loaded and shows them to it: iptables -I DOCKER-USER -i br0 -o br0 -j ACCEPT, or: sysctl net.bridge.bridge-nf-call-iptables=0"
	for _, c := range []struct {
		name, rules string
		want        []string
	}{
		{"none", "", nil},
		{"Docker without br_netfilter", docker, nil},
		{"Docker", docker + called, []string{dockerDrops}},
		{"Docker, for one bridge", docker + "echo 1 >/sys/class/net/br0/bridge/nf_call_iptables", []string{
			"FAULT all IPv4 packets of guests in bridge br0 are dropped: nft list chain ip filter FORWARD" + shown +
				"; br_netfilter is loaded and shows them to it: iptables -I DOCKER-USER -i br0 -o br0 -j ACCEPT, or: ip link set br0 type bridge nf_call_iptables 0",
		}},
		{"Docker, and a rule for the bridge", docker + called + `iptables-nft -I DOCKER-USER -i br0 -o br0 -m comment --comment "of guests" -j ACCEPT`, nil},
		{"Docker, and one for all bridges", docker + called + `iptables-nft -I FORWARD -m physdev --physdev-is-bridged -j ACCEPT`, nil},
		{"iptables of before nf_tables", called + `iptables-legacy -P FORWARD DROP`, []string{
			"FAULT all IPv4 packets of guests in bridge br0 are dropped: iptables-legacy -t filter -S FORWARD" + shown + "; br_netfilter is loaded and shows them to it: iptables-legacy -I FORWARD",
		}},
		{"IPv6's", `ip6tables-nft -P FORWARD DROP; echo 1 >/proc/sys/net/bridge/bridge-nf-call-ip6tables`, []string{
			"FAULT all IPv6 packets of guests in bridge br0 are dropped: nft list chain ip6 filter FORWARD" + shown,
		}},
		{"firewalld", called + `nft 'table inet firewalld { chain filter_FORWARD { type filter hook forward priority 10; ct state established accept; iifname lo accept; reject with icmpx admin-prohibited; }; }'`, []string{
			"note all but some IP packets of guests in bridge br0 are dropped: nft list chain inet firewalld filter_FORWARD" + shown + "; br_netfilter is loaded and shows them to it: accept iifname br0 oifname br0 there",
		}},
		{"what a router drops", called + `nft 'table inet f { chain forward { type filter hook forward priority 0; policy drop; iifname br0 accept; }; chain input { type filter hook input priority 0; policy drop; }; }'`, nil},
		{"a bridge's table", `nft 'table bridge f { chain c { type filter hook forward priority 0; oifname "vnet*" ether type ip drop; }; }'`, []string{
			"note some frames of guests in bridge br0 are dropped: nft list chain bridge f c" + shown,
		}},
		{"a bridge's policy", `nft 'table bridge f { chain c { type filter hook forward priority 0; policy drop; ether type arp accept; }; }'`, []string{
			"note all but some frames of guests in bridge br0 are dropped: nft list chain bridge f c" + shown,
		}},
		{"another bridge's", `nft 'table bridge f { chain c { type filter hook forward priority 0; iifname { eth7, eth8 } oifname eth7 drop; iifname eth7 drop; }; }'`, nil},
		{"a map of devices", `nft 'table bridge f { chain c { type filter hook forward priority 0; iifname vmap { eth7 : accept, nica : drop }; }; }'`, []string{
			"FAULT all frames of guests in bridge br0 are dropped: nft list chain bridge f c" + shown,
		}},
		{"a map of devices, for some frames", `nft 'table bridge f { chain c { type filter hook forward priority 0; ether type ip iifname vmap { nica : drop }; }; }'`, []string{
			"note some frames of guests in bridge br0 are dropped: nft list chain bridge f c" + shown,
		}},
		{"a map of what frames have in them", `nft 'table bridge f { chain c { type filter hook forward priority 0; policy drop; ether type vmap { ip : accept, arp : accept }; }; }'`, []string{
			"note all but some frames of guests in bridge br0 are dropped: nft list chain bridge f c" + shown,
		}},
		{"a map of pairs", `nft 'table bridge f { chain c { type filter hook forward priority 0; policy drop; iifname . oifname vmap { nica . vnet5 : accept }; }; }'`, []string{
			"note all but some frames of guests in bridge br0 are dropped: nft list chain bridge f c" + shown,
		}},
		{"a router's map of states", called + `nft 'table inet f { chain c { type filter hook forward priority 0; policy drop; ct state vmap { established : accept, related : accept, invalid : drop }; iifname { br0, br1 } accept; }; }'`, nil},
		{"a set of devices", `nft 'table bridge f { chain c { type filter hook forward priority 0; policy drop; iifname { nica, vnet5 } accept; }; }'`, nil},
		{"all but a set", `nft 'table bridge f { chain c { type filter hook forward priority 0; iifname != { eth7 } drop; }; }'`, []string{
			"FAULT all frames of guests in bridge br0 are dropped: nft list chain bridge f c" + shown,
		}},
		{"a device's index", `nft 'table bridge f { chain c { type filter hook forward priority 0; iif nica drop; }; }'`, []string{
			"FAULT all frames of guests in bridge br0 are dropped: nft list chain bridge f c" + shown,
		}},
		{"another device's index", `nft 'table bridge f { chain c { type filter hook forward priority 0; iif nicb drop; iif { nicb } drop; }; }'`, nil},
		{"the index of one that is gone", `ip link add gone type veth; nft 'table bridge f { chain c { type filter hook forward priority 0; iif gone drop; }; }'; ip link del gone`, nil},
		{"a quota", `nft 'table bridge f { chain c { type filter hook forward priority 0; quota over 10 mbytes drop; }; }'`, []string{
			"note some frames of guests in bridge br0 are dropped: nft list chain bridge f c" + shown,
		}},
		{"a named counter", `nft 'table bridge f { counter n { }; chain c { type filter hook forward priority 0; iifname nica counter name n drop; }; }'`, []string{
			"FAULT all frames of guests in bridge br0 are dropped: nft list chain bridge f c" + shown,
		}},
		{"IP before it is forwarded", called + `iptables-nft -t raw -A PREROUTING -i br0 -j DROP`, []string{
			"FAULT all IPv4 packets of guests in bridge br0 are dropped: nft list chain ip raw PREROUTING" + shown +
				"; br_netfilter is loaded and shows them to it: iptables -t raw -I PREROUTING -i br0 -j ACCEPT, or: sysctl net.bridge.bridge-nf-call-iptables=0",
		}},
		{"IP after", called + `nft 'table ip f { chain c { type filter hook postrouting priority 0; oifname br0 drop; }; }'`, []string{
			"FAULT all IPv4 packets of guests in bridge br0 are dropped: nft list chain ip f c" + shown + "; br_netfilter is loaded and shows them to it: accept oifname br0 there, or: ",
		}},
		{"ebtables", `ebtables-nft -A FORWARD -i nica -j DROP`, []string{"FAULT all frames of guests in bridge br0 are dropped: nft list chain bridge filter FORWARD" + shown}},
		{"ebtables' policy", `ebtables-nft -P FORWARD DROP`, []string{"FAULT all frames of guests in bridge br0 are dropped: nft list chain bridge filter FORWARD" + shown}},
		{"what libvirt makes of a filterref", `ebtables-nft -t nat -N libvirt-I-vnet5; ebtables-nft -t nat -A PREROUTING -i vnet5 -j libvirt-I-vnet5; ebtables-nft -t nat -A libvirt-I-vnet5 -j DROP`, nil},
		{"a device's", `nft 'table netdev d { chain c { type filter hook ingress device nicb priority 0; ip protocol udp drop; }; }'`, []string{
			"note some frames that come in by nicb, guests' among them, are dropped: nft list chain netdev d c" + shown,
		}},
		{"several devices'", `nft 'table netdev d { chain c { type filter hook egress devices = { nica, nicb } priority 0; policy drop; }; }'`, []string{
			"FAULT all frames that leave by nica, guests' among them, are dropped: nft list chain netdev d c" + shown,
			"FAULT all frames that leave by nicb, guests' among them, are dropped: nft list chain netdev d c" + shown,
		}},
		{"inet's ingress", `nft 'table inet d { chain c { type filter hook ingress device nicb priority 0; policy drop; }; }'`, []string{
			"FAULT all frames that come in by nicb, guests' among them, are dropped: nft list chain inet d c" + shown,
		}},
		{"of what has no guests", `ip link add void type veth; nft 'table netdev d { chain c { type filter hook ingress device void priority 0; policy drop; }; }'`, nil},
		{"tc that drops nothing", `tc qdisc add dev nicb clsact; tc filter add dev nicb ingress protocol ip u32 match u8 0 0`, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newFilterHost(t)
			h.Do("sh", "-ec", c.rules)
			var want []Finding
			for _, w := range c.want {
				level, text, _ := strings.Cut(w, " ")
				want = append(want, Finding{Level(level), "filter", text})
			}
			found := h.look()
			requireInAnyOrder(t, want, found)
		})
	}
	t.Run("the qdisc of before clsact", func(t *testing.T) {
		h := newFilterHost(t)
		h.Do("sh", "-ec", "tc qdisc add dev nicb ingress; tc filter add dev nicb parent ffff: protocol ip u32 match u8 0 0")
		nicb, err := h.Conn().ByName(t.Context(), "nicb")
		require.NoError(t, err)
		for _, side := range []uint32{tcIngress, tcEgress} {
			filters, err := tcFilters(nicb.Index, side)
			require.NoError(t, err)
			require.Equal(t, side == tcIngress, len(filters) > 0)
		}
	})
	t.Run("tcx", func(t *testing.T) {
		h := newFilterHost(t)
		h.TCX("nicb")
		requireFindings(t, []Finding{{Note, "filter", "guests' frames that come in by nicb pass a BPF program first (tcx)"}}, h.look())
	})
	t.Run("XDP", func(t *testing.T) {
		h := newFilterHost(t)
		h.XDP("nicb")
		requireFindings(t, []Finding{{Note, "filter", "guests' frames on nicb pass an XDP program first"}}, h.look())
	})
}

// requireInAnyOrder is requireFindings for findings about devices in the order of their names.
func requireInAnyOrder(t *testing.T, want, got []Finding) {
	t.Helper()
	require.Len(t, got, len(want), "%v", got)
	for _, w := range want {
		ok := false
		for _, g := range got {
			ok = ok || g.Level == w.Level && strings.HasPrefix(g.Text, w.Text)
		}
		require.True(t, ok, "%v is not among %v", w, got)
	}
}

// A guest's frames do what check says of them: Docker's policy, with the kernel as the judge.
func TestFiltersTellTheTruth(t *testing.T) {
	for _, c := range []struct {
		name, rules string
		passes      bool
	}{
		{"policy", "iptables-nft -P FORWARD DROP", false},
		{"policy and a rule", "iptables-nft -P FORWARD DROP; iptables-nft -A FORWARD -i br0 -o br0 -j ACCEPT", true},
		{"policy and physdev", "iptables-nft -P FORWARD DROP; iptables-nft -A FORWARD -m physdev --physdev-is-bridged -j ACCEPT", true},
		{"legacy", "iptables-legacy -P FORWARD DROP", false},
		{"before it is forwarded", "iptables-nft -t raw -A PREROUTING -i br0 -j DROP", false},
		{"after", "nft 'table ip f { chain c { type filter hook postrouting priority 0; oifname br0 drop; }; }'", false},
		{"a map", "nft 'table bridge f { chain c { type filter hook forward priority 0; iifname vmap { nica : drop }; }; }'", false},
		{"a map and a policy", "nft 'table bridge f { chain c { type filter hook forward priority 0; policy drop; iif vmap { nica : accept, nicb : accept }; }; }'", true},
		{"a bridge's", "nft 'table bridge f { chain c { type filter hook forward priority 0; policy drop; }; }'", false},
		{"a device's", "nft 'table netdev d { chain c { type filter hook ingress device nica priority 0; policy drop; }; }'", false},
		{"what leaves a device", "nft 'table netdev d { chain c { type filter hook egress device nicb priority 0; policy drop; }; }'", false},
		{"another's", "nft 'table bridge f { chain c { type filter hook forward priority 0; iifname eth7 drop; }; }'", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := filterHost{linktest.NewNetns(t), t}
			h.Add("bridge", "br0", "")
			h.Up("br0")
			h.Card("nica")
			h.Card("nicb")
			h.Join("nica", "br0")
			h.Join("nicb", "br0")
			ends := map[string]string{"nica-wire": "192.0.2.1/24", "nicb-wire": "192.0.2.2/24"}
			spaces := map[string]string{}
			for end, address := range ends {
				spaces[end] = h.Container()
				h.Move(end, spaces[end])
				h.UpIn(spaces[end], end)
				h.Do("nsenter", "-n", "-t", spaces[end], "ip", "addr", "add", address, "dev", end)
			}
			require.NoError(t, os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("1"), 0o600))
			echo := func() error {
				return exec.CommandContext(t.Context(), "nsenter", "-n", "-t", spaces["nica-wire"], "busybox", "ping", "-c", "1", "-W", "1", "192.0.2.2").Run()
			}
			for echo() != nil { // the ports get their carrier
				require.NoError(t, t.Context().Err())
			}
			h.Do("sh", "-ec", c.rules)
			err := echo()
			for c.passes && err != nil && t.Context().Err() == nil { // a busy host may be slow
				err = echo()
			}
			require.Equal(t, c.passes, err == nil, "the kernel: %v", err)
			nica, err := h.Conn().ByName(t.Context(), "nica")
			require.NoError(t, err)
			nicb, err := h.Conn().ByName(t.Context(), "nicb")
			require.NoError(t, err)
			found := findFilters(t.Context(), h.Conn(), paths{[]link.Link{nica, nicb}, []guestBridge{{"br0", "nica", "nicb"}}})
			require.Equal(t, c.passes, len(found) == 0, "%v", found)
		})
	}
}
