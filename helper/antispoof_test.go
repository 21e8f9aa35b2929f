//go:build integration || vm

package main

import (
	"bytes"
	"encoding/hex"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// listener hears every frame at the far end of a cable.
func listener(t testing.TB, name string) int {
	t.Helper()
	l, err := net.InterfaceByName(name)
	require.NoError(t, err)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0x0300)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	require.NoError(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: 0x0300, Ifindex: l.Index}))
	require.NoError(t, unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1))
	require.NoError(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2}))
	return fd
}

// receiveMsg is recvmsg(2). The runtime's signals end it early where the socket has a time limit: see signal(7).
func receiveMsg(fd int, b, oob []byte) (n, oobn, flags int, from unix.Sockaddr, err error) {
	for {
		if n, oobn, flags, from, err = unix.Recvmsg(fd, b, oob, 0); err != unix.EINTR {
			return n, oobn, flags, from, err
		}
	}
}

// heard returns the payloads that arrive until one says "end".
func heard(t testing.TB, fd int) []string {
	t.Helper()
	var out []string
	for {
		b, oob := make([]byte, 2048), make([]byte, 256)
		n, _, _, from, err := receiveMsg(fd, b, oob)
		require.NoError(t, err, "the last frame did not come; heard %q", out)
		if from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		i := bytes.Index(b[:n], []byte("<"))
		j := bytes.Index(b[:n], []byte(">"))
		if i < 0 || j < i {
			continue
		}
		text := string(b[i+1 : j])
		if text == "end" {
			return out
		}
		out = append(out, text)
	}
}

func TestAntiSpoof(t *testing.T) {
	wire(t, "v0", "v1")
	bridge(t, "br0")
	wire(t, "b0", "b1")
	run(t, "ip", "link", "set", "b0", "master", "br0")
	const (
		own   = "525400aabbcc"
		other = "525400aabbcd"
		bcast = "ffffffffffff"
		peer  = "020000000099"
		v10   = "8100000a"
		v20   = "81000014"
		vp    = "8100000a8100000b"
		ad10  = "88a8000a"
		vprio = "8100e00a" // VLAN 10 with priority 7
	)
	frames := []struct{ name, header string }{
		{"own", bcast + own},
		{"spoofed", bcast + other},
		{"spoofed last octet", bcast + "525400aabbff"},
		{"spoofed first octets", bcast + "525401aabbcc"},
		{"bpdu", "0180c2000000" + own},
		{"lldp", "0180c200000e" + own},
		{"gvrp", "0180c2000021" + own},
		{"ipv4 multicast", "01005e000001" + own},
		{"unicast", "020000000001" + own},
		{"vlan 10", bcast + own + v10},
		{"vlan 10 prio", bcast + own + vprio},
		{"vlan 20", bcast + own + v20},
		{"802.1ad 10", bcast + own + ad10},
		{"stacked", bcast + own + vp},
		{"stacked ad", bcast + own + ad10 + "8100000b"},
		{"old stacking", bcast + own + "9100000a"},
		{"spoofed vlan", bcast + other + v10},
		{"bpdu in vlan", "0180c2000000" + own + v10},
		{"bpdu to a station", peer + own + "0032424203"},
		{"pvst", "01000ccccccd" + own + "0032aaaa0300000c010b"},
		{"cdp", "01000ccccccc" + own + "0032aaaa0300000c2000"},
		{"cdp to all", bcast + own + "0032aaaa0300000c2000"},
		{"lldp behind snap", bcast + own + "0032aaaa0300000088cc"},
		{"pause to a station", peer + own + "8808"},
		{"lacp to a station", peer + own + "8809"},
		{"eapol to a station", peer + own + "888e"},
		{"macsec", peer + own + "88e5"},
		{"e-tag", bcast + own + "893f"},
		{"vn-tag", bcast + own + "8926"},
		{"lacp in vlan", peer + own + v10 + "8809"},
		{"tag type 9200", bcast + own + "9200000a"},
		{"three tags", bcast + own + vp + "8100000c"},
		{"ipx", bcast + own + "0032e0e003"},
		{"pppoe", bcast + own + "8863"},
	}
	untagged := []string{"own", "ipv4 multicast", "unicast"}
	data := []string{"ipx", "pppoe"}
	listed := slices.Concat(untagged, []string{"vlan 10", "vlan 10 prio", "802.1ad 10"}, data)
	all := slices.Concat(untagged, []string{"vlan 10", "vlan 10 prio", "vlan 20", "802.1ad 10", "stacked", "stacked ad", "old stacking", "tag type 9200"}, data)
	untagged = slices.Concat(untagged, data)
	everything := []string{}
	for _, f := range frames {
		everything = append(everything, f.name)
	}
	for _, test := range []struct {
		vlans string
		want  []string
	}{{"guest-vlans = none", untagged}, {"guest-vlans = 10", listed}, {"guest-vlans = 0-3 9-11 4000", listed}, {"guest-vlans = all", all}, {"anti-spoof = no", everything}} {
		for _, kind := range []string{"macvtap", "bridge"} {
			t.Run(kind+" "+test.vlans, func(t *testing.T) {
				profile, far := "[lan]\nkind = macvtap\nlower = v0\nmac = any\nallow = everyone\n", "v1"
				if kind == "bridge" {
					profile, far = "[lan]\nkind = bridge\nbridge = br0\nmac = any\nallow = everyone\n", "b1"
					if !strings.Contains(test.vlans, "anti") {
						profile += "anti-spoof = yes\n"
					}
				}
				profiles(t, profile+test.vlans+"\n")
				far1 := listener(t, far)
				a := ask(t, "lan/52:54:00:aa:bb:cc")
				f := requireGranted(t, a)
				send := func(header, text string) {
					b, err := hex.DecodeString(header)
					require.NoError(t, err)
					frame := append(make([]byte, 10), b...) // struct virtio_net_hdr
					frame = append(frame, 0x88, 0xb5)       // local experimental EtherType
					frame = append(frame, "<"+text+">"+strings.Repeat(".", 50)...)
					require.Eventually(t, func() bool { _, err := f.Write(frame); return err == nil }, 2*time.Second, time.Millisecond)
				}
				for _, fr := range frames {
					send(fr.header, fr.name)
				}
				send(bcast+own, "end")
				want := test.want
				if kind == "bridge" && strings.Contains(test.vlans, "anti") {
					// The bridge itself keeps back the group addresses that are for bridges only, but for spanning
					// tree's, which it passes on while its own spanning tree is off.
					want = slices.DeleteFunc(slices.Clone(everything), func(s string) bool { return s == "lldp" })
				}
				require.Equal(t, want, heard(t, far1))

				// The holder may give the device another address; that lets nothing more through.
				if !strings.Contains(test.vlans, "anti") {
					require.NoError(t, setMAC(f, "52:54:00:aa:bb:cd"))
					send(bcast+other, "after change")
					require.NoError(t, setMAC(f, "52:54:00:aa:bb:cc"))
					send(bcast+own, "end")
					require.Empty(t, heard(t, far1))
				}
				// Frames that end within a header.
				if kind == "macvtap" && strings.Contains(test.vlans, "guest-vlans = 10") {
					for _, short := range []string{bcast + own + "8100", bcast + own + "810000", bcast + own + "8100000a"} {
						b, _ := hex.DecodeString(short)
						_, _ = f.Write(append(make([]byte, 10), b...))
					}
					send(bcast+own, "end")
					require.Empty(t, heard(t, far1))
				}
				a.close()
				requireNothingLeft(t)
			})
		}
	}
}

func setMAC(f *os.File, mac string) error {
	hw, err := net.ParseMAC(mac)
	if err != nil {
		return err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var r struct {
		name   [unix.IFNAMSIZ]byte
		family uint16
		mac    [6]byte
		_      [16]byte
	}
	r.family = unix.ARPHRD_ETHER
	copy(r.mac[:], hw)
	var ioErr error
	err = raw.Control(func(fd uintptr) { ioErr = ioctl(fd, unix.TUNGETIFF, &r.name) })
	r.family = unix.ARPHRD_ETHER
	copy(r.mac[:], hw)
	if err == nil && ioErr == nil {
		err = raw.Control(func(fd uintptr) { ioErr = ioctl(fd, unix.SIOCSIFHWADDR, &r.name) })
	}
	if err != nil {
		return err
	}
	return ioErr
}

// ioctl is for requests whose argument is a struct ifreq.
func ioctl(fd uintptr, req uint, name *[unix.IFNAMSIZ]byte) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, uintptr(req), uintptr(unsafe.Pointer(name)))
	if errno != 0 {
		return errno
	}
	return nil
}
