package link

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// linkInfo is IFLA_LINKINFO of a bridge, or of a port of one.
func linkInfo(kind, data int, attrs ...*nl.RtAttr) *nl.RtAttr {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO|unix.NLA_F_NESTED, nil)
	info.AddRtAttr(kind, nl.ZeroTerminated("bridge"))
	inner := nl.NewRtAttr(data|unix.NLA_F_NESTED, nil)
	for _, a := range attrs {
		inner.AddChild(a)
	}
	info.AddChild(inner)
	return info
}

func bridgeReply() []byte {
	return reply(linkInfo(unix.IFLA_INFO_KIND, unix.IFLA_INFO_DATA,
		nl.NewRtAttr(unix.IFLA_BR_STP_STATE, nl.Uint32Attr(1)),
		nl.NewRtAttr(unix.IFLA_BR_VLAN_FILTERING, []byte{1}),
		nl.NewRtAttr(unix.IFLA_BR_GROUP_FWD_MASK, nl.Uint16Attr(1<<14))))
}

func bridgePortReply() []byte {
	return reply(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(9)), linkInfo(unix.IFLA_INFO_SLAVE_KIND, unix.IFLA_INFO_SLAVE_DATA,
		nl.NewRtAttr(unix.IFLA_BRPORT_STATE, []byte{3}),
		nl.NewRtAttr(unix.IFLA_BRPORT_LEARNING, []byte{1}),
		nl.NewRtAttr(unix.IFLA_BRPORT_MODE, []byte{0}),
		nl.NewRtAttr(unix.IFLA_BRPORT_GUARD, []byte{0})))
}

func TestParseBridge(t *testing.T) {
	l, err := parseLink(bridgeReply())
	require.NoError(t, err)
	require.Equal(t, &Bridge{STP: true, VLANFiltering: true, GroupFwdMask: 1 << 14}, l.Bridge)
	require.Nil(t, l.Port)

	l, err = parseLink(bridgePortReply())
	require.NoError(t, err)
	require.Nil(t, l.Bridge)
	require.Equal(t, 9, l.Master)
	require.Equal(t, 3, l.Port.State)
	require.Equal(t, "learning on, hairpin off, bpduguard off", l.Port.String())
	no, yes := false, true
	require.Equal(t, "hairpin", l.Port.Differ(PortFlags{Learning: &yes, Hairpin: &yes}))
	require.Equal(t, "isolated", l.Port.Differ(PortFlags{Isolated: &no}), "this kernel does not know it")
	require.Empty(t, l.Port.Differ(PortFlags{Hairpin: &no}))

	for name, b := range map[string][]byte{
		"short mask":  reply(linkInfo(unix.IFLA_INFO_KIND, unix.IFLA_INFO_DATA, nl.NewRtAttr(unix.IFLA_BR_GROUP_FWD_MASK, []byte{1}))),
		"short STP":   reply(linkInfo(unix.IFLA_INFO_KIND, unix.IFLA_INFO_DATA, nl.NewRtAttr(unix.IFLA_BR_STP_STATE, []byte{1}))),
		"long filter": reply(linkInfo(unix.IFLA_INFO_KIND, unix.IFLA_INFO_DATA, nl.NewRtAttr(unix.IFLA_BR_VLAN_FILTERING, []byte{1, 0}))),
		"long flag":   reply(linkInfo(unix.IFLA_INFO_SLAVE_KIND, unix.IFLA_INFO_SLAVE_DATA, nl.NewRtAttr(unix.IFLA_BRPORT_LEARNING, []byte{1, 0}))),
	} {
		_, err := parseLink(b)
		require.ErrorIs(t, err, ErrMalformed, name)
	}
}

// vlanDump is a payload of RTM_NEWVLAN: VLANs 1 (native) and 20 to 22.
func vlanDump() []byte {
	b := brVLANMsg(7).Serialize()
	for _, e := range []struct{ flags, first, last uint16 }{{vlanPVID | vlanUntagged, 1, 0}, {0, 20, 22}} {
		entry := nl.NewRtAttr(vlanDBEntry|unix.NLA_F_NESTED, nil)
		entry.AddRtAttr(vlanDBEntryInfo, append(nl.Uint16Attr(e.flags), nl.Uint16Attr(e.first)...))
		if e.last > 0 {
			entry.AddRtAttr(vlanDBEntryRange, nl.Uint16Attr(e.last))
		}
		b = append(b, entry.Serialize()...)
	}
	return b
}

func TestParsePortVLANs(t *testing.T) {
	vlans, err := parsePortVLANs(vlanDump())
	require.NoError(t, err)
	require.Equal(t, []PortVLAN{{ID: 1, PVID: true, Untagged: true}, {ID: 20}, {ID: 21}, {ID: 22}}, vlans)
	short := nl.NewRtAttr(vlanDBEntry|unix.NLA_F_NESTED, nil)
	short.AddRtAttr(vlanDBEntryInfo, []byte{1})
	for name, b := range map[string][]byte{
		"empty": nil, "no number": append(brVLANMsg(7).Serialize(), nl.NewRtAttr(vlanDBEntry, nil).Serialize()...),
		"short entry": append(brVLANMsg(7).Serialize(), short.Serialize()...),
	} {
		_, err := parsePortVLANs(b)
		require.ErrorIs(t, err, ErrMalformed, name)
	}
}

// Neighbours with equal flags go as a range, the native VLAN never.
func TestVLANSpec(t *testing.T) {
	var got [][2]uint16
	spec := vlanSpec([]PortVLAN{{ID: 9}, {ID: 10, PVID: true}, {ID: 11}, {ID: 12}, {ID: 13}, {ID: 14, Untagged: true}, {ID: 16}}).Serialize()
	require.NoError(t, EachAttr(spec[unix.SizeofRtAttr:], func(typ uint16, v []byte) error {
		require.EqualValues(t, nl.IFLA_BRIDGE_VLAN_INFO, typ)
		got = append(got, [2]uint16{binary.NativeEndian.Uint16(v), binary.NativeEndian.Uint16(v[2:])})
		return nil
	}))
	require.Equal(t, [][2]uint16{{0, 9}, {vlanPVID, 10}, {vlanRangeBegin, 11}, {vlanRangeEnd, 13}, {vlanUntagged, 14}, {0, 16}}, got)
}

func FuzzParsePortVLANs(f *testing.F) {
	f.Add(vlanDump())
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		vlans, err := parsePortVLANs(b)
		if err != nil {
			require.ErrorIs(t, err, ErrMalformed)
		}
		for _, v := range vlans {
			require.True(t, v.ID > 0 && v.ID < 4096)
		}
	})
}
