//go:build integration

package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/bridgeport"
	"libvirt-direct/helper/internal/ether"
	"libvirt-direct/helper/internal/macvtap"
	"libvirt-direct/helper/internal/netns"
	"libvirt-direct/helper/internal/policy"
	"libvirt-direct/helper/internal/port"
	"libvirt-direct/helper/internal/rtnl"
	"libvirt-direct/helper/internal/station"
	"libvirt-direct/helper/internal/sysctl"
	"libvirt-direct/helper/internal/tap"
	"libvirt-direct/helper/internal/tundev"
)

// path is a way of a guest's frames: what the helper is asked for, and the far end of the cable.
type path struct{ metric, name, far string }

// paths makes a device of each kind, and sees to it that the way of a frame is known to the bridge.
func paths(b *testing.B) (all []path, files []*os.File, far []int) {
	b.Helper()
	wire(b, "v0", "v1")
	bridge(b, "br0")
	wire(b, "b0", "b1")
	run(b, "ip", "link", "set", "br0", "mtu", "1500")
	run(b, "ip", "link", "set", "b0", "master", "br0")
	text := ""
	for i, k := range []struct{ metric, kind, device, far string }{
		{"tap", "kind = bridge\nbridge = br0", "tap", "b1"}, {"isolated", "kind = bridge\nbridge = br0", "isolated", "b1"},
		{"macvtap", "kind = macvtap\nlower = v0", "macvtap", "v1"}, {"macvtap-isolated", "kind = macvtap\nlower = v0", "isolated", "v1"},
	} {
		text += fmt.Sprintf("[%s]\n%s\ndevice = %s\nanti-spoof = yes\nmac = 52:54:00:*\nallow = everyone\n", k.metric, k.kind, k.device)
		all = append(all, path{k.metric, fmt.Sprintf("%s/52:54:00:00:01:%02x", k.metric, i+1), k.far})
	}
	profiles(b, text)
	for i, p := range all {
		f := requireGranted(b, ask(b, p.name))
		files = append(files, f)
		require.NoError(b, offload(f))
		far = append(far, farEnd(b, p.far))
		at, err := net.InterfaceByName(p.far)
		require.NoError(b, err)
		// Both learn where the other is.
		_, err = f.Write(packet(byte(i+1), ether.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, stationMAC(i), 0, 50))
		require.NoError(b, err)
		_, err = unix.Write(far[i], packet(byte(i+1), stationMAC(i), ether.MAC(at.HardwareAddr), 0, 50))
		require.NoError(b, err)
	}
	return all, files, far
}

func stationMAC(i int) ether.MAC { return ether.MAC{0x52, 0x54, 0, 0, 1, byte(i + 1)} }

// offload tells the kernel that the guest takes TCP segments that are yet to be cut.
func offload(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var errno unix.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4)
	})
	if err == nil && errno != 0 {
		err = errno
	}
	return err
}

// farEnd is a socket that sends frames with a struct virtio_net_hdr in front.
func farEnd(b *testing.B, name string) int {
	b.Helper()
	l, err := net.InterfaceByName(name)
	require.NoError(b, err)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	require.NoError(b, err)
	b.Cleanup(func() { unix.Close(fd) })
	require.NoError(b, unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1))
	require.NoError(b, unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: l.Index}))
	return fd
}

// packet is a TCP segment over IPv4: a bridge whose netfilter hooks are on drops what it cannot parse. With segment set
// it is yet to be cut into segments of that many octets.
func packet(host byte, dst, src ether.MAC, segment, payload int) []byte {
	const vnet, eth, ip, tcp = 10, 14, 20, 20
	b := make([]byte, vnet+eth+ip+tcp+payload)
	if segment > 0 {
		b[0], b[1] = 1, 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4
		binary.NativeEndian.PutUint16(b[2:], eth+ip+tcp)
		binary.NativeEndian.PutUint16(b[4:], uint16(segment))
		binary.NativeEndian.PutUint16(b[6:], eth+ip)
		binary.NativeEndian.PutUint16(b[8:], 16)
	}
	f := b[vnet:]
	copy(f, dst[:])
	copy(f[6:], src[:])
	f[12] = 8
	h := f[eth:]
	h[0], h[8], h[9] = 0x45, 64, unix.IPPROTO_TCP
	binary.BigEndian.PutUint16(h[2:], uint16(ip+tcp+payload))
	copy(h[12:], []byte{10, 0, 0, host, 10, 0, 1, host})
	sum := uint32(0)
	for i := 0; i < ip; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(h[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(h[10:], ^uint16(sum))
	h[ip+12] = tcp / 4 << 4
	return b
}

// BenchmarkFrames measures the time and the processor time of a frame that the guest's side writes to its descriptor and of
// one that comes to it, small and to be segmented, as a ratio to a plain TAP's in the same run. The medians are of rounds
// that take turns. Run it with -benchtime 1x.
func BenchmarkFrames(b *testing.B) {
	const turns = 15
	all, files, far := paths(b)
	for _, size := range []struct {
		metric           string
		frames, mss, len int
	}{{"small", 20_000, 0, 50}, {"segmented", 2_000, 1448, 60_000}} {
		out, in := map[string][]time.Duration{}, map[string][]time.Duration{}
		outCPU, inCPU := map[string][]time.Duration{}, map[string][]time.Duration{}
		for range turns {
			for i, p := range all {
				at, err := net.InterfaceByName(p.far)
				require.NoError(b, err)
				took, cpu := measured(b, size.frames, p.far, func() {
					_, err := files[i].Write(packet(byte(i+1), ether.MAC(at.HardwareAddr), stationMAC(i), size.mss, size.len))
					require.NoError(b, err)
				})
				out[p.metric], outCPU[p.metric] = append(out[p.metric], took), append(outCPU[p.metric], cpu)
				buf := make([]byte, 70_000)
				took, cpu = measured(b, size.frames, "", func() {
					_, err := unix.Write(far[i], packet(byte(i+1), stationMAC(i), ether.MAC(at.HardwareAddr), size.mss, size.len))
					require.NoError(b, err)
					_, err = files[i].Read(buf)
					require.NoError(b, err)
				})
				in[p.metric], inCPU[p.metric] = append(in[p.metric], took), append(inCPU[p.metric], cpu)
			}
		}
		for _, p := range all {
			for what, d := range map[string]map[string][]time.Duration{"out": out, "in": in, "out-cpu": outCPU, "in-cpu": inCPU} {
				b.ReportMetric(float64(median(d[p.metric])), p.metric+"-"+size.metric+"-"+what+"-ns")
				b.ReportMetric(float64(median(d[p.metric]))/float64(median(d["tap"])), p.metric+"-"+size.metric+"-"+what+"-ratio")
			}
		}
	}
	b.ReportMetric(0, "ns/op")
}

// measured repeats f and returns the time and processor time that it takes once. If a far end is named, that has received
// something each time.
func measured(b *testing.B, n int, far string, f func()) (wall, cpu time.Duration) {
	b.Helper()
	before := received64(b, far)
	var u, w unix.Rusage
	require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	start := time.Now()
	for range n {
		f()
	}
	wall = time.Since(start)
	require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &w))
	cpu = time.Duration(w.Utime.Nano() + w.Stime.Nano() - u.Utime.Nano() - u.Stime.Nano())
	if far != "" {
		require.GreaterOrEqual(b, received64(b, far)-before, n, "frames do not arrive")
	}
	return wall / time.Duration(n), cpu / time.Duration(n)
}

func received64(b *testing.B, name string) (n int) {
	b.Helper()
	if name == "" {
		return 0
	}
	text, err := os.ReadFile("/sys/class/net/" + name + "/statistics/rx_packets")
	require.NoError(b, err)
	_, err = fmt.Sscan(string(text), &n)
	require.NoError(b, err)
	return n
}

// BenchmarkSteps measures what making a device costs by its steps. Run it with -benchtime 1x.
func BenchmarkSteps(b *testing.B) {
	wire(b, "v0", "v1")
	bridge(b, "br0")
	times := map[string][]time.Duration{}
	for i := range rounds {
		for _, kind := range []string{"tap", "isolated", "macvtap", "macvtap-isolated"} {
			steps, fds := made(b, kind, 1<<30+4*i)
			for step, d := range steps {
				times[kind+"-"+step] = append(times[kind+"-"+step], d)
			}
			for _, fd := range fds {
				unix.Close(fd)
			}
			for len(leftovers(b)) > 0 {
				time.Sleep(time.Millisecond)
			}
		}
	}
	for step, d := range times {
		b.ReportMetric(float64(median(d).Microseconds()), step+"-µs")
	}
	b.ReportMetric(0, "ns/op")
}

// made makes a device in a thread of its own, which may end up in another namespace.
func made(b *testing.B, kind string, index int) (steps map[string]time.Duration, fds []int) {
	b.Helper()
	steps = map[string]time.Duration{}
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked
		var host *rtnl.Conn
		if host, err = rtnl.Dial(); err != nil {
			return
		}
		defer host.Close()
		last := time.Now()
		step := func(name string) { steps[name] = time.Since(last); last = time.Now() }
		guest, own := ether.MAC{0x52, 0x54, 0, 0, 1, 1}, ether.MAC{0xfe, 1, 1, 1, 1, 1}
		mode := tundev.Mode{VNetHdr: true}
		name := "bench" + fmt.Sprint(index&0xffff)
		lower := "v0"
		if slices.Contains([]string{"tap", "isolated"}, kind) {
			lower = "br0"
		}
		var link rtnl.Link
		if link, err = host.LinkByName(lower); err != nil {
			return
		}
		var params *sysctl.Net
		if params, err = sysctl.Open(); err != nil {
			return
		}
		var ns *netns.Namespace
		if kind != "tap" {
			if ns, err = netns.Enter(host, index); err != nil {
				return
			}
			defer ns.Close()
			step("namespace")
		}
		place := bridgeport.Port{Bridge: link, Flags: true, Learn: true, Alias: "bench"}
		dev := macvtap.Device{Index: index, Name: name, MAC: guest}
		switch kind {
		case "tap":
			fds, err = tap.Open(host, nil, -1, params, tap.Spec{Index: index, Name: name, Own: own, Port: place, Mode: mode, Queues: 1})
		case "isolated":
			fds, err = port.Open(host, ns, params, port.Spec{Name: name, Own: own, Guest: guest, Port: place, Mode: mode, Queues: 1})
		case "macvtap":
			var m rtnl.Batch
			macvtap.Add(&m, dev, link, policy.BridgeMode, ns.TID)
			if err = host.Do(&m, -1); err == nil {
				fds, err = macvtap.Open(ns.Conn, dev, mode, 1)
			}
		case "macvtap-isolated":
			fds, err = station.Open(host, ns, station.Spec{Name: name, MAC: guest, Own: own, Lower: link, Kind: policy.BridgeMode, Mode: mode, Queues: 1})
		}
		step("device")
	}()
	<-done
	require.NoError(b, err, kind)
	return steps, fds
}
