package realhost

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/hooks"
	"libvirt-direct/hooks/hooktest"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/link/linktest"
	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
	"libvirt-direct/vdp/vdptest"
)

// Station is a hooktest.StationHost with a vdpd in a network namespace, and vdptest's
// switch at the other end of its wire.
type Station struct {
	*linktest.Netns
	t       *testing.T
	spaces  map[string]int // descriptors of the network namespace, and of the socket's mount namespace
	bridge  *vdptest.Server
	refuses *bool
}

var _ hooktest.StationHost = (*Station)(nil)

// NewStation runs the vdpd at a path until the test ends. It needs root.
func NewStation(t *testing.T, vdpd string) *Station {
	t.Helper()
	s := &Station{Netns: linktest.NewNetns(t), t: t, spaces: map[string]int{}, refuses: new(bool)}
	require.NoError(t, unix.Mount("tmpfs", "/run", "tmpfs", 0, ""))
	require.NoError(t, os.MkdirAll(filepath.Dir(control.DefaultPath), 0o755))
	for _, kind := range []string{"mnt", "net"} {
		fd, err := unix.Open("/proc/thread-self/ns/"+kind, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		require.NoError(t, err)
		t.Cleanup(func() { unix.Close(fd) })
		s.spaces[kind] = fd
	}
	s.Card(s.Port())

	wire, err := net.InterfaceByName(s.Port() + "-wire")
	require.NoError(t, err)
	conn, err := packet.Listen(wire, packet.Raw, unix.ETH_P_ALL, nil)
	require.NoError(t, err)
	require.NoError(t, conn.SetPromiscuous(true))
	s.bridge = vdptest.NewServer(vdptest.NewBridge(vdptest.Config{
		MAC: vdp.MAC(wire.HardwareAddr), Edition: vdp.Edition2012,
		Answer: func(m vdp.Message) vdptest.Reply {
			if *s.refuses && m.Mode == vdp.Associate {
				return vdptest.Reply{Status: 1}
			}
			return vdptest.Reply{}
		},
	}), conn, &packet.Addr{HardwareAddr: net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 0}})
	stop := s.bridge.Start()
	t.Cleanup(func() { require.NoError(t, stop()) })

	cmd := exec.Command(vdpd, "-config", "/nonexistent", "-uplink", s.Port(), "-state", "/run/state.json", "-pid-file", "/run/lldpad.pid")
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return s
}

// For is the same station for a subtest, which runs on a thread of its own. What another
// has left there is gone.
func (s *Station) For(t *testing.T) hooktest.StationHost {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	require.NoError(t, unix.Unshare(unix.CLONE_FS))
	require.NoError(t, unix.Setns(s.spaces["net"], unix.CLONE_NEWNET))
	require.NoError(t, unix.Setns(s.spaces["mnt"], unix.CLONE_NEWNS))
	same := *s
	same.t = t
	same.set(func() { *s.refuses = false })
	s.Up(s.Port())
	client := control.NewClient("")
	same.await("EVB", func() bool { return client.Ready(t.Context(), s.Port()) == nil })
	vsis, err := client.List(t.Context(), s.Port())
	require.NoError(t, err)
	for _, v := range vsis {
		id, err := vdp.ParseUUID(v.VSI.ID)
		require.NoError(t, err)
		require.NoError(t, client.DeAssociate(t.Context(), s.Port(), id))
	}
	return &same
}

// await asks until something is so. It does that on the calling thread, which is in the
// station's namespaces, as require.Eventually does not.
func (s *Station) await(what string, so func() bool) {
	s.t.Helper()
	for end := time.Now().Add(35 * time.Second); !so(); time.Sleep(10 * time.Millisecond) {
		require.True(s.t, time.Now().Before(end), "there is no %s", what)
	}
}

func (s *Station) set(change func()) {
	s.t.Helper()
	require.NoError(s.t, s.bridge.Do(func(*vdptest.Bridge) [][]byte { change(); return nil }))
}

// Station is the hook's client of it.
func (s *Station) Station() step.Station {
	s.t.Helper()
	station, end, err := hooks.OpenStation(s.t.Context())
	require.NoError(s.t, err)
	s.t.Cleanup(end)
	return station
}

// Port is one end of a veth.
func (s *Station) Port() string { return "nica" }

// NotYet is the hook's.
func (s *Station) NotYet() error { return step.ErrNotYet }

// Refuse implements hooktest.StationHost.
func (s *Station) Refuse() { s.t.Helper(); s.set(func() { *s.refuses = true }) }

// Silence takes the link away, and waits until vdpd has seen that.
func (s *Station) Silence() {
	s.t.Helper()
	s.Do("ip", "link", "set", s.Port(), "down")
	s.await("an end of EVB", func() bool { return control.NewClient("").Ready(s.t.Context(), s.Port()) != nil })
}

// Held implements hooktest.StationHost.
func (s *Station) Held(id vdp.ID) (held bool) {
	s.t.Helper()
	require.NoError(s.t, s.bridge.Do(func(b *vdptest.Bridge) [][]byte { held = b.Mode(id) == vdp.Associate; return nil }))
	return held
}
