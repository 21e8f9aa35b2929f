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
	f.Add(tapLink())
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := parseLink(b)
		if err == nil && len(l.Names()) != 1+len(l.AltNames) {
			t.Fatal("names are lost")
		}
	})
}

// tapLink is a TAP device with two more names.
func tapLink() []byte {
	var m Batch
	m.link(0, 1<<30, 0, 0)
	m.attrString(unix.IFLA_IFNAME, "tap40000000")
	m.nest(unix.IFLA_PROP_LIST, func() {
		m.attrString(unix.IFLA_ALT_IFNAME, "one")
		m.attrString(unix.IFLA_ALT_IFNAME, "a-name-longer-than-IFNAMSIZ")
	})
	m.attr8(unix.IFLA_CARRIER, 1)
	m.attr32(unix.IFLA_LINK_NETNSID, 0)
	m.nest(unix.IFLA_LINKINFO, func() {
		m.attrString(unix.IFLA_INFO_KIND, "tun")
		m.nest(unix.IFLA_INFO_DATA, func() {
			m.attr8(tunPersist, 1)
			m.attr8(tunMultiQueue, 1)
			m.attr32(tunNumQueues, 2)
			m.attr32(tunNumDisabledQueues, 3)
		})
	})
	return m.b
}

func TestParseTap(t *testing.T) {
	l, err := parseLink(tapLink())
	require.NoError(t, err)
	require.Equal(t, []string{"tap40000000", "one", "a-name-longer-than-IFNAMSIZ"}, l.Names())
	require.True(t, l.Carrier)
	require.True(t, l.LowerElsewhere)
	require.Equal(t, Tun{Persist: true, MultiQueue: true, Queues: 2, Disabled: 3}, l.Tun)
}

func TestParseMacvlan(t *testing.T) {
	var m Batch
	m.link(0, 3, 0, 0)
	m.nest(unix.IFLA_LINKINFO, func() {
		m.attrString(unix.IFLA_INFO_KIND, "macvlan")
		m.nest(unix.IFLA_INFO_DATA, func() { m.attr32(unix.IFLA_MACVLAN_MODE, 8) })
	})
	l, err := parseLink(m.b)
	require.NoError(t, err)
	require.EqualValues(t, 8, l.MacvlanMode)
}

func FuzzPart(f *testing.F) {
	var m Batch
	m.begin(unix.RTM_NEWLINK, 0)
	m.b = append(m.b, tapLink()...)
	m.end()
	m.begin(unix.NLMSG_DONE, 0)
	m.u32(0)
	m.end()
	f.Add(m.b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var c Conn
		links, _, _ := c.part(nil, b, 0, "tun")
		for _, l := range links {
			if l.Kind != "tun" {
				t.Fatal("not asked for")
			}
		}
	})
}

// Listing needs no privilege, and there may be none.
func TestLinks(t *testing.T) {
	c, err := Dial()
	require.NoError(t, err)
	defer c.Close()
	for _, master := range []int{0, 1 << 29} {
		links, err := c.Links(master, "tun")
		require.NoError(t, err)
		for _, l := range links {
			require.Equal(t, "tun", l.Kind)
			require.Zero(t, master)
		}
		_, err = c.LinkByIndex(1)
		require.NoError(t, err, "the list was read to its end")
	}
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
	same, err := c.LinkByIndex(l.Index)
	require.NoError(t, err)
	require.Equal(t, l, same)
	_, err = c.LinkByName("no-such-device")
	require.ErrorIs(t, err, ErrNoLink)
}
