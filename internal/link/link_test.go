package link

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// reply builds an RTM_NEWLINK payload.
func reply(attrs ...*nl.RtAttr) []byte {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index, msg.Flags = 7, unix.IFF_UP
	b := msg.Serialize()
	for _, a := range attrs {
		b = append(b, a.Serialize()...)
	}
	return b
}

func vlanInfo(id []byte) *nl.RtAttr {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO|unix.NLA_F_NESTED, nil)
	info.AddRtAttr(unix.IFLA_INFO_KIND, nl.ZeroTerminated("vlan"))
	data := nl.NewRtAttr(unix.IFLA_INFO_DATA, nil)
	data.AddRtAttr(unix.IFLA_VLAN_ID, id)
	info.AddChild(data)
	return info
}

func TestParseLink(t *testing.T) {
	l, err := parseLink(reply(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated("eth0.9")), vlanInfo(nl.Uint16Attr(9))))
	require.NoError(t, err)
	require.Equal(t, Link{Index: 7, Name: "eth0.9", Kind: "vlan", VLANID: 9, Up: true}, l)

	l, err = parseLink(reply(nl.NewRtAttr(unix.IFLA_LINK, nl.Uint32Attr(4)), nl.NewRtAttr(unix.IFLA_LINK_NETNSID, nl.Uint32Attr(0)), nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(3))))
	require.NoError(t, err)
	require.Equal(t, Link{Index: 7, Up: true, Parent: 4, ParentElsewhere: true, Master: 3}, l)
}

func TestParseLinkRefuses(t *testing.T) {
	for name, b := range map[string][]byte{
		"empty":             nil,
		"short header":      make([]byte, 15),
		"cut attribute":     append(reply(), 9, 0, 3, 0, 'e'),
		"attribute too big": append(reply(), 255, 255, 3, 0),
		"short MTU":         reply(nl.NewRtAttr(unix.IFLA_MTU, []byte{1})),
		"short VLAN id":     reply(vlanInfo([]byte{1})),
	} {
		_, err := parseLink(b)
		require.ErrorIs(t, err, ErrMalformed, name)
	}
}

func TestErrnoStaysInTheChain(t *testing.T) {
	err := error(&OpError{Op: "look up", Link: "eth9", Err: mapErrno(unix.ENODEV)})
	require.ErrorIs(t, err, ErrNotFound)
	require.ErrorIs(t, err, unix.ENODEV)
	require.False(t, errors.Is(err, ErrExists))
	require.Equal(t, "look up eth9: no such network device", err.Error())
}

// libvirtd's AppArmor profile, in which hooks run, allows netlink only as SOCK_RAW.
func TestConnIsARawSocket(t *testing.T) {
	c, err := Open()
	require.NoError(t, err)
	defer c.Close()
	typ, err := unix.GetsockoptInt(c.sock.GetFd(), unix.SOL_SOCKET, unix.SO_TYPE)
	require.NoError(t, err)
	require.Equal(t, unix.SOCK_RAW, typ)
}

func FuzzParseLink(f *testing.F) {
	f.Add(reply(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated("eth0.9")), vlanInfo(nl.Uint16Attr(9))))
	f.Add(reply(nl.NewRtAttr(unix.IFLA_ADDRESS, []byte{1, 2, 3, 4, 5, 6})))
	f.Add(bridgeReply())
	f.Add(bridgePortReply())
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := parseLink(b); err != nil {
			require.ErrorIs(t, err, ErrMalformed)
		}
	})
}
