//go:build integration

package main_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"libvirt-direct/integration/host/hosttest"
	"libvirt-direct/internal/poll"
	"libvirt-direct/vdp"
	"libvirt-direct/vdp/vdptest"
)

const (
	stationIf = "vs0" // in the station's namespace
	bridgeIf  = "vb0" // in the bridge's
)

var vdpdPath string

func TestMain(m *testing.M) {
	if path := os.Getenv(clientVariable); path != "" {
		askStatus(path)
		return
	}
	if kind := os.Getenv(floodVariable); kind != "" {
		fmt.Println(flood(kind))
		return
	}
	dir, err := os.MkdirTemp("", "vdpd")
	if err == nil {
		vdpdPath = filepath.Join(dir, "vdpd")
		build := exec.Command("go", "build", "-mod=mod", "-o", vdpdPath, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		var out []byte
		if out, err = build.CombinedOutput(); err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
	}
	code := 1
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// A host is two network namespaces with a wire between them.
type host struct {
	*testing.T
	a, b string // namespaces of station and bridge
	dir  string
	env  []string // for what runs in them
}

// hosts counts them, for their namespaces' names.
var hosts atomic.Int32

// newHost makes a host, beside those of other tests: all of them wait for the timers of
// LLDP most of the time.
func newHost(t *testing.T) *host {
	t.Helper()
	requireRoot(t)
	t.Parallel()
	return makeHost(t)
}

func requireRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
}

// another makes a second host for the same test.
func (h *host) another() *host { return makeHost(h.T) }

func makeHost(t *testing.T) *host {
	t.Helper()
	id := fmt.Sprintf("%d-%d", os.Getpid(), hosts.Add(1))
	h := &host{T: t, a: "vdpa" + id, b: "vdpb" + id, dir: shortLived(t)}
	for _, n := range []string{h.a, h.b} {
		h.sh("ip", "netns", "add", n)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", n).Run() })
		h.sh("ip", "-n", n, "link", "set", "lo", "up")
	}
	h.sh("ip", "-n", h.a, "link", "add", stationIf, "address", "02:aa:00:00:00:01", "type", "veth",
		"peer", "name", bridgeIf, "netns", h.b, "address", "02:bb:00:00:00:01")
	h.sh("ip", "-n", h.a, "link", "set", stationIf, "up")
	h.sh("ip", "-n", h.b, "link", "set", bridgeIf, "up")
	return h
}

// shortLived is a folder in memory, as /run is, where vdpd's files are: a disk would be what is measured.
func shortLived(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "vdpd")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (h *host) sh(args ...string) string {
	h.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	require.NoError(h, err, "%s: %s", strings.Join(args, " "), out)
	return string(out)
}

// in runs f on a thread in a namespace; sockets that f opens stay there.
func (h *host) in(name string, f func()) {
	h.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		ns, err := netns.GetFromName(name)
		if err == nil {
			err = netns.Set(ns)
			ns.Close()
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	require.NoError(h, <-done)
}

// A process is a daemon under test.
type process struct {
	cmd *exec.Cmd
	mu  sync.Mutex
	log bytes.Buffer
	end chan struct{}
	err error
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

func (p *process) signal(s os.Signal) error {
	_ = p.cmd.Process.Signal(s)
	<-p.end
	return p.err
}

func (h *host) start(ns string, args ...string) *process {
	h.Helper()
	p := &process{cmd: exec.Command("ip", append([]string{"netns", "exec", ns}, args...)...), end: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.Env = append(os.Environ(), h.env...)
	require.NoError(h, p.cmd.Start())
	go func() { p.err = p.cmd.Wait(); close(p.end) }()
	h.Cleanup(func() {
		p.signal(unix.SIGKILL)
		if h.Failed() {
			out := p.output()
			h.Logf("%v, last output:\n%s", args, out[max(0, len(out)-4000):])
		}
	})
	return p
}

func (h *host) vdpd(args ...string) *process {
	h.Helper()
	return h.quietVdpd(append([]string{"-debug"}, args...)...)
}

// quietVdpd is vdpd without a line for every frame that is ignored.
func (h *host) quietVdpd(args ...string) *process {
	h.Helper()
	return h.vdpdOf(append([]string{"-config", "/nonexistent", "-uplink", stationIf}, args...)...)
}

// vdpdOf runs vdpd with an uplink that its arguments name.
func (h *host) vdpdOf(args ...string) *process {
	h.Helper()
	p := h.start(h.a, append([]string{vdpdPath,
		"-state", filepath.Join(h.dir, "state.json"), "-pid-file", filepath.Join(h.dir, "lldpad.pid"),
		"-control", h.controlPath()}, args...)...)
	hosttest.Eventually(h, 20*time.Second, "vdpd's pid file", func() bool {
		b, _ := os.ReadFile(filepath.Join(h.dir, "lldpad.pid"))
		return string(b) == fmt.Sprintf("%d\n", p.cmd.Process.Pid)
	})
	// It looks for its uplinks after that, and until it has found one refuses what is asked of it.
	hosttest.Eventually(h, 20*time.Second, "vdpd's uplink", func() bool { return h.uplink().Ifindex != 0 })
	return p
}

func (h *host) controlPath() string { return filepath.Join(h.dir, "control") }

// lldpad runs with a /run and a configuration of its own.
func (h *host) lldpad(ns string) *process {
	h.Helper()
	if _, err := exec.LookPath("lldpad"); err != nil {
		if os.Getenv("CI") == "true" {
			h.Fatal(err)
		}
		h.Skip(err)
	}
	p := h.start(ns, "unshare", "-m", "sh", "-c", `mount -t tmpfs t /run && mount -t tmpfs t /dev/shm &&
		mount -t tmpfs t /var/lib/lldpad && exec lldpad -V 7 -t`)
	hosttest.Eventually(h, 10*time.Second, "lldpad", func() bool {
		return exec.Command("ip", "netns", "exec", ns, "lldptool", "ping").Run() == nil
	})
	return p
}

func (h *host) lldptool(ns string, args ...string) {
	h.Helper()
	h.sh(append([]string{"ip", "netns", "exec", ns, "lldptool"}, args...)...)
}

func (h *host) lldpadBridge2012() *process {
	h.Helper()
	p := h.lldpad(h.b)
	h.lldptool(h.b, "-L", "-i", bridgeIf, "-g", "ncb", "adminStatus=rxtx")
	for _, c := range []string{"evbmode=bridge", "evbrrcap=yes", "enableTx=yes"} {
		h.lldptool(h.b, "-T", "-i", bridgeIf, "-g", "ncb", "-V", "evb", "-c", c)
	}
	return p
}

// responder runs our bridge on the wire.
func (h *host) responder(c vdptest.Config) *vdptest.Server {
	h.Helper()
	return h.responderHearing(c, func(c net.PacketConn) net.PacketConn { return c })
}

// responderHearing runs our bridge behind what hears puts before its socket.
func (h *host) responderHearing(c vdptest.Config, hears func(net.PacketConn) net.PacketConn) *vdptest.Server {
	h.Helper()
	c.MAC = switchMAC
	var (
		conn *packet.Conn
		err  error
	)
	h.in(h.b, func() {
		var ifi *net.Interface
		if ifi, err = net.InterfaceByName(bridgeIf); err == nil {
			conn, err = packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, nil)
		}
		if err == nil {
			err = conn.SetPromiscuous(true)
		}
	})
	require.NoError(h, err)
	s := vdptest.NewServer(vdptest.NewBridge(c), hears(conn), &packet.Addr{HardwareAddr: net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 0}})
	stop := s.Start()
	h.Cleanup(func() {
		if err := stop(); err != nil {
			h.Errorf("responder: %v", err)
		}
	})
	return s
}

// A libvirt asks the daemon with a process id as libvirt does: each request
// from a socket of its own, indications to an event socket.
type libvirt struct {
	*host
	pid     int
	ifindex uint32
	event   int
	port    uint32
	seq     uint32
}

func (h *host) libvirt(pid int) *libvirt {
	h.Helper()
	l := &libvirt{host: h, pid: pid}
	h.in(h.a, func() {
		ifi, err := net.InterfaceByName(stationIf)
		if err != nil {
			return
		}
		l.ifindex = uint32(ifi.Index)
		l.event, l.port = netlinkSocket(h.T)
	})
	require.NotZero(h, l.port)
	h.Cleanup(func() { unix.Close(l.event) })
	return l
}

func netlinkSocket(t *testing.T) (fd int, port uint32) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}
	if err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5})
	}
	if err != nil {
		t.Error(err)
		return fd, 0
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Error(err)
		return fd, 0
	}
	return fd, sa.(*unix.SockaddrNetlink).Pid
}

// receive is recvfrom(2). The runtime's signals end it early, since it has a time limit: see signal(7).
func receive(fd int, b []byte) (n int, from unix.Sockaddr, err error) {
	for {
		if n, from, err = unix.Recvfrom(fd, b, 0); err != unix.EINTR {
			return n, from, err
		}
	}
}

func (l *libvirt) exchange(msg []byte) []byte {
	l.Helper()
	var (
		reply []byte
		err   error
	)
	l.in(l.a, func() {
		fd, _ := netlinkSocket(l.T)
		defer unix.Close(fd)
		if err = unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: uint32(l.pid)}); err != nil {
			return
		}
		buf := make([]byte, 1<<17)
		var n int
		if n, _, err = receive(fd, buf); err == nil {
			reply = buf[:n]
		}
	})
	require.NoError(l, err)
	return reply
}

func rta(typ uint16, v ...[]byte) []byte {
	b := bytes.Join(v, nil)
	b = append(binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16(nil, uint16(4+len(b))), typ), b...)
	return append(b, make([]byte, -len(b)&3)...)
}

func u32(n ...uint32) (b []byte) {
	for _, v := range n {
		b = binary.NativeEndian.AppendUint32(b, v)
	}
	return b
}

func (l *libvirt) message(typ uint16, attrs ...[]byte) []byte {
	l.seq++
	body := append(u32(0, l.ifindex, 0, 0), bytes.Join(attrs, nil)...)
	b := u32(uint32(16+len(body)), uint32(typ)|5<<16, l.seq, l.port)
	return append(b, body...)
}

// set sends RTM_SETLINK and returns the error that it is answered with.
func (l *libvirt) set(m vdp.Mode, v vdp.VSI) syscall.Errno {
	l.Helper()
	const nested, self = unix.NLA_F_NESTED, 0xffffffff
	f := v.Filters[0]
	r := l.exchange(l.message(unix.RTM_SETLINK,
		rta(unix.IFLA_IFNAME, []byte(stationIf+"\x00")),
		rta(unix.IFLA_VFINFO_LIST|nested, rta(unix.IFLA_VF_INFO|nested,
			rta(unix.IFLA_VF_MAC, u32(self), f.MAC[:], make([]byte, 26)),
			rta(unix.IFLA_VF_VLAN, u32(self, uint32(f.VID), 0)))),
		rta(unix.IFLA_VF_PORTS|nested, rta(unix.IFLA_VF_PORT|nested,
			rta(unix.IFLA_PORT_VSI_TYPE, []byte{v.Manager[0], byte(v.TypeID), byte(v.TypeID >> 8), byte(v.TypeID >> 16), v.TypeVersion, 0, 0, 0}),
			rta(unix.IFLA_PORT_INSTANCE_UUID, v.ID.Octets[:]),
			rta(unix.IFLA_PORT_REQUEST, []byte{byte(m - 1)})))))
	require.Equal(l, uint16(unix.NLMSG_ERROR), binary.NativeEndian.Uint16(r[4:]))
	return syscall.Errno(-int32(binary.NativeEndian.Uint32(r[16:])))
}

// status polls once: the RESPONSE of a VSI, -1 while there is none, -2 if the
// VSI is missing. As libvirt, it reads the first message only, of either type
// (virnetlink.c:virNetlinkDumpLink).
func (l *libvirt) status(v vdp.VSI) int {
	l.Helper()
	r := l.exchange(l.message(unix.RTM_GETLINK, rta(unix.IFLA_EXT_MASK, u32(1))))
	require.Contains(l, []uint16{unix.NLMSG_DONE, unix.RTM_NEWLINK}, binary.NativeEndian.Uint16(r[4:]))
	i := bytes.Index(r, append(rta(unix.IFLA_PORT_INSTANCE_UUID, v.ID.Octets[:]), rta(unix.IFLA_PORT_VF, u32(0xffffffff))...))
	if i < 0 {
		return -2
	}
	port := r[i-4:]
	if binary.NativeEndian.Uint16(port) < 40 {
		return -1
	}
	return int(binary.NativeEndian.Uint16(port[36:]))
}

// ports is how many VSIs the daemon speaks of.
func (l *libvirt) ports() int {
	l.Helper()
	return bytes.Count(l.exchange(l.message(unix.RTM_GETLINK, rta(unix.IFLA_EXT_MASK, u32(1)))), rta(unix.IFLA_PORT_VF, u32(0xffffffff)))
}

// result polls as libvirt does.
func (l *libvirt) result(v vdp.VSI) int {
	l.Helper()
	ctx, cancel := context.WithTimeout(l.Context(), 10*time.Second)
	defer cancel()
	s := -1
	// None in time is what -1 says.
	_ = poll.Until(ctx, time.Millisecond, func() (bool, error) {
		s = l.status(v)
		return s != -1, nil
	})
	return s
}

func testVSI(n int) vdp.VSI {
	return vdp.VSI{
		ID:      vdp.UUID([16]byte{0xfa, 0x9b, 14: byte(n >> 8), 15: byte(n)}),
		Manager: vdp.ManagerID{12}, TypeID: 0x123456, TypeVersion: 1,
		FilterFormat: vdp.FilterMACVID,
		Filters:      []vdp.Filter{{MAC: vdp.MAC{0x52, 0x54, 0, 1, byte(n >> 8), byte(n)}, VID: 100}},
	}
}

// devices makes the macvlans of guests' VSIs: vdpd takes back a VSI whose guest has none.
func (h *host) devices(guests ...vdp.VSI) (names []string) {
	h.Helper()
	var batch strings.Builder
	for i, v := range guests {
		names = append(names, fmt.Sprint("mv", i))
		fmt.Fprintf(&batch, "link add link %s name mv%d address %v type macvlan mode vepa\n", stationIf, i, v.Filters[0].MAC)
	}
	cmd := exec.Command("ip", "-n", h.a, "-batch", "-")
	cmd.Stdin = strings.NewReader(batch.String())
	out, err := cmd.CombinedOutput()
	require.NoError(h, err, "%s", out)
	return names
}

func sendRaw(name string, frame []byte) error {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	c, err := packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]})
	return err
}
