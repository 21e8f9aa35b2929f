package host

import (
	"bytes"
	"encoding/binary"
	"encoding/xml"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []Options{{}, {Name: "a"}, {Dir: "/tmp"}, {Name: "a", Dir: "relative"}} {
		_, err := NewPeer(t.Context(), o)
		require.ErrorContains(t, err, "absolute Dir")
	}
}

func TestAnswerOfPID1(t *testing.T) {
	for in, want := range map[string]string{
		initReady:               initReady,
		initReady + "more":      initReady,
		initFailed + "mount x":  initFailed + "mount x",
		"usage of another main": "usage of another main",
	} {
		got, err := readAnswer(strings.NewReader(in))
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
	got, err := readAnswer(strings.NewReader("E"))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Equal(t, "E", string(got))
}

func TestDomainXML(t *testing.T) {
	d := Domain{
		Name: "a<b", Kernel: "/k&k", Initrd: "/i", Cmdline: "console=ttyS0 'x'", SerialLog: "/tmp/it's",
		OnReboot: "restart", Interfaces: []string{DirectNIC("52:54:00:00:00:01", "eth0", "vepa", "<boot order='1'/>")},
		Metadata: "<x xmlns='urn:x'>1</x>",
	}
	var got struct {
		Type     string `xml:"type,attr"`
		Name     string `xml:"name"`
		Memory   int    `xml:"memory"`
		Kernel   string `xml:"os>kernel"`
		Cmdline  string `xml:"os>cmdline"`
		Reboot   string `xml:"on_reboot"`
		Crash    string `xml:"on_crash"`
		Metadata struct {
			X string `xml:"urn:x x"`
		} `xml:"metadata"`
		Source struct {
			Dev  string `xml:"dev,attr"`
			Mode string `xml:"mode,attr"`
		} `xml:"devices>interface>source"`
		Serial struct {
			Path string `xml:"path,attr"`
		} `xml:"devices>serial>source"`
	}
	require.NoError(t, xml.Unmarshal([]byte(d.XML()), &got))
	require.Equal(t, "qemu", got.Type)
	require.Equal(t, d.Name, got.Name)
	require.Equal(t, 64, got.Memory)
	require.Equal(t, d.Kernel, got.Kernel)
	require.Equal(t, d.Cmdline, got.Cmdline)
	require.Equal(t, "restart", got.Reboot)
	require.Equal(t, "destroy", got.Crash)
	require.Equal(t, "1", got.Metadata.X)
	require.Equal(t, "eth0", got.Source.Dev)
	require.Equal(t, "vepa", got.Source.Mode)
	require.Equal(t, d.SerialLog, got.Serial.Path)
	require.NotContains(t, Domain{Name: "g"}.XML(), "metadata")
}

const (
	someLinks = `[{"ifindex":7,"link":"nica","ifname":"m0","flags":["BROADCAST","UP"],"mtu":1500,"address":"52:54:00:00:00:01",
"promiscuity":0,"allmulti":0,"linkinfo":{"info_kind":"macvtap","info_data":{"mode":"bridge"}},"altnames":["b","a"]},
{"ifindex":1048580,"link_index":9,"link_netnsid":0,"ifname":"nica","flags":[],"mtu":1500,"address":"52:54:00:00:00:02",
"promiscuity":1,"allmulti":0,"linkinfo":{"info_kind":"veth"},"vfinfo_list":[{"vf":0}]}]`
	someAddrs = `[{"ifname":"nica","addr_info":[{"local":"10.0.0.2","prefixlen":24},{"local":"10.0.0.1","prefixlen":24}]},{"ifname":"new","addr_info":[]}]`
)

func TestSnapshotAndDiff(t *testing.T) {
	s, err := parseSnapshot([]byte(someLinks), []byte(someAddrs))
	require.NoError(t, err)
	require.Equal(t, Snapshot{
		"m0": {"index": "7", "mtu": "1500", "promiscuity": "0", "allmulti": "0", "up": "true", "kind": "macvtap",
			"mode": "bridge", "parent": "nica", "mac": "52:54:00:00:00:01", "altnames": "a b"},
		"nica": {"index": "1048580", "mtu": "1500", "promiscuity": "1", "allmulti": "0", "up": "false", "kind": "veth",
			"parent": "index 9", "mac": "52:54:00:00:00:02", "vfs": `[{"vf":0}]`, "addresses": "10.0.0.1/24 10.0.0.2/24"},
	}, s)
	require.Empty(t, s.Diff(s))
	after := Snapshot{"nica": {"index": "1048580"}, "z": {"mtu": "9"}}
	require.Equal(t, "~ b: mtu \"1\" -> \"2\" tap \"\" -> \"/dev/tap3\"\n",
		Snapshot{"b": {"mtu": "1"}}.Diff(Snapshot{"b": {"mtu": "2", "tap": "/dev/tap3"}}))
	diff := s.Diff(after)
	require.Contains(t, diff, "- m0: allmulti=0 ")
	require.Contains(t, diff, "+ z: mtu=9\n")

	_, err = parseSnapshot([]byte("["), []byte(someAddrs))
	require.ErrorContains(t, err, "ip link")
}

func TestParseLease(t *testing.T) {
	l, ok := parseLease("dnsmasq-dhcp: 3916359094 DHCPACK(wire0) 10.55.0.14 52:54:00:77:77:01 guest")
	require.True(t, ok)
	require.Equal(t, netip.MustParseAddr("10.55.0.14"), l.Addr)
	require.Equal(t, "52:54:00:77:77:01", l.MAC.String())
	for _, line := range []string{"", "DHCPACK(", "DHCPACK(a)", "DHCPACK(a) 1.2.3.4", "DHCPACK(a) x 52:54:00:77:77:01", "DHCPACK(a) 1.2.3.4 x", "DHCPOFFER(a) 1.2.3.4 52:54:00:77:77:01"} {
		_, ok := parseLease(line)
		require.False(t, ok, line)
	}
}

func savefile(frames ...[]byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, 0xa1b2c3d4)
	b = append(b, make([]byte, 20)...)
	for _, f := range frames {
		b = append(b, make([]byte, 8)...)
		b = binary.NativeEndian.AppendUint32(b, uint32(len(f)))
		b = binary.NativeEndian.AppendUint32(b, uint32(len(f)))
		b = append(b, f...)
	}
	return b
}

func readSavefile(r io.Reader) (frames [][]byte, err error) {
	if err := readPcapHeader(r); err != nil {
		return nil, err
	}
	for {
		f, err := readPcapFrame(r)
		if errors.Is(err, io.EOF) {
			return frames, nil
		}
		if err != nil {
			return frames, err
		}
		frames = append(frames, f)
	}
}

func TestReadPcap(t *testing.T) {
	want := [][]byte{[]byte("first"), {}, []byte("third")}
	got, err := readSavefile(bytes.NewReader(savefile(want...)))
	require.NoError(t, err)
	require.Equal(t, want, got)

	whole := savefile([]byte("frame"))
	_, err = readSavefile(bytes.NewReader(whole[:len(whole)-1]))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	_, err = readSavefile(strings.NewReader(strings.Repeat("x", 24)))
	require.ErrorContains(t, err, "magic")
	binary.NativeEndian.PutUint32(whole[24+8:], maxFrame+1)
	_, err = readSavefile(bytes.NewReader(whole))
	require.ErrorContains(t, err, "octets")
}

func TestStreamShowsThePastAndItsEnd(t *testing.T) {
	s := newStream[int]()
	s.add(1)
	go func() { s.add(2); s.end(io.ErrNoProgress) }()
	for _, want := range []int{2, 1} {
		got, err := s.wait(t.Context(), func(v int) bool { return v == want })
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err := s.wait(t.Context(), func(int) bool { return false })
	require.ErrorIs(t, err, errEnded)
	require.ErrorIs(t, err, io.ErrNoProgress)
	require.Equal(t, []int{1, 2}, s.all())
}

func FuzzParseSnapshot(f *testing.F) {
	f.Add([]byte(someLinks), []byte(someAddrs))
	f.Add([]byte("[]"), []byte(`[{"addr_info":[{}]}]`))
	f.Fuzz(func(t *testing.T, links, addrs []byte) {
		s, err := parseSnapshot(links, addrs)
		if err == nil && s.Diff(s) != "" {
			t.Fatal(s.Diff(s))
		}
	})
}

func FuzzParseLease(f *testing.F) {
	f.Add("dnsmasq-dhcp: DHCPACK(wire0) 10.55.0.14 52:54:00:77:77:01")
	f.Fuzz(func(t *testing.T, line string) {
		if l, ok := parseLease(line); ok && (!l.Addr.IsValid() || len(l.MAC) == 0) {
			t.Fatalf("%+v", l)
		}
	})
}

func FuzzReadPcap(f *testing.F) {
	f.Add(savefile([]byte("a"), []byte("b")))
	f.Fuzz(func(t *testing.T, data []byte) {
		frames, err := readSavefile(bytes.NewReader(data))
		if n := len(bytes.Join(frames, nil)) + 16*len(frames); err == nil && n+24 > len(data) {
			t.Fatalf("%d octets of frames from %d", n, len(data))
		}
	})
}
