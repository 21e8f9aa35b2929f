package vdpnl_test

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/vdpnl"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	require.NoError(t, err)
	return b
}

// libvirt 9's own message: ASSOCIATE on eth0, libnl 3.7, which sets
// NLA_F_NESTED.
const associate = `9c000000 1300 0500 07000000 2a000000   00000000 03000000 00000000 00000000
	0900 0300 65746830 00000000
	4000 1680  3c00 0180  2800 0100 ffffffff 525400c73ece 0000000000000000000000000000000000000000000000000000
	                      1000 0200 ffffffff 03000000 00000000
	3000 1880  2c00 0180  0c00 0300 0c 563412 01 000000
	                      1400 0400 fa9b7fffb0a04893abcdbeef4ff18f8f
	                      0500 0600 02 000000`

func uuid(t testing.TB) vdp.ID {
	id, err := vdp.ParseUUID("fa9b7fff-b0a0-4893-abcd-beef4ff18f8f")
	require.NoError(t, err)
	return id
}

func wanted(t testing.TB) vdpnl.Request {
	return vdpnl.Request{
		Header:  vdpnl.Header{Type: unix.RTM_SETLINK, Seq: 7, Pid: 42},
		Ifindex: 3, Ifname: "eth0",
		Set: &vdpnl.Set{Mode: vdp.Associate, VSI: vdp.VSI{
			ID: uuid(t), Manager: vdp.ManagerID{12}, TypeID: 0x123456, TypeVersion: 1,
			FilterFormat: vdp.FilterMACVID,
			Filters:      []vdp.Filter{{MAC: vdp.MAC{0x52, 0x54, 0, 0xc7, 0x3e, 0xce}, VID: 3}},
		}},
	}
}

func littleEndian(t testing.TB) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the captured messages are little endian")
	}
}

func TestParseLibvirt(t *testing.T) {
	littleEndian(t)
	r, rest, err := vdpnl.Parse(unhex(t, associate))
	require.NoError(t, err)
	require.Empty(t, rest)
	require.Equal(t, wanted(t), r)
}

// Any order of attributes, either form of nests, attributes that we do not
// know: all the same request.
func TestParseAnyOrder(t *testing.T) {
	littleEndian(t)
	mac := attr(1, append(unhex(t, "ffffffff525400c73ece"), make([]byte, 26)...))
	vlan := attr(2, unhex(t, "ffffffff0300000000000000"))
	vsi := attr(3, unhex(t, "0c5634120100eeff")) // lldpad's peers leave the padding as it was
	id := attr(4, unhex(t, "fa9b7fffb0a04893abcdbeef4ff18f8f"))
	self := attr(1, unhex(t, "ffffffff"))
	unknown := attr(99, []byte("x"))
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 0))
		mix := func(l ...[]byte) (b []byte) {
			l = append(l, unknown)
			r.Shuffle(len(l), func(i, j int) { l[i], l[j] = l[j], l[i] })
			for _, a := range l {
				b = append(b, a...)
			}
			return b
		}
		flag := uint16(0)
		if r.IntN(2) == 0 {
			flag = unix.NLA_F_NESTED
		}
		request := attr(6, []byte{2})
		if r.IntN(2) == 0 {
			request = attr(6, []byte{2, 0}) // lldpad writes 16 bits
		}
		body := mix(attr(3, []byte("eth0\x00")),
			attr(22|flag, attr(1|flag, mix(mac, vlan))),
			attr(24|flag, attr(1|flag, mix(vsi, id, request, self))))
		got, _, err := vdpnl.Parse(set(body))
		require.NoError(t, err)
		require.Equal(t, wanted(t), got)
	}
}

func attr(typ uint16, v []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(v)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, v...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func set(body []byte) []byte {
	b := make([]byte, 32)
	binary.NativeEndian.PutUint32(b, uint32(32+len(body)))
	binary.NativeEndian.PutUint16(b[4:], unix.RTM_SETLINK)
	binary.NativeEndian.PutUint32(b[8:], 7)
	binary.NativeEndian.PutUint32(b[12:], 42)
	binary.NativeEndian.PutUint32(b[20:], 3)
	return append(b, body...)
}

func TestParseRejects(t *testing.T) {
	littleEndian(t)
	mac := attr(1, append(unhex(t, "ffffffff525400c73ece"), make([]byte, 26)...))
	vlan := attr(2, unhex(t, "ffffffff0300000000000000"))
	vsi, id, req := attr(3, unhex(t, "0c56341201000000")), attr(4, make([]byte, 16)), attr(6, []byte{2})
	cat := func(l ...[]byte) (b []byte) {
		for _, a := range l {
			b = append(b, a...)
		}
		return b
	}
	info := func(l ...[]byte) []byte { return attr(22, attr(1, cat(l...))) }
	port := func(l ...[]byte) []byte { return attr(24, attr(1, cat(l...))) }
	require.NotPanics(t, func() {
		_, _, err := vdpnl.Parse(set(cat(info(vlan), port(vsi, id, req))))
		require.NoError(t, err, "a MAC address is optional")
	})
	for name, body := range map[string][]byte{
		"nothing":         nil,
		"no VLAN":         cat(info(mac), port(vsi, id, req)),
		"no port":         info(mac, vlan),
		"no type":         cat(info(mac, vlan), port(id, req)),
		"no UUID":         cat(info(mac, vlan), port(vsi, req)),
		"no request":      cat(info(mac, vlan), port(vsi, id)),
		"request 4":       cat(info(mac, vlan), port(vsi, id, attr(6, []byte{4}))),
		"empty request":   cat(info(mac, vlan), port(vsi, id, attr(6, nil))),
		"short MAC":       cat(info(attr(1, make([]byte, 10)), vlan), port(vsi, id, req)),
		"two MACs":        cat(info(mac, mac, vlan), port(vsi, id, req)),
		"short VLAN":      cat(info(mac, attr(2, make([]byte, 8))), port(vsi, id, req)),
		"VLAN 4095":       cat(info(mac, attr(2, unhex(t, "ffffffffff0f000000000000"))), port(vsi, id, req)),
		"short type":      cat(info(mac, vlan), port(attr(3, make([]byte, 5)), id, req)),
		"short UUID":      cat(info(mac, vlan), port(vsi, attr(4, make([]byte, 15)), req)),
		"two ports":       cat(info(mac, vlan), attr(24, cat(attr(1, cat(vsi, id, req)), attr(1, cat(vsi, id, req))))),
		"long name":       cat(attr(3, []byte("0123456789abcdef\x00")), info(mac, vlan), port(vsi, id, req)),
		"NUL in name":     cat(attr(3, []byte("a\x00b\x00")), info(mac, vlan), port(vsi, id, req)),
		"attribute cut":   {8, 0, 3},
		"attribute of 3":  {3, 0, 3, 0},
		"attribute of 99": {99, 0, 3, 0},
	} {
		r, rest, err := vdpnl.Parse(set(body))
		require.ErrorIs(t, err, vdpnl.ErrMalformed, name)
		require.Equal(t, uint32(7), r.Seq, name)
		require.Nil(t, r.Set, name)
		require.Empty(t, rest, name)
	}
	b := set(nil)
	b[4] = 16
	_, _, err := vdpnl.Parse(b)
	require.ErrorIs(t, err, vdpnl.ErrUnknownType)
	for _, b := range [][]byte{nil, b[:15], b[:31]} {
		_, rest, err := vdpnl.Parse(b)
		require.ErrorIs(t, err, vdpnl.ErrMalformed)
		require.Nil(t, rest)
	}
}

func TestReplies(t *testing.T) {
	littleEndian(t)
	h := vdpnl.Header{Type: unix.RTM_SETLINK, Seq: 7, Pid: 42}
	require.Equal(t, unhex(t, `24000000 0200 0000 07000000 63000000 faffffff
		00000000 1300 0000 07000000 2a000000`), vdpnl.Ack(h, 99, unix.ENXIO))
	require.Equal(t, unhex(t, `6c000000 0300 0000 07000000 63000000  00000000 03000000 00000000 00000000
		4c00 1880
		2800 0180 1400 0400 fa9b7fffb0a04893abcdbeef4ff18f8f 0800 0100 ffffffff 0600 0700 0200 0000
		2000 0180 1400 0400 fa9b7fffb0a04893abcdbeef4ff18f8f 0800 0100 ffffffff`),
		status(t, h, 3, vdpnl.Port{ID: uuid(t), Done: true, Response: 2}, vdpnl.Port{ID: uuid(t)}))

	// What we indicate can be read back as a request to disassociate.
	want := wanted(t)
	want.Set.Mode = vdp.DeAssociate
	got, _, err := vdpnl.Parse(vdpnl.Deassociated(want.Header, 42, 3, "eth0", &want.Set.VSI))
	require.NoError(t, err)
	require.Equal(t, want, got)
}

// status is an answer to RTM_GETLINK that fits into one message.
func status(t testing.TB, h vdpnl.Header, ifindex int32, ports ...vdpnl.Port) []byte {
	all := vdpnl.Status(h, 99, ifindex, slices.Values(ports))
	require.Len(t, all, 1)
	return all[0]
}

// The VSIs of a full port come in messages of at most 32 KiB, in order. Each is
// one that libvirt 9 takes by itself: of type 3 or 16, an ifinfomsg and one
// IFLA_VF_PORTS (virnetlink.c:virNetlinkDumpLink).
func TestStatusOfThousand(t *testing.T) {
	littleEndian(t)
	h := vdpnl.Header{Type: unix.RTM_GETLINK, Seq: 7, Pid: 42}
	for _, n := range []int{0, 1, 1000, 4096} {
		ports := make([]vdpnl.Port, n)
		for i := range ports {
			ports[i] = vdpnl.Port{ID: vdp.UUID([16]byte{14: byte(i >> 8), 15: byte(i)}), Done: i%3 != 0}
		}
		messages := vdpnl.Status(h, 99, 3, slices.Values(ports))
		require.Equal(t, n >= 1000, len(messages) > 1, n)
		var got []vdpnl.Port
		for i, b := range messages {
			last := i == len(messages)-1
			require.LessOrEqual(t, len(b), vdpnl.MaxMessage)
			require.Equal(t, int(binary.NativeEndian.Uint32(b)), len(b))
			require.Equal(t, len(b)-32, int(binary.NativeEndian.Uint16(b[32:])), "one list is all that follows")
			require.Equal(t, map[bool]uint16{true: unix.NLMSG_DONE, false: unix.RTM_NEWLINK}[last], binary.NativeEndian.Uint16(b[4:]))
			require.Equal(t, len(messages) > 1, binary.NativeEndian.Uint16(b[6:]) == unix.NLM_F_MULTI)
			r, err := vdpnl.ParseReply(b)
			require.NoError(t, err)
			require.Equal(t, !last, r.More)
			require.Equal(t, uint32(7), r.Seq)
			got = append(got, r.Ports...)
		}
		require.Equal(t, n, len(got))
		if n > 0 {
			require.Equal(t, ports, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(unhex(f, associate))
	f.Add(set(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			r, rest, err := vdpnl.Parse(b)
			if err == nil && r.Set != nil {
				if err := r.Set.VSI.Validate(vdp.Edition2012); err != nil {
					t.Fatal(err)
				}
				if r.Set.Mode < vdp.PreAssociate || r.Set.Mode > vdp.DeAssociate {
					t.Fatal(r.Set.Mode)
				}
			}
			if err != nil && !errors.Is(err, vdpnl.ErrMalformed) && !errors.Is(err, vdpnl.ErrUnknownType) {
				t.Fatalf("untyped error %v", err)
			}
			if len(rest) >= len(b) {
				t.Fatal("no progress")
			}
			b = rest
		}
	})
}
