package netfilter

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func chainIn(t *testing.T, r Rules, name string) Chain {
	t.Helper()
	c, ok := r.chain(r[0], name)
	require.True(t, ok)
	return c
}

// As iptables-legacy-save prints it, of hosts with programs that people run.
func TestFateOfSaved(t *testing.T) {
	for _, c := range []struct {
		name, rules string
		want        Fate
	}{
		{"nothing", ":FORWARD ACCEPT [0:0]", Passes},
		{"a policy", ":FORWARD DROP [0:0]", Dropped},
		{"Docker's", ":FORWARD DROP [0:0]\n:DOCKER-USER - [0:0]\n-A FORWARD -j DOCKER-USER\n-A FORWARD -o docker0 -m conntrack --ctstate ESTABLISHED -j ACCEPT\n-A FORWARD -i docker0 ! -o docker0 -j ACCEPT\n-A DOCKER-USER -j RETURN", Dropped},
		{"a person's rule in DOCKER-USER", ":FORWARD DROP [0:0]\n:DOCKER-USER - [0:0]\n-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -i br0 -o br0 -m comment --comment \"of guests, all\" -j ACCEPT", Passes},
		{"another bridge's", ":FORWARD DROP [0:0]\n-A FORWARD -i br1 -j ACCEPT", Dropped},
		{"all but a bridge", ":FORWARD DROP [0:0]\n-A FORWARD ! -i br1 -j ACCEPT", Passes},
		{"a prefix", ":FORWARD DROP [0:0]\n-A FORWARD -i br+ -j ACCEPT", Passes},
		{"bridged frames", ":FORWARD DROP [0:0]\n-A FORWARD -m physdev --physdev-is-bridged -j ACCEPT", Passes},
		{"no bridged frames", ":FORWARD ACCEPT [0:0]\n-A FORWARD -m physdev --physdev-is-bridged -j DROP", Dropped},
		{"some ports", ":FORWARD DROP [0:0]\n-A FORWARD -p tcp -m tcp --dport 80 -j ACCEPT", MostDropped},
		{"not some ports", ":FORWARD ACCEPT [0:0]\n-A FORWARD -p tcp -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable", SomeDropped},
		{"all else is rejected, as firewalld does", ":FORWARD ACCEPT [0:0]\n-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A FORWARD -j REJECT --reject-with icmp-host-prohibited", MostDropped},
		{"ufw", ":FORWARD DROP [0:0]\n:ufw-before-forward - [0:0]\n:ufw-user-forward - [0:0]\n-A FORWARD -j ufw-before-forward\n-A ufw-before-forward -p icmp -m icmp --icmp-type 8 -j ACCEPT\n-A ufw-before-forward -j ufw-user-forward", MostDropped},
		{"goto", ":FORWARD DROP [0:0]\n:X - [0:0]\n-A FORWARD -g X\n-A FORWARD -j ACCEPT\n-A X -j RETURN", Dropped},
		{"a loop", ":FORWARD ACCEPT [0:0]\n:X - [0:0]\n-A FORWARD -j X\n-A X -j FORWARD", Passes},
		{"a chain that is not there", ":FORWARD DROP [0:0]\n-A FORWARD -j X", Dropped},
		{"what libvirt makes of a filterref", ":FORWARD ACCEPT [0:0]\n:libvirt-in - [0:0]\n-A FORWARD -j libvirt-in\n-A libvirt-in -j DROP", Passes},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := ParseSave(IPv4, "iptables-legacy", []byte("*filter\n"+c.rules+"\nCOMMIT\n"))
			forward := chainIn(t, r, "FORWARD")
			require.Equal(t, Forward, forward.Hook)
			require.Equal(t, c.want, r.Fate(forward, Frame{In: "br0", Out: "br0", Bridged: true}))
			require.Equal(t, "iptables-legacy -t filter -S FORWARD", forward.Show())
		})
	}
}

func TestFateOfSavedBridge(t *testing.T) {
	r := ParseSave(Bridge, ebtables, []byte("*filter\n:INPUT ACCEPT\n:FORWARD DROP\n:OUTPUT ACCEPT\n-A FORWARD --logical-in br0 -o ! eth1 -j ACCEPT\n"))
	forward := chainIn(t, r, "FORWARD")
	require.Equal(t, Passes, r.Fate(forward, Frame{In: "eth0", Out: "vnet0", InBridge: "br0"}))
	require.Equal(t, Dropped, r.Fate(forward, Frame{In: "eth0", Out: "eth1", InBridge: "br0"}))
	require.Equal(t, Dropped, r.Fate(forward, Frame{In: "eth0", Out: "vnet0", InBridge: "br1"}))
	require.Equal(t, "ebtables-legacy -t filter -L FORWARD", forward.Show())
	require.False(t, chainIn(t, r, "INPUT").Base)
}

// attr is a netlink attribute.
func attr(typ uint16, values ...[]byte) []byte {
	var v []byte
	for _, x := range values {
		v = append(v, x...)
	}
	b := binary.NativeEndian.AppendUint16(nil, uint16(len(v)+4))
	b = append(binary.NativeEndian.AppendUint16(b, typ), v...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func be(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

func expression(name string, data ...[]byte) []byte {
	return attr(unix.NFTA_LIST_ELEM, attr(unix.NFTA_EXPR_NAME, append([]byte(name), 0)), attr(unix.NFTA_EXPR_DATA, data...))
}

func noSets(Family, string, string) (set, error) { return set{}, unix.ENOENT }

func TestParseRule(t *testing.T) {
	b := append([]byte{byte(Bridge), 0, 0, 0}, attr(unix.NFTA_RULE_TABLE, []byte("f\x00"))...)
	b = append(b, attr(unix.NFTA_RULE_CHAIN, []byte("c\x00"))...)
	b = append(b, attr(unix.NFTA_RULE_EXPRESSIONS,
		expression("meta", attr(unix.NFTA_META_DREG, be(8)), attr(unix.NFTA_META_KEY, be(unix.NFT_META_IIFNAME))),
		expression("cmp", attr(unix.NFTA_CMP_SREG, be(8)), attr(unix.NFTA_CMP_OP, be(unix.NFT_CMP_NEQ)), attr(unix.NFTA_CMP_DATA, attr(unix.NFTA_DATA_VALUE, []byte("vnet")))),
		expression("counter"),
		expression("target", attr(unix.NFTA_TARGET_NAME, []byte("standard\x00")), attr(unix.NFTA_TARGET_INFO, []byte{0xfe, 0xff, 0xff, 0xff})),
	)...)
	of, r, err := parseRule(b, noSets)
	require.NoError(t, err)
	require.Equal(t, Chain{Family: Bridge, Table: "f", Name: "c"}, of)
	require.Equal(t, []rule{{when: []condition{{in, []deviceName{{"vnet", true}}, true}}, verdict: drop}}, r)
	for n := range b { // a message that ends early
		if _, _, err := parseRule(b[:n], noSets); err != nil {
			require.ErrorIs(t, err, ErrMalformed)
		}
	}
}

func FuzzNFTables(f *testing.F) {
	f.Add([]byte{7, 0, 0, 0, 8, 0, 1, 0, 'f', 0, 0, 0})
	f.Add(append([]byte{7, 0, 0, 0}, attr(unix.NFTA_RULE_EXPRESSIONS, expression("match", attr(unix.NFTA_MATCH_NAME, []byte("physdev")), attr(unix.NFTA_MATCH_INFO, make([]byte, 72))))...))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseChain(b)
		if err != nil {
			require.ErrorIs(t, err, ErrMalformed)
		}
		var s set
		if err := s.parse(b); err != nil {
			require.ErrorIs(t, err, ErrMalformed)
		}
		_, r, err := parseRule(b, func(Family, string, string) (set, error) { return s, nil })
		if err != nil {
			require.ErrorIs(t, err, ErrMalformed)
		}
		c.rules = append(r, r...)
		Rules{c}.Fate(c, Frame{In: "a"})
	})
}

func FuzzParseSave(f *testing.F) {
	f.Add("*filter\n:FORWARD DROP [0:0]\n-A FORWARD ! -i br+ -m comment --comment \"a b\" -j X\n:X - [0:0]\n")
	f.Add("*filter\n:FORWARD DROP\n-A FORWARD -o ! eth0 -g FORWARD")
	f.Fuzz(func(_ *testing.T, text string) {
		r := ParseSave(Bridge, ebtables, []byte(text))
		for _, c := range r {
			r.Fate(c, Frame{In: "a", Out: "b"})
		}
	})
}
