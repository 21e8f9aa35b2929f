package link

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

func serialize(header []byte, attrs ...*nl.RtAttr) []byte {
	b := slices.Clone(header)
	for _, a := range attrs {
		b = append(b, a.Serialize()...)
	}
	return b
}

// packet is a netlink message with its header.
func packet(typ, flags uint16, seq uint32, payload []byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(payload)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = append(b, 0, 0, 0, 0)
	b = append(b, payload...)
	for len(b)%unix.NLMSG_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

func errnoPayload(e unix.Errno) []byte {
	n := -int32(e)
	return binary.NativeEndian.AppendUint32(nil, uint32(n))
}

func TestDumpAnswer(t *testing.T) {
	const multi = unix.NLM_F_MULTI
	var a dumpAnswer
	require.NoError(t, a.add(slices.Concat(packet(unix.RTM_NEWADDR, multi, 7, []byte("one")), packet(unix.RTM_NEWADDR, multi, 6, []byte("late"))), 7))
	require.False(t, a.done)
	require.NoError(t, a.add(slices.Concat(packet(unix.RTM_NEWADDR, multi, 7, []byte("two")), packet(unix.NLMSG_DONE, multi, 7, errnoPayload(0))), 7))
	require.Equal(t, dumpAnswer{payloads: [][]byte{[]byte("one"), []byte("two")}, done: true}, a)

	a = dumpAnswer{}
	require.NoError(t, a.add(packet(unix.NLMSG_DONE, multi|unix.NLM_F_DUMP_INTR, 7, nil), 7))
	require.True(t, a.done && a.interrupted)
	for _, typ := range []uint16{unix.NLMSG_DONE, unix.NLMSG_ERROR} {
		require.ErrorIs(t, new(dumpAnswer).add(packet(typ, 0, 7, errnoPayload(unix.ENODEV)), 7), unix.ENODEV)
	}
	require.ErrorIs(t, new(dumpAnswer).add([]byte{255, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0}, 7), ErrMalformed)
}

func deviceReply() []byte {
	xdp := nl.NewRtAttr(unix.IFLA_XDP|unix.NLA_F_NESTED, nil)
	xdp.AddRtAttr(unix.IFLA_XDP_ATTACHED, []byte{2})
	xdp.AddRtAttr(unix.IFLA_XDP_PROG_ID, nl.Uint32Attr(12))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO|unix.NLA_F_NESTED, nil)
	info.AddRtAttr(unix.IFLA_INFO_SLAVE_KIND, nl.ZeroTerminated("bond"))
	return reply(xdp, info, nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(3)),
		nl.NewRtAttr(unix.IFLA_LINK, nl.Uint32Attr(9)), nl.NewRtAttr(unix.IFLA_LINK_NETNSID, nl.Uint32Attr(5)),
		nl.NewRtAttr(unix.IFLA_PARENT_DEV_NAME, nl.ZeroTerminated("0000:03:10.0")))
}

func TestParseDevice(t *testing.T) {
	d, err := parseDevice(deviceReply())
	require.NoError(t, err)
	require.Equal(t, device{
		Link:     Link{Index: 7, Up: true, Master: 3, Parent: 9, ParentElsewhere: true},
		port:     "bond",
		hardware: 0, parentDevice: "0000:03:10.0", parentSpace: 5, xdp: xdp{attached: 2, program: 12},
	}, d)
	_, err = parseDevice(reply(nl.NewRtAttr(unix.IFLA_LINK_NETNSID, []byte{1})))
	require.ErrorIs(t, err, ErrMalformed)
}

func addrReply(family, bits byte, attrs ...*nl.RtAttr) []byte {
	return serialize(binary.NativeEndian.AppendUint32([]byte{family, bits, 0, 0}, 7), attrs...)
}

func TestOwnLinkLocalAddressIsNoUse(t *testing.T) {
	stable := nl.NewRtAttr(unix.IFA_FLAGS, nl.Uint32Attr(unix.IFA_F_PERMANENT|unix.IFA_F_STABLE_PRIVACY))
	for _, c := range []struct {
		addr  string
		attrs []*nl.RtAttr
		own   bool
	}{
		{"fe80::5054:ff:fe00:1/64", []*nl.RtAttr{nl.NewRtAttr(ifaProto, []byte{originLink})}, true},
		{"fe80::5054:ff:fe00:1/64", nil, true}, // before Linux 5.18
		{"fe80::1234:5678:9abc:def0/64", []*nl.RtAttr{stable}, true},
		{"fe80::1/64", nil, false},
		{"2001:db8::5054:ff:fe00:1/64", nil, false}, // from a router's advertisement
		{"169.254.7.7/16", nil, false},
	} {
		want := netip.MustParsePrefix(c.addr)
		family := byte(unix.AF_INET6)
		if want.Addr().Is4() {
			family = unix.AF_INET
		}
		a, err := parseAddress(addrReply(family, byte(want.Bits()), append(c.attrs, nl.NewRtAttr(unix.IFA_ADDRESS, want.Addr().AsSlice()))...))
		require.NoError(t, err, c.addr)
		require.Equal(t, want, a.prefix)
		require.Equal(t, 7, a.index)
		require.Equal(t, c.own, a.byItself(), c.addr)
	}
	a, err := parseAddress(addrReply(unix.AF_INET, 32, nl.NewRtAttr(unix.IFA_ADDRESS, net.IPv4(192, 0, 2, 1).To4()), nl.NewRtAttr(unix.IFA_LOCAL, net.IPv4(192, 0, 2, 2).To4())))
	require.NoError(t, err)
	require.Equal(t, "192.0.2.2/32", a.prefix.String(), "the other is the peer's")
	a, err = parseAddress(addrReply(unix.AF_MPLS, 0, nl.NewRtAttr(unix.IFA_ADDRESS, []byte{1})))
	require.NoError(t, err)
	require.False(t, a.prefix.IsValid())
	_, err = parseAddress(addrReply(unix.AF_INET, 33, nl.NewRtAttr(unix.IFA_ADDRESS, []byte{1, 2, 3, 4})))
	require.ErrorIs(t, err, ErrMalformed)
}

func routeReply(family, bits byte, attrs ...*nl.RtAttr) []byte {
	return serialize([]byte{family, bits, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, 0, unix.RTN_UNICAST, 0, 0, 0, 0}, attrs...)
}

func gateways() []byte {
	var hops []byte
	for i, via := range []*nl.RtAttr{nl.NewRtAttr(unix.RTA_GATEWAY, []byte{192, 0, 2, 1}), nl.NewRtAttr(unix.RTA_VIA, append([]byte{unix.AF_INET6, 0}, net.ParseIP("fe80::1")...))} {
		attrs := via.Serialize()
		hops = binary.NativeEndian.AppendUint16(hops, uint16(unix.SizeofRtNexthop+len(attrs)))
		hops = binary.NativeEndian.AppendUint32(append(hops, 0, 0), uint32(6+i))
		hops = append(hops, attrs...)
		for len(hops)%unix.RTNH_ALIGNTO != 0 {
			hops = append(hops, 0)
		}
	}
	return routeReply(unix.AF_INET, 24, nl.NewRtAttr(unix.RTA_DST, []byte{198, 51, 100, 0}), nl.NewRtAttr(unix.RTA_MULTIPATH, hops))
}

func TestParseRoute(t *testing.T) {
	r, err := parseRoute(gateways())
	require.NoError(t, err)
	for index, want := range map[int]string{
		6: "route 198.51.100.0/24 via 192.0.2.1 goes through it", 7: "route 198.51.100.0/24 via fe80::1 goes through it", 8: "",
	} {
		text, ok := r.through(index)
		require.Equal(t, want, text)
		require.Equal(t, want != "", ok)
	}
	r, err = parseRoute(routeReply(unix.AF_INET6, 0, nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(7)), nl.NewRtAttr(unix.RTA_TABLE, nl.Uint32Attr(300))))
	require.NoError(t, err)
	text, ok := r.through(7)
	require.True(t, ok)
	require.Equal(t, "route default in table 300 goes through it", text)
	r, err = parseRoute(routeReply(unix.AF_INET, 0))
	require.NoError(t, err)
	_, ok = r.through(7)
	require.False(t, ok, "a route that goes nowhere")
	_, err = parseRoute(routeReply(unix.AF_INET, 24, nl.NewRtAttr(unix.RTA_DST, []byte{1, 2})))
	require.ErrorIs(t, err, ErrMalformed)
	_, err = parseRoute(routeReply(unix.AF_INET, 0, nl.NewRtAttr(unix.RTA_MULTIPATH, []byte{1, 0, 0, 0, 0, 0, 0, 0})))
	require.ErrorIs(t, err, ErrMalformed)
}

func neighbourReply() []byte {
	return serialize([]byte{unix.AF_BRIDGE, 0, 0, 0, 7, 0, 0, 0, 0, 0, unix.NTF_SELF, 0}, nl.NewRtAttr(unix.NDA_LLADDR, []byte{2, 0, 0, 0, 0, 1}))
}

func TestParseNeighbour(t *testing.T) {
	n, err := parseNeighbour(neighbourReply())
	require.NoError(t, err)
	require.Equal(t, neighbour{index: 7, mac: net.HardwareAddr{2, 0, 0, 0, 0, 1}, self: true}, n)
}

func TestWhyAVFHasNoNetworkDevice(t *testing.T) {
	s := tree(t, "bus/pci/devices/0000:03:10.0/net/", "bus/pci/devices/0000:03:10.2/numa_node=0")
	moved := VFUse{VFPlace: VFPlace{Device: "0000:03:10.0"}, Driver: "igbvf"}
	given := VFUse{VFPlace: VFPlace{Device: "0000:03:10.2"}, Driver: "vfio-pci"}
	require.Equal(t, Use{Kind: UseAway, Evidence: "its network device is in another network namespace"}, s.noNetdev(moved, nil))
	e := &Elsewhere{Devices: map[string]Upper{"0000:03:10.0": {Name: "net1", Where: "the network namespace /run/netns/x"}}}
	require.Equal(t, Use{Kind: UseAway, Evidence: "its network device net1 is in the network namespace /run/netns/x"}, s.noNetdev(moved, e))
	require.Equal(t, Use{Kind: UseDriver, Evidence: "it is bound to vfio-pci and has no network device"}, s.noNetdev(given, e))
	given.Driver = ""
	require.Equal(t, Use{Kind: UseUnbound, Evidence: "it is bound to no driver"}, s.noNetdev(given, e))
}

func TestPFWithVFsIsUsed(t *testing.T) {
	s := tree(t, "class/net/pf/device/sriov_numvfs=7", "class/net/other/device/sriov_numvfs=0", "class/net/virtual/mtu=1500")
	for name, want := range map[string][]Use{"pf": {{Kind: UseVFs, Evidence: "it has 7 virtual functions"}}, "other": nil, "virtual": nil} {
		uses, err := s.vfsUse(name)
		require.NoError(t, err)
		require.Equal(t, want, uses, name)
	}
}

func TestRDMADevices(t *testing.T) {
	s := tree(t, "class/net/vf0/device/infiniband/mlx5_3/node_guid=x", "class/net/vf1/device/vendor=0x15b3", "class/net/eth0/mtu=1500",
		"class/infiniband/rxe0/parent=eth0", "class/infiniband/rxe1/parent=eth1", "class/infiniband/mlx5_3/fw_ver=1")
	for name, want := range map[string][]string{"vf0": {"mlx5_3"}, "vf1": nil, "eth0": {"rxe0"}, "gone": nil} {
		names, err := s.rdmaDevices(name)
		require.NoError(t, err)
		require.Equal(t, want, names, name)
	}
}

// A free choice must not take what cannot be looked at.
func TestNotKnownIsAUseOfItsOwnKind(t *testing.T) {
	c, err := Open()
	require.NoError(t, err)
	defer c.Close()
	u, used := FirstUse(c.Uses(t.Context(), "no-such-device", nil))
	require.True(t, used)
	require.Equal(t, UseUnknown, u.Kind)
	require.ErrorIs(t, u.Err, ErrNotFound)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	u, used = FirstUse(c.Uses(ctx, "lo", nil))
	require.True(t, used)
	require.ErrorIs(t, u.Err, context.DeadlineExceeded)
	require.NotEmpty(t, c.Elsewhere(ctx).Unknown)
	_, err = c.UppersEverywhere(t.Context(), "no-such-device")
	require.ErrorIs(t, err, ErrNotFound)
	_, err = c.Lower(t.Context(), "no-such-device", "bridge", nil)
	require.ErrorIs(t, err, ErrNotFound)
	_, err = c.Lower(t.Context(), "lo", "nat", nil)
	require.ErrorContains(t, err, `unknown mode "nat"`)
}

func TestMountedNamespaces(t *testing.T) {
	text := `43 42 0:4 net:[4026532177] /run/netns/a\040b rw shared:2 - nsfs nsfs rw
44 42 0:4 uts:[4026532178] /run/uts rw - nsfs nsfs rw
23 27 0:22 / /sys rw,relatime - sysfs sysfs rw
`
	require.Equal(t, []mountedSpace{{path: "/run/netns/a b", inode: 4026532177}}, parseMountInfo([]byte(text)))
}

func TestProcessesByNamespace(t *testing.T) {
	proc := t.TempDir()
	for _, d := range []string{"thread-self", "1", "7", "8", "9", "10", "sys"} {
		require.NoError(t, os.MkdirAll(filepath.Join(proc, d, "net"), 0o755))
	}
	file := func(pid string) string { return filepath.Join(proc, pid, "net/dev") }
	for own, others := range map[string][]string{"thread-self": {"1"}, "7": {"8"}, "9": nil} { // 10 has ended
		require.NoError(t, os.WriteFile(file(own), nil, 0o644))
		for _, o := range others {
			require.NoError(t, os.Link(file(own), file(o)))
		}
	}
	found, err := processSpaces(proc)
	require.NoError(t, err)
	require.Equal(t, [][]int{{7, 8}, {9}}, found)
	require.NoError(t, os.WriteFile(filepath.Join(proc, "9/comm"), []byte("nginx\n"), 0o644))
	require.Equal(t, "process 9 (nginx)", process(proc, 9))
	require.Equal(t, "process 8", process(proc, 8))
}

func spaceReply(id int32) []byte {
	return serialize([]byte{0, 0, 0, 0}, nl.NewRtAttr(unix.NETNSA_NSID, nl.Uint32Attr(uint32(id))))
}

func TestParseSpaceID(t *testing.T) {
	for _, want := range []int{0, 5, noSpace} {
		id, err := parseSpaceID(spaceReply(int32(want)))
		require.NoError(t, err)
		require.Equal(t, want, id)
	}
	_, err := parseSpaceID([]byte{0})
	require.ErrorIs(t, err, ErrMalformed)
}

// Whatever the kernel sends is read or refused as malformed.
func FuzzParseUse(f *testing.F) {
	for _, b := range [][]byte{
		deviceReply(), addrReply(unix.AF_INET, 24, nl.NewRtAttr(unix.IFA_LOCAL, []byte{192, 0, 2, 1})), gateways(), neighbourReply(), spaceReply(3),
		slices.Concat(packet(unix.RTM_NEWADDR, unix.NLM_F_MULTI, 7, []byte("one")), packet(unix.NLMSG_DONE, 0, 7, errnoPayload(0))),
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		malformed := func(err error) {
			t.Helper()
			if err != nil {
				require.ErrorIs(t, err, ErrMalformed)
			}
		}
		_, err := parseDevice(b)
		malformed(err)
		a, err := parseAddress(b)
		malformed(err)
		_ = a.byItself()
		r, err := parseRoute(b)
		malformed(err)
		_, _ = r.through(7)
		_, err = parseNeighbour(b)
		malformed(err)
		_, err = parseSpaceID(b)
		malformed(err)
		var d dumpAnswer
		_ = d.add(b, 7) // an errno is none of the parser's
	})
}

func FuzzParseMountInfo(f *testing.F) {
	f.Add([]byte(`43 42 0:4 net:[4026532177] /run/netns/a\040b rw shared:2 - nsfs nsfs rw`))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, m := range parseMountInfo(b) {
			require.NotEmpty(t, m.path)
		}
	})
}
