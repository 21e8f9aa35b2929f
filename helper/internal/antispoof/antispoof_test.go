package antispoof

import (
	"encoding/binary"
	"encoding/hex"
	"flag"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/ether"
	"libvirt-direct/helper/internal/linkproto"
	"libvirt-direct/helper/internal/policy"
)

var (
	seed   = flag.Uint64("seed", 1, "of the random frames")
	rounds = flag.Int("rounds", 400, "how many filters get random frames")
)

var guest = ether.MAC{0x52, 0x54, 0x00, 0xaa, 0xbb, 0xcc}

var (
	none   = policy.VLANSet{}
	every  = policy.VLANSet{All: true}
	listed = policy.VLANSet{Ranges: []policy.VLANRange{{First: 0, Last: 0}, {First: 10, Last: 19}, {First: 4094, Last: 4094}}}
)

// widest is as many ranges as the parser takes.
func widest() policy.VLANSet {
	var set policy.VLANSet
	for i := range uint16(32) {
		set.Ranges = append(set.Ranges, policy.VLANRange{First: 100 * i, Last: 100*i + 50})
	}
	return set
}

func setOf(t testing.TB, names ...string) (s linkproto.Set) {
	for _, n := range names {
		require.True(t, s.Add(n), n)
	}
	return s
}

func allNames() (names []string) {
	for _, p := range linkproto.All() {
		names = append(names, p.Name)
	}
	return names
}

func passes(t testing.TB, p []unix.SockFilter, f frame) bool {
	t.Helper()
	verdict, err := execute(p, f)
	require.NoError(t, err, f)
	require.True(t, verdict == Pass || verdict == Drop)
	return verdict == Pass
}

// The kernel takes the programs, the largest too, and the common one is short.
func TestKernelLoads(t *testing.T) {
	for _, vlans := range []policy.VLANSet{none, listed, every, widest()} {
		requireLoads(t, Outgoing(guest, vlans, linkproto.Set{}))
		requireLoads(t, Outgoing(guest, vlans, setOf(t, allNames()...)))
		for _, name := range allNames() {
			requireLoads(t, Outgoing(guest, vlans, setOf(t, name)))
		}
		requireLoads(t, Incoming(&guest, vlans))
		if !vlans.All {
			requireLoads(t, Incoming(nil, vlans))
		}
	}
	require.Empty(t, Incoming(nil, every))
}

// build writes a frame from hexadecimal parts, padded as on the wire.
func build(t testing.TB, parts ...string) frame {
	b, err := hex.DecodeString(strings.NewReplacer(":", "", " ", "").Replace(strings.Join(parts, "")))
	require.NoError(t, err)
	return frame{octets: append(b, make([]byte, 60)...)}
}

const (
	own   = "525400aabbcc"
	bcast = "ffffffffffff"
	peer  = "020000000099"
)

// Frames as the protocols' standards have them, which do not come from the table. Each is dropped, and passes where its
// protocol is allowed.
func TestProtocols(t *testing.T) {
	for _, test := range []struct{ allow, dst, rest string }{
		{"stp", "0180c2000000", "0026 424203 0000000000"},
		{"stp", "0180c2000008", "0027 424203 0000020204"},
		{"stp", peer, "0026 424203 0000000000"},
		{"stp", bcast, "0026 434203 0000000000"},
		{"garp", "0180c2000021", "0026 424203 0001"},
		{"mvrp", "0180c2000021", "88f5"}, {"mmrp", "0180c2000020", "88f6"}, {"msrp", "0180c200000e", "22ea"},
		{"pause", "0180c2000001", "8808 0001ffff"}, {"pause", peer, "8808 0001ffff"}, {"pause", bcast, "8808 0101"},
		{"lacp", "0180c2000002", "8809 01"}, {"lacp", peer, "8809 01"},
		{"eapol", "0180c2000003", "888e 02"}, {"eapol", peer, "888e 02"}, {"wlan", peer, "88c7"},
		{"macsec", peer, "88e5"}, {"lldp", "0180c200000e", "88cc"}, {"lldp", bcast, "88cc"}, {"ecp", "0180c2000000", "8940"},
		{"ptp-link", "0180c200000e", "88f7 02"}, {"cfm", "0180c2000033", "8902"}, {"cfm", "0119a7000001", "8902"}, {"cfm", peer, "8902"},
		{"e-lmi", "0180c2000007", "88ee"}, {"isis-802", "0180c2000014", "05dc fefe03 83"}, {"trill", "0180c2000040", "22f3"},
		{"trill", "0180c2000041", "22f4"}, {"ieee-1905", "0180c2000013", "893a"}, {"ieee-groups", "0180c2000010", "0800"},
		{"i-tag", bcast, "88e7"}, {"e-tag", bcast, "893f"}, {"vn-tag", bcast, "8926"}, {"r-tag", bcast, "f1c1"},
		{"cmd-tag", bcast, "8909"}, {"fabricpath", bcast, "8903"}, {"fabricpath", "010fffc101c0", "8903"}, {"dsa-tag", bcast, "dada"},
		{"jumbo-llc", bcast, "8870 424203"}, {"oui-extended", bcast, "88b7 0080c2"}, {"snap-vendor", bcast, "0026 aaaa03 0080c2 000e"},
		{"cdp", "01000ccccccc", "0026 aaaa03 00000c 2000"}, {"vtp", "01000ccccccc", "0026 aaaa03 00000c 2003"},
		{"dtp", "01000ccccccc", "0026 aaaa03 00000c 2004"}, {"pagp", "01000ccccccc", "0026 aaaa03 00000c 0104"},
		{"udld", "01000ccccccc", "0026 aaaa03 00000c 0111"}, {"pvst", "01000ccccccd", "0032 aaaa03 00000c 010b"},
		{"pvst", bcast, "0032 aaaa03 00000c 010b"}, {"isl", "01000c000010", "0060 aaaa03 00000c 0002"}, {"l2pt", "01000ccdcdd0", "88b5"},
		{"cgmp", "01000cdddddd", "0026 aaaa03 00000c 2001"}, {"cisco-groups", "01000c123456", "0026 aaaa03 00000c 1234"},
		{"extreme", "00e02b000004", "0026 aaaa03 00e02b 00bb"}, {"foundry", "01e052cccccc", "0026 aaaa03 00e052 2000"},
		{"nortel", "010081000100", "0026 aaaa03 000081 01a2"}, {"h3c", "010fe2000003", "88b5"}, {"rrpp", "000fe2078217", "0048 aaaa03 00e02b 00bb"},
		{"teaming", bcast, "886d"}, {"realtek", bcast, "8899"}, {"bddp", bcast, "8942"}, {"ncsi", bcast, "88f8"},
		{"loopback", "cf0000000000", "9000"}, {"loopback", peer, "9000"}, {"media-redundancy", "01154e000101", "88e3"},
		{"hsr-prp", "01154e000100", "88fb"}, {"hsr-prp", bcast, "892f"}, {"dlr", "01216c000001", "80e1"}, {"dec-stp", "09002b010001", "8038"},
	} {
		for _, f := range []struct {
			vlans policy.VLANSet
			frame frame
		}{
			{none, build(t, test.dst, own, test.rest)},
			{listed, build(t, test.dst, own, test.rest)},
			{listed, build(t, test.dst, own, "8100e00a", test.rest)},
			{listed, frame{build(t, test.dst, own, test.rest).octets, true, 0xe00a}},
			{every, build(t, test.dst, own, "8100000a 88a8000b", test.rest)},
			{every, frame{build(t, test.dst, own, "9100000a", test.rest).octets, true, 7}},
		} {
			require.False(t, passes(t, Outgoing(guest, f.vlans, linkproto.Set{}), f.frame), "%s: %s", test.allow, f.frame)
			require.True(t, passes(t, Outgoing(guest, f.vlans, setOf(t, test.allow)), f.frame), "%s: %s", test.allow, f.frame)
			f.frame.octets[11]++
			require.False(t, passes(t, Outgoing(guest, f.vlans, setOf(t, test.allow)), f.frame), "spoofed %s: %s", test.allow, f.frame)
		}
	}
}

// Every entry's every form and destination is dropped, and passes where the entry is allowed.
func TestTable(t *testing.T) {
	for _, p := range linkproto.All() {
		closed, open := Outgoing(guest, none, linkproto.Set{}), Outgoing(guest, none, setOf(t, p.Name))
		var forms []string
		for _, n := range p.Types {
			forms = append(forms, hex.EncodeToString(binary.BigEndian.AppendUint16(nil, n)))
		}
		for _, s := range p.SAPs {
			forms = append(forms, "0026"+hex.EncodeToString([]byte{s, s, 3}))
		}
		for _, s := range p.SNAPs {
			oui := s.OUI
			if oui == linkproto.AnyVendor {
				oui = 0xabcdef
			}
			b := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint32(nil, 3<<24|oui), s.PID)
			forms = append(forms, "0026aaaa"+hex.EncodeToString(b))
		}
		groups := p.Groups
		if !p.Elsewhere {
			groups = append([]linkproto.Prefix{"02:00:00:00:00:99"}, groups...)
		}
		for _, form := range forms {
			for _, g := range groups {
				f := build(t, strings.ReplaceAll(g.String(), "x", "7"), own, form)
				require.False(t, passes(t, closed, f), "%s: %s", p.Name, f)
				require.True(t, passes(t, open, f), "%s: %s", p.Name, f)
			}
		}
		for _, g := range p.Groups {
			f := build(t, strings.ReplaceAll(g.String(), "x", "7"), own, "88b5")
			require.False(t, passes(t, closed, f), "%s: %s", p.Name, f)
			require.Equal(t, len(forms) == 0, passes(t, open, f), "%s: data to the protocol's address: %s", p.Name, f)
		}
	}
}

// Data passes.
func TestData(t *testing.T) {
	p := Outgoing(guest, none, linkproto.Set{})
	for _, f := range []frame{
		build(t, bcast, own, "0800"), build(t, peer, own, "86dd"), build(t, bcast, own, "0806"), build(t, "01005e000001", own, "0800"),
		build(t, "01005e000012", own, "0800 45"), build(t, "333300000001", own, "86dd"), build(t, peer, own, "88b5"),
		build(t, bcast, own, "8863"), build(t, peer, own, "8864"), build(t, peer, own, "8847"), build(t, peer, own, "8906"),
		build(t, peer, own, "88a2"), build(t, peer, own, "8915"), build(t, "011b19000000", own, "88f7"), build(t, peer, own, "88f7"),
		build(t, bcast, own, "8035"), build(t, bcast, own, "0842"), build(t, peer, own, "88ca"), build(t, peer, own, "8892"),
		build(t, bcast, own, "0030 ffff00"), build(t, bcast, own, "0030 e0e003"), build(t, "030000000001", own, "0030 f0f003"),
		build(t, "09002b000005", own, "05dc fefe03"), build(t, peer, own, "0030 aaaa03 080007 809b"),
		build(t, "00e02c000000", own, "0800"), build(t, "000fe2000001", own, "0800"), build(t, "0180c3000000", own, "0800"),
		{octets: build(t, bcast, own, "0800").octets[:14]},
	} {
		require.True(t, passes(t, p, f), f)
	}
	for _, f := range []frame{ // what hides something, or ends too early
		build(t, bcast, own, "0030 aaaa03 000000 8100"), build(t, peer, own, "0030 aaaa03 000000 0800"), build(t, peer, own, "0030 aaaa03 0000f8 0800"), build(t, bcast, own, "0030 aaaa03 000000 0030"), build(t, bcast, own, "0030 aaaae3 000000 0800"),
		build(t, bcast, own, "0030 aaaa03 080007 1234"), build(t, bcast, own, "0030 ffaa03 00000c"), build(t, bcast, own, "0030 ff4203"),
		{octets: build(t, bcast, own, "0030 e0e003").octets[:16]}, {octets: build(t, bcast, own, "0030 aaaa03 000000 0800").octets[:21]},
		{octets: build(t, bcast, own, "0800").octets[:13]}, {},
	} {
		require.False(t, passes(t, p, f), f)
	}
}

func TestTags(t *testing.T) {
	for _, test := range []struct {
		f                   frame
		none, listed, every bool // which filter lets it out, and which in
	}{
		{build(t, bcast, own, "0800"), true, true, true},
		{build(t, bcast, own, "8100e00a 0800"), false, true, true},
		{build(t, bcast, own, "88a8000a 0800"), false, true, true},
		{build(t, bcast, own, "81000000 0800"), false, true, true}, // 0 is listed
		{build(t, bcast, own, "81000014 0800"), false, false, true},
		{build(t, bcast, own, "9100000a 0800"), false, false, true},
		{build(t, bcast, own, "9200000a 0800"), false, false, true},
		{build(t, bcast, own, "9300000a 0800"), false, false, true},
		{build(t, bcast, own, "8100000a 8100000a 0800"), false, false, true},
		{frame{build(t, bcast, own, "0800").octets, true, 10}, false, true, true},
		{frame{build(t, bcast, own, "0800").octets, true, 20}, false, false, true},
		{frame{build(t, bcast, own, "8100000a 0800").octets, true, 10}, false, false, true},
	} {
		for vlans, want := range map[*policy.VLANSet]bool{&none: test.none, &listed: test.listed, &every: test.every} {
			require.Equal(t, want, passes(t, Outgoing(guest, *vlans, linkproto.Set{}), test.f), test.f)
			want = want || string(test.f.octets[12:16]) == "\x81\x00\x00\x00" // a priority tag is in no VLAN
			require.Equal(t, want, passes(t, Incoming(&guest, *vlans), test.f), test.f)
			if vlans != &every {
				require.Equal(t, want, passes(t, Incoming(nil, *vlans), test.f), test.f)
			}
		}
	}
	for _, f := range []frame{
		build(t, bcast, own, "8100000a 8100000b 8100000c 0800"), {build(t, bcast, own, "8100000a 8100000b 0800").octets, true, 9},
		{octets: build(t, bcast, own, "8100000a 0800").octets[:17]}, {octets: build(t, bcast, own, "8100000a 8100000a 0800").octets[:21]},
	} {
		require.False(t, passes(t, Outgoing(guest, every, linkproto.Set{}), f), f)
	}
}

func TestIncomingAddress(t *testing.T) {
	p := Incoming(&guest, none)
	for dst, want := range map[string]bool{
		own: true, bcast: true, "01005e000001": true, "333300000001": true, "0180c200000e": true,
		peer: false, "525400aabbcd": false, "525401aabbcc": false, "000000000000": false,
	} {
		require.Equal(t, want, passes(t, p, build(t, dst, peer, "0800")), dst)
		require.True(t, passes(t, Incoming(nil, none), build(t, dst, peer, "0800")), dst)
	}
	require.False(t, passes(t, p, frame{octets: build(t, own, peer).octets[:13]}))
}

// randomFrame is one that has a good chance to be near some line that the filters draw.
func randomFrame(r *rand.Rand) frame {
	pick := func(from ...uint64) uint64 { return from[r.IntN(len(from))] }
	protocol := func() linkproto.Protocol { return linkproto.All()[r.IntN(len(linkproto.All()))] }
	var b []byte
	octets := func(n uint64, count int) {
		for i := count - 1; i >= 0; i-- {
			b = append(b, byte(n>>(8*i)))
		}
	}
	switch p := protocol(); {
	case r.IntN(2) == 0 && len(p.Groups) > 0:
		value, mask := p.Groups[r.IntN(len(p.Groups))].Match()
		octets(value|r.Uint64()&^mask, 6)
	case r.IntN(2) == 0:
		octets(pick(0x525400aabbcc, 0xffffffffffff, 0x020000000099, 0x01005e000001, 0x0180c3000000, 0x00e02b000100), 6)
	default:
		octets(r.Uint64(), 6)
	}
	source := guest
	if r.IntN(8) == 0 {
		source[r.IntN(6)] ^= 1 << r.IntN(8)
	}
	b = append(b, source[:]...)
	vid := func() uint64 {
		return r.Uint64()&0xf000 | pick(0, 1, 9, 10, 19, 20, 50, 51, 99, 100, 3150, 3151, 4093, 4094, 4095)
	}
	for range pick(0, 0, 1, 1, 2, 3) {
		octets(pick(0x8100, 0x8100, 0x88a8, 0x88a8, 0x9100, 0x9200, 0x9300), 2)
		octets(vid(), 2)
	}
	etherType := func() uint64 {
		if p := protocol(); len(p.Types) > 0 && r.IntN(4) > 0 {
			return uint64(p.Types[r.IntN(len(p.Types))])
		}
		return pick(0x0800, 0x0806, 0x86dd, 0x88b5, 0x88f7, 0x8100, 0x88a8, 0x05ff, 0x0600, 0x0026, r.Uint64())
	}
	if r.IntN(2) == 0 {
		octets(etherType(), 2)
	} else {
		octets(pick(0, 3, 0x26, 0x5dc, 0x5ff), 2)
		octets(pick(0x42, 0x43, 0xaa, 0xaa, 0xaa, 0xab, 0xfe, 0xe0, 0xff, r.Uint64()), 1)
		octets(pick(0x42, 0x43, 0xaa, 0xaa, 0xaa, 0xab, 0xfe, 0xe0, 0xff, r.Uint64()), 1)
		octets(pick(3, 3, 3, 3, 0x13, r.Uint64()), 1)
		if p := protocol(); len(p.SNAPs) > 0 && r.IntN(2) == 0 {
			s := p.SNAPs[r.IntN(len(p.SNAPs))]
			octets(uint64(s.OUI), 3)
			octets(pick(uint64(s.PID), r.Uint64()), 2)
		} else {
			octets(pick(0, 0, 0xf8, 0x080007, 0x00000c, 0x0080c2, r.Uint64()), 3)
			octets(pick(etherType(), 0x809b, 0x2000, 0x010b), 2)
		}
	}
	switch r.IntN(4) {
	case 0:
		b = b[:r.IntN(len(b)+1)]
	case 1:
	default:
		b = append(b, make([]byte, 46)...)
	}
	return frame{b, r.IntN(4) == 0, uint16(vid())}
}

// randomFilter is a choice of what a profile may say.
func randomFilter(r *rand.Rand) (vlans policy.VLANSet, allowed []string) {
	vlans = []policy.VLANSet{none, listed, every, widest()}[r.IntN(4)]
	share := []float64{0, 0, 0.02, 0.1, 0.5, 1}[r.IntN(6)]
	for _, name := range allNames() {
		if r.Float64() < share {
			allowed = append(allowed, name)
		}
	}
	return vlans, allowed
}

// The programs do what the model says. -args -seed N runs other frames.
func TestRandomFrames(t *testing.T) {
	r := rand.New(rand.NewPCG(*seed, 0))
	var out, in, all int
	for range *rounds {
		vlans, allowed := randomFilter(r)
		sends, receives, any := Outgoing(guest, vlans, setOf(t, allowed...)), Incoming(&guest, vlans), Incoming(nil, vlans)
		for range 500 {
			f := randomFrame(r)
			want := outgoing(f, guest, vlans, allowed)
			require.Equal(t, want, passes(t, sends, f), "seed %d: out: %v %v %s", *seed, vlans, allowed, f)
			all++
			if want {
				out++
			}
			want = incoming(f, &guest, vlans)
			require.Equal(t, want, passes(t, receives, f), "seed %d: in: %v %s", *seed, vlans, f)
			if want {
				in++
			}
			if any != nil {
				require.Equal(t, incoming(f, nil, vlans), passes(t, any, f), "seed %d: in, any: %v %s", *seed, vlans, f)
			}
		}
	}
	t.Logf("seed %d: %d of %d frames passed outwards, %d inwards", *seed, out, all, in)
	require.Greater(t, out, all/20, "the frames are not only such as are dropped")
	require.Greater(t, in, all/10)
}

func fuzz(f *testing.F, compare func(t *testing.T, choice uint64, frame frame)) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 64 {
		x := randomFrame(r)
		f.Add(r.Uint64(), x.octets, x.tagged, x.tci)
	}
	f.Fuzz(func(t *testing.T, choice uint64, octets []byte, tagged bool, tci uint16) {
		compare(t, choice, frame{octets, tagged, tci})
	})
}

func FuzzOutgoing(f *testing.F) {
	fuzz(f, func(t *testing.T, choice uint64, x frame) {
		vlans, allowed := randomFilter(rand.New(rand.NewPCG(choice, 0)))
		if len(x.octets) >= 12 && choice&7 != 0 { // most frames get past this
			copy(x.octets[6:], guest[:])
		}
		require.Equal(t, outgoing(x, guest, vlans, allowed), passes(t, Outgoing(guest, vlans, setOf(t, allowed...)), x), "%v %v %s", vlans, allowed, x)
	})
}

func FuzzIncoming(f *testing.F) {
	fuzz(f, func(t *testing.T, choice uint64, x frame) {
		vlans, _ := randomFilter(rand.New(rand.NewPCG(choice, 0)))
		require.Equal(t, incoming(x, &guest, vlans), passes(t, Incoming(&guest, vlans), x), "%v %s", vlans, x)
		if p := Incoming(nil, vlans); p != nil {
			require.Equal(t, incoming(x, nil, vlans), passes(t, p, x), "%v %s", vlans, x)
		}
	})
}

// A part of what each start of a guest takes.
func BenchmarkOutgoing(b *testing.B) {
	for b.Loop() {
		Outgoing(guest, none, linkproto.Set{})
	}
}
