package link

import (
	"context"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func ptr[T any](v T) *T { return &v }

// vfInfo builds one IFLA_VF_INFO as the kernel does, from settings; what is not set
// is reported as -1, like a driver that says nothing.
func vfInfo(t testing.TB, number int, s VFSettings) *nl.RtAttr {
	t.Helper()
	info := nl.NewRtAttr(nl.IFLA_VF_INFO|unix.NLA_F_NESTED, nil)
	for _, attr := range VFAttrs() {
		if _, set := s.Value(attr); set {
			a, err := vfAttr(number, attr, s, s)
			require.NoError(t, err)
			info.AddChild(a)
		}
	}
	for typ, set := range map[int]bool{
		nl.IFLA_VF_TRUST: s.Trust != nil, nl.IFLA_VF_SPOOFCHK: s.SpoofChk != nil, nl.IFLA_VF_RSS_QUERY_EN: s.QueryRSS != nil,
	} {
		if !set {
			info.AddRtAttr(typ, append(nl.Uint32Attr(uint32(number)), 255, 255, 255, 255))
		}
	}
	return info
}

func vfReply(infos ...*nl.RtAttr) []byte {
	list := nl.NewRtAttr(unix.IFLA_VFINFO_LIST|unix.NLA_F_NESTED, nil)
	for _, i := range infos {
		list.AddChild(i)
	}
	return reply(nl.NewRtAttr(unix.IFLA_NUM_VF, nl.Uint32Attr(uint32(len(infos)))), list)
}

var full = VFSettings{
	MAC: ptr("52:54:00:00:00:01"), VLAN: &VFVLAN{ID: 42, QoS: 3, Proto: Dot1AD}, Trust: ptr(true), SpoofChk: ptr(false),
	MinRate: ptr(10), MaxRate: ptr(100), LinkState: ptr(LinkEnable), QueryRSS: ptr(true),
}

// VF 1 is missing from the list, as where its driver's ndo_get_vf_config fails: the
// numbers of the others are the kernel's, not their position.
func TestParseVFsKeepsTheKernelsNumbers(t *testing.T) {
	silent := VFSettings{MAC: ptr("00:00:00:00:00:00"), MinRate: ptr(0), MaxRate: ptr(0)}
	vfs, err := parseVFs(vfReply(vfInfo(t, 0, full), vfInfo(t, 2, silent)))
	require.NoError(t, err)
	require.Equal(t, []VF{{Number: 0, VFSettings: full}, {Number: 2, VFSettings: silent}}, vfs)
	require.Nil(t, vfs[1].Trust, "-1 is not off")
}

func TestParseVFVLANList(t *testing.T) {
	entry := func(id byte, proto ...byte) []byte {
		return append([]byte{0, 0, 0, 0, id, 0, 0, 0, 0, 0, 0, 0}, append(proto, 0, 0)...)
	}
	info := nl.NewRtAttr(nl.IFLA_VF_INFO, nil)
	info.AddRtAttr(nl.IFLA_VF_VLAN, []byte{0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0})
	list := info.AddRtAttr(nl.IFLA_VF_VLAN_LIST, nil)
	vfs, err := parseVFs(vfReply(info))
	require.NoError(t, err, "an empty list is no fault")
	require.Equal(t, &VFVLAN{ID: 7, Proto: Dot1Q}, vfs[0].VLAN)

	list.AddRtAttr(nl.IFLA_VF_VLAN_INFO, entry(7, 0x88, 0xa8))
	list.AddRtAttr(nl.IFLA_VF_VLAN_INFO, entry(8, 0x81, 0))
	vfs, err = parseVFs(vfReply(info))
	require.NoError(t, err)
	require.Equal(t, []VFVLAN{{ID: 7, Proto: Dot1AD}, {ID: 8, Proto: Dot1Q}}, vfs[0].VLANs)
	require.Equal(t, &VFVLAN{ID: 7, Proto: Dot1AD}, vfs[0].VLAN)
}

func TestParseVFsRefuses(t *testing.T) {
	one := func(typ int, v ...byte) []byte {
		info := nl.NewRtAttr(nl.IFLA_VF_INFO, nil)
		info.AddRtAttr(typ, v)
		return vfReply(info)
	}
	two := nl.NewRtAttr(nl.IFLA_VF_INFO, nil)
	two.AddRtAttr(nl.IFLA_VF_TRUST, make([]byte, 8))
	two.AddRtAttr(nl.IFLA_VF_SPOOFCHK, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	for name, b := range map[string][]byte{
		"short header":   make([]byte, 15),
		"short MAC":      one(nl.IFLA_VF_MAC, make([]byte, 10)...),
		"short rate":     one(nl.IFLA_VF_RATE, make([]byte, 8)...),
		"short flag":     one(nl.IFLA_VF_TRUST, 0, 0, 0, 0),
		"no number":      vfReply(nl.NewRtAttr(nl.IFLA_VF_INFO, nil)),
		"negative":       one(nl.IFLA_VF_TRUST, 255, 255, 255, 255, 0, 0, 0, 0),
		"mixed numbers":  vfReply(two),
		"cut list entry": append(vfReply(), 8, 0, 22, 128, 9, 0, 1, 0),
	} {
		_, err := parseVFs(b)
		require.ErrorIs(t, err, ErrMalformed, name)
	}
}

func TestDifferAndCheck(t *testing.T) {
	require.Empty(t, full.Differ(full))
	require.Empty(t, full.Differ(VFSettings{}), "nothing is wanted")
	require.Equal(t, VFAttrs(), VFSettings{}.Differ(full))
	other := full
	other.VLAN, other.MaxRate = &VFVLAN{ID: 42, QoS: 3, Proto: Dot1Q}, ptr(101)
	require.Equal(t, []string{AttrVLAN, AttrMaxRate}, full.Differ(other))
	none := VFSettings{VLAN: &VFVLAN{Proto: Dot1Q}}
	require.Empty(t, none.Differ(VFSettings{VLAN: &VFVLAN{}}), "no VLAN has no protocol")
	require.Equal(t, "trust on, spoofchk off, mac 52:54:00:00:00:01, vlan 42 qos 3 802.1ad, minrate 10, maxrate 100, queryrss on, linkstate enable", full.String())
	require.NoError(t, full.Check())
	for name, s := range map[string]VFSettings{
		"multicast":    {MAC: ptr("01:00:5e:00:00:01")},
		"4095":         {VLAN: &VFVLAN{ID: 4095, Proto: Dot1Q}},
		"qos":          {VLAN: &VFVLAN{ID: 1, QoS: 8, Proto: Dot1Q}},
		"qos alone":    {VLAN: &VFVLAN{QoS: 1, Proto: Dot1Q}},
		"proto":        {VLAN: &VFVLAN{ID: 1, Proto: "802.1x"}},
		"negative":     {MaxRate: ptr(-1)},
		"min over max": {MinRate: ptr(2), MaxRate: ptr(1)},
		"state":        {LinkState: ptr("up")},
	} {
		require.Error(t, s.Check(), name)
	}
}

// golden compares hexadecimal text, sixteen octets a line.
func golden(t *testing.T, name string, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

func dump(req *nl.NetlinkRequest) string {
	req.Seq = 1
	return hex.Dump(req.Serialize())
}

// One message for each attribute, as it goes to the kernel.
func TestSetVFMessagesGolden(t *testing.T) {
	var b strings.Builder
	plain := full
	plain.VLAN = &VFVLAN{ID: 42, QoS: 3, Proto: Dot1Q}
	for _, c := range []struct {
		attr string
		want VFSettings
	}{
		{AttrTrust, full},
		{AttrSpoofChk, full},
		{AttrMAC, full},
		{AttrVLAN, plain},
		{AttrVLAN, full},
		{AttrMinRate, VFSettings{MinRate: ptr(10)}}, // the maximum stays 100
		{AttrQueryRSS, full},
		{AttrLinkState, full},
	} {
		attr, err := vfAttr(5, c.attr, c.want, full)
		require.NoError(t, err)
		req := message(unix.RTM_SETLINK, unix.NLM_F_ACK, 7)
		req.AddData(vfList(attr))
		value, _ := c.want.Value(c.attr)
		b.WriteString(c.attr + " " + value + "\n" + dump(req))
	}
	golden(t, "vf-set.golden", b.String())
}

func TestAnswer(t *testing.T) {
	msg := func(typ uint16, flags uint16, seq byte, data ...byte) []byte {
		size := byte(16 + len(data))
		return append([]byte{size, 0, 0, 0, byte(typ), 0, byte(flags), byte(flags >> 8), seq, 0, 0, 0, 0, 0, 0, 0}, data...)
	}
	errno := func(n byte, more ...byte) []byte { // -n, and the header of the request
		return append([]byte{-n, 255, 255, 255, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, more...)
	}
	payload, mine, err := answer(append(msg(16, 0, 8, 1, 2, 3, 4), msg(16, 0, 9, 5, 6, 7, 8)...), 9)
	require.NoError(t, err)
	require.True(t, mine)
	require.Equal(t, []byte{5, 6, 7, 8}, payload)
	_, mine, _ = answer(msg(2, 0, 8, 0, 0, 0, 0), 9)
	require.False(t, mine, "an answer that came too late for its request")
	_, mine, err = answer(msg(2, 0, 9, 0, 0, 0, 0), 9)
	require.True(t, mine)
	require.NoError(t, err)
	_, _, err = answer(msg(2, unix.NLM_F_ACK_TLVS|unix.NLM_F_CAPPED, 9, errno(22, 9, 0, 1, 0, 'o', 'd', 'd', '!', 0, 0, 0, 0)...), 9)
	require.ErrorIs(t, err, unix.EINVAL)
	require.Contains(t, err.Error(), ": odd!")
	_, _, err = answer([]byte{99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 9)
	require.ErrorIs(t, err, ErrMalformed)
}

func TestVFErrorIsOneLineForAPerson(t *testing.T) {
	err := error(&VFError{PF: "ens1f0", VF: 3, Driver: "igb", Attr: AttrLinkState, Value: LinkEnable, Err: mapVFErrno(unix.EOPNOTSUPP)})
	require.Equal(t, "VF 3 of ens1f0 (driver igb): set linkstate to enable: refused by the driver: operation not supported", err.Error())
	require.ErrorIs(t, err, ErrVFRefused)
	require.ErrorIs(t, err, unix.EOPNOTSUPP)
}

// tree makes a sysfs of the given files; "a -> b" is a symbolic link.
func tree(t *testing.T, entries ...string) sysfs {
	t.Helper()
	root := t.TempDir()
	for _, e := range entries {
		name, target, isLink := strings.Cut(e, " -> ")
		name, text, _ := strings.Cut(name, "=")
		path := filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		switch {
		case isLink:
			require.NoError(t, os.Symlink(filepath.Join(root, target), path))
		case strings.HasSuffix(name, "/"):
			require.NoError(t, os.MkdirAll(path, 0o755))
		default:
			require.NoError(t, os.WriteFile(path, []byte(text+"\n"), 0o644))
		}
	}
	return sysfs(root)
}

func TestSysfsFindsVFs(t *testing.T) {
	s := tree(t,
		"devices/0000:03:00.0/net/ens1f0/dev_port=1", "devices/0000:03:00.0/net/ens1f0/phys_port_name=p1",
		"devices/0000:03:00.0/net/ens1f9/dev_port=0", "devices/0000:03:00.0/net/ens1f9/phys_port_name=p0",
		"devices/0000:03:00.0/net/rep0/phys_port_name=pf0vf0",
		"devices/0000:03:10.0/net/ens1f0v0/", "devices/0000:03:10.0/numa_node=1",
		"devices/0000:03:10.2/numa_node=-1",
		"drivers/igbvf/", "drivers/vfio-pci/",
		"devices/0000:03:00.0/virtfn0 -> devices/0000:03:10.0", "devices/0000:03:00.0/virtfn2 -> devices/0000:03:10.2",
		"devices/0000:03:10.0/physfn -> devices/0000:03:00.0", "devices/0000:03:10.2/physfn -> devices/0000:03:00.0",
		"devices/0000:03:10.0/driver -> drivers/igbvf", "devices/0000:03:10.2/driver -> drivers/vfio-pci",
		"bus/pci/devices/0000:03:00.0 -> devices/0000:03:00.0", "bus/pci/devices/0000:03:10.0 -> devices/0000:03:10.0",
		"bus/pci/devices/0000:03:10.2 -> devices/0000:03:10.2",
		"devices/0000:03:00.0/net/ens1f0/device -> devices/0000:03:00.0", "devices/0000:03:10.0/net/ens1f0v0/device -> devices/0000:03:10.0",
		"class/net/ens1f0 -> devices/0000:03:00.0/net/ens1f0", "class/net/ens1f0v0 -> devices/0000:03:10.0/net/ens1f0v0",
	)
	want := VFPlace{PF: "0000:03:00.0", Number: 0, Device: "0000:03:10.0"}
	got, err := s.place("class/net/ens1f0v0/device", "ens1f0v0")
	require.NoError(t, err)
	require.Equal(t, want, got)
	got, err = s.place("bus/pci/devices/0000:03:10.2", "bound to VFIO, without network device")
	require.NoError(t, err)
	require.Equal(t, VFPlace{PF: "0000:03:00.0", Number: 2, Device: "0000:03:10.2"}, got)
	_, err = s.place("class/net/ens1f0/device", "the PF itself")
	require.ErrorIs(t, err, ErrNoVF)
	_, err = s.place("bus/pci/devices/0000:03:10.4", "gone")
	require.ErrorIs(t, err, ErrNotFound)

	name, err := s.pfNetdev(want)
	require.NoError(t, err)
	require.Equal(t, "ens1f9", name, "the first port, no representor")

	uses, err := s.vfUses("ens1f0")
	require.NoError(t, err)
	require.Equal(t, []VFUse{
		{VFPlace: want, Driver: "igbvf", Netdev: "ens1f0v0", NUMA: 1},
		{VFPlace: VFPlace{PF: "0000:03:00.0", Number: 2, Device: "0000:03:10.2"}, Driver: "vfio-pci", NUMA: -1},
	}, uses)
}

func TestVFsOfADeviceWithoutAny(t *testing.T) {
	c, err := Open()
	require.NoError(t, err)
	defer c.Close()
	lo, err := c.ByName(context.Background(), "lo")
	require.NoError(t, err)
	n, vfs, err := c.VFs(context.Background(), lo)
	require.NoError(t, err)
	require.Zero(t, n)
	require.Empty(t, vfs)
	_, err = c.SetVF(context.Background(), lo, 0, VFSettings{Trust: ptr(true)})
	require.ErrorIs(t, err, ErrNoVF)
	_, err = c.VF(context.Background(), Link{Index: 1 << 30, Name: "none"}, 0)
	require.ErrorIs(t, err, ErrNotFound)
}

func FuzzParseVFs(f *testing.F) {
	f.Add(vfReply(vfInfo(f, 0, full), vfInfo(f, 2, VFSettings{})))
	f.Add(vfReply(vfInfo(f, 0, VFSettings{VLAN: &VFVLAN{ID: 1, Proto: Dot1Q}})))
	f.Fuzz(func(t *testing.T, b []byte) {
		vfs, err := parseVFs(b)
		if err != nil {
			require.ErrorIs(t, err, ErrMalformed)
		}
		for _, vf := range vfs {
			require.GreaterOrEqual(t, vf.Number, 0)
			require.Empty(t, vf.Differ(vf.VFSettings))
		}
	})
}

// An access point takes frames from the address alone that has associated.
func TestWireless(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(root, "class/net/wlan0/phy80211"), 0o755))
	require.NoError(t, os.MkdirAll(filepath.Join(root, "class/net/wlan1/wireless"), 0o755))
	require.NoError(t, os.MkdirAll(filepath.Join(root, "class/net/eth0"), 0o755))
	s := sysfs(root)
	require.True(t, s.wireless("wlan0"))
	require.True(t, s.wireless("wlan1"))
	require.False(t, s.wireless("eth0"))
}
