//go:build vm

package qbg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
	"libvirt-direct/integration/vm"
	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
	"libvirt-direct/vdp/vdptest"
)

func TestMain(m *testing.M) { hosttest.Main(m) }

const (
	nic      = "nica" // the uplink on every host
	instance = "09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f"
	guestMAC = "52:54:00:01:02:03"
)

// vsi is what the domain's <virtualport> and its NIC say.
var vsi = vdp.VSI{
	ID: must(vdp.ParseUUID(instance)), Manager: vdp.ManagerID{11}, TypeID: 1193047, TypeVersion: 2,
	FilterFormat: vdp.FilterMACVID,
	Filters:      []vdp.Filter{{MAC: vdp.MAC{0x52, 0x54, 0, 1, 2, 3}, VID: 100}},
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func domain(name string) host.Domain {
	return host.Domain{Name: name, MemoryMiB: 32, Interfaces: []string{host.DirectNIC(guestMAC, nic+".100", "vepa", `
      <virtualport type='802.1Qbg'>
        <parameters managerid='11' typeid='1193047' typeidversion='2' instanceid='`+instance+`'/>
      </virtualport>`)}}
}

func requireMachine(t *testing.T) {
	t.Helper()
	if os.Getenv(vm.Variable) == "" {
		t.Skip("this is for the test machine: go test -tags vm -exec testvm")
	}
}

// program returns one of the programs under test, which make has built.
func program(t testing.TB, name string) string {
	t.Helper()
	path, err := filepath.Abs("../../bin/" + name)
	require.NoError(t, err)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("make build first: %v", err)
	}
	return path
}

// A fixture is a libvirt host with a physical NIC and a VLAN on it.
type fixture struct{ *hosttest.Fixture }

func newFixture(ctx context.Context, t *testing.T, name string) *fixture {
	t.Helper()
	return &fixture{hosttest.NewFixture(ctx, t, host.Options{Name: name, ListenTCP: true})}
}

// in is the same host for a subtest.
func (h *fixture) in(t *testing.T) *fixture { return &fixture{h.In(t)} }

// take moves a NIC of the machine into the host, and makes the VLAN device.
func (h *fixture) take(card string) {
	h.T.Helper()
	h.MustTakeCard(card, nic)
	h.MustRun("ip", "link", "add", "link", nic, "name", nic+".100", "type", "vlan", "id", "100")
	h.MustRun("ip", "link", "set", nic+".100", "up")
}

// startLibvirtd starts libvirtd at a time of day when it can use 802.1Qbg. libvirt
// takes the rtnetlink port of its event socket for an int; libnl chooses the port
// by the time, in steps of 32 s, and from 1<<31 on it looks like an error: every
// association fails before anything is sent
// (virnetdevvportprofile.c:virNetDevVPortProfileOpSetLink).
func (h *fixture) startLibvirtd() {
	h.T.Helper()
	for range 12 {
		begin := time.Now()
		h.MustStartLibvirtd()
		port := h.eventPort()
		h.T.Logf("libvirtd serves after %v, with event port %d", time.Since(begin), port)
		out := h.checkAsWithStation()
		if int32(port) > 0 {
			require.Regexp(h.T, "ok +libvirtd +its event socket has a port", out)
			return
		}
		require.Regexp(h.T, fmt.Sprintf("FAULT +libvirtd +its event socket has the netlink port %d,", port), out)
		require.NoError(h.T, h.KillLibvirtd(h.Ctx, unix.SIGKILL))
		now := unix.NsecToTimespec(time.Now().Add(512 * time.Second).UnixNano())
		require.NoError(h.T, unix.ClockSettime(unix.CLOCK_REALTIME, &now)) // the machine's own clock, half a round of libnl's
	}
	h.T.Fatal("libvirtd has had a negative port twelve times")
}

// checkAsWithStation is what check prints. Where no station runs yet the file of one is
// put there, for else it does not look at libvirtd's port.
func (h *fixture) checkAsWithStation() string {
	h.T.Helper()
	const file = "/run/lldpad.pid"
	if _, err := os.Stat(h.Path(file)); errors.Is(err, fs.ErrNotExist) {
		h.MustWrite(file, 0o644, "1\n")
		defer h.MustRun("rm", file)
	}
	out, _ := h.Run(h.Ctx, program(h.T, "libvirt-direct"), "check") // this host may have other faults
	return out
}

// eventPort is the rtnetlink port of libvirtd's event socket: libnl puts ten bits
// above the process id.
func (h *fixture) eventPort() uint32 {
	h.T.Helper()
	pid, err := strconv.Atoi(strings.TrimSpace(h.MustRun("cat", "/run/libvirtd.pid")))
	require.NoError(h.T, err)
	for line := range strings.Lines(h.MustRun("cat", "/proc/net/netlink")) {
		f := strings.Fields(line)
		port, err := strconv.ParseUint(f[2], 10, 32)
		if err == nil && f[1] == strconv.Itoa(unix.NETLINK_ROUTE) && port&(1<<22-1) == uint64(pid) {
			return uint32(port)
		}
	}
	h.T.Fatal("libvirtd has no rtnetlink socket")
	return 0
}

func (h *fixture) vdpd() *control.Client { return control.NewClient(h.Path(control.DefaultPath)) }

// startVDPD runs vdpd until stop or the test's end.
func (h *fixture) startVDPD() (stop func()) {
	h.T.Helper()
	stop = h.MustStart(program(h.T, "vdpd"), "-debug", "-uplink", nic)
	hosttest.Eventually(h.T, 10*time.Second, "vdpd", func() bool {
		_, err := h.vdpd().Status(h.Ctx)
		return err == nil
	})
	return stop
}

// ready waits until the station has agreed on an edition with the switch.
func (h *fixture) ready(ed vdp.Edition) {
	h.T.Helper()
	hosttest.Eventually(h.T, 35*time.Second, "EVB of the edition "+ed.String(), func() bool {
		u, err := h.vdpd().Status(h.Ctx)
		return err == nil && u[0].Error == nil && u[0].Edition == ed.String()
	})
}

// A bridge is the switch's end of a wire.
type bridge struct {
	*vdptest.Server
	t *testing.T
}

// newBridge runs a bridge on a NIC of the machine.
func newBridge(t *testing.T, card string) *bridge {
	t.Helper()
	return newBridgeHearing(t, card, func(c net.PacketConn) net.PacketConn { return c })
}

// newBridgeHearing runs a bridge that hears what hears lets through.
func newBridgeHearing(t *testing.T, card string, hears func(net.PacketConn) net.PacketConn) *bridge {
	t.Helper()
	out, err := exec.Command("ip", "link", "set", card, "up").CombinedOutput()
	require.NoError(t, err, "%s", out)
	ifi, err := net.InterfaceByName(card)
	require.NoError(t, err)
	conn, err := packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, nil)
	require.NoError(t, err)
	require.NoError(t, conn.SetPromiscuous(true))
	return serve(t, hears(conn), &packet.Addr{HardwareAddr: net.HardwareAddr(vdp.NearestCustomerBridge[:])})
}

// bridgeMAC is every bridge's.
var bridgeMAC = vdp.MAC{2, 0xbb, 5: 1}

func serve(t *testing.T, conn net.PacketConn, to net.Addr) *bridge {
	b := vdptest.NewBridge(vdptest.Config{MAC: bridgeMAC, Edition: vdp.EditionDraft})
	s := vdptest.NewServer(b, conn, to)
	stop := s.Start()
	t.Cleanup(func() {
		if err := stop(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Errorf("bridge: %v", err)
		}
	})
	return &bridge{s, t}
}

func (b *bridge) do(f func(b *vdptest.Bridge) [][]byte) {
	b.t.Helper()
	require.NoError(b.t, b.Do(f))
}

// set changes the bridge, which then is as after its reboot.
func (b *bridge) set(ed vdp.Edition) {
	b.t.Helper()
	b.do(func(b *vdptest.Bridge) [][]byte {
		b.Edition, b.Answer, b.Log = ed, nil, nil
		b.Restart()
		return nil
	})
}

func (b *bridge) mode() vdp.Mode { return b.modeOf(vsi.ID) }

func (b *bridge) log() []vdptest.Received { return b.logOf(vsi.ID) }

func (b *bridge) modeOf(id vdp.ID) (m vdp.Mode) {
	b.t.Helper()
	b.do(func(b *vdptest.Bridge) [][]byte { m = b.Mode(id); return nil })
	return m
}

// logOf returns the station's requests for a VSI, repetitions left out.
func (b *bridge) logOf(id vdp.ID) (l []vdptest.Received) {
	b.t.Helper()
	b.do(func(b *vdptest.Bridge) [][]byte {
		for _, r := range b.Log {
			if r.Message.VSI.ID == id && (len(l) == 0 || l[len(l)-1].Message.Mode != r.Message.Mode) {
				l = append(l, r)
			}
		}
		return nil
	})
	return l
}

func modes(l []vdptest.Received) (m []vdp.Mode) {
	for _, r := range l {
		m = append(m, r.Message.Mode)
	}
	return m
}

// lldpadPid is the number that libvirt reads.
func (h *fixture) lldpadPid() (int, error) {
	b, err := os.ReadFile(h.Path("/run/lldpad.pid"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.Trim(string(b), "\x00\n"))
}
