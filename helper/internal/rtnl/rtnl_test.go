package rtnl

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/ether"
)

func FuzzParseLink(f *testing.F) {
	var m Batch
	m.link(0, 3, unix.IFF_UP, 0)
	m.attrString(unix.IFLA_IFNAME, "eth0.5")
	m.attr32(unix.IFLA_LINK, 2)
	m.nest(unix.IFLA_LINKINFO, func() {
		m.attrString(unix.IFLA_INFO_KIND, "vlan")
		m.nest(unix.IFLA_INFO_DATA, func() { m.attr16(unix.IFLA_VLAN_ID, 5) })
	})
	f.Add(m.b)
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = parseLink(b) })
}

func TestParseLink(t *testing.T) {
	var m Batch
	m.link(0, 3, unix.IFF_UP, 0)
	m.attrString(unix.IFLA_IFNAME, "br0")
	m.attr(unix.IFLA_ADDRESS, []byte{2, 0, 0, 0, 0, 1})
	m.attr32(unix.IFLA_MTU, 1450)
	m.nest(unix.IFLA_LINKINFO, func() {
		m.attrString(unix.IFLA_INFO_KIND, "bridge")
		m.nest(unix.IFLA_INFO_DATA, func() {
			m.attr8(unix.IFLA_BR_VLAN_FILTERING, 1)
			m.attr16(unix.IFLA_BR_VLAN_DEFAULT_PVID, 1)
		})
	})
	l, err := parseLink(m.b)
	require.NoError(t, err)
	require.Equal(t, Link{Index: 3, Name: "br0", Flags: unix.IFF_UP, MTU: 1450, MAC: ether.MAC{2, 0, 0, 0, 0, 1}, Kind: "bridge",
		VLANFiltering: true, DefaultPVID: 1}, l)
	_, err = parseLink(m.b[:15])
	require.ErrorIs(t, err, ErrMalformed)
}

func FuzzParseError(f *testing.F) {
	f.Add(make([]byte, 36))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= unix.SizeofNlMsghdr+4 {
			_ = parseError(b, 0)
		}
	})
}

// The loopback device is everywhere, and asking for it needs no privilege.
func TestLinkByName(t *testing.T) {
	c, err := Dial()
	require.NoError(t, err)
	defer c.Close()
	l, err := c.LinkByName("lo")
	require.NoError(t, err)
	require.Equal(t, 1, l.Index)
	require.EqualValues(t, unix.ARPHRD_LOOPBACK, l.Type)
	_, err = c.LinkByName("no-such-device")
	require.ErrorIs(t, err, ErrNoLink)
}
