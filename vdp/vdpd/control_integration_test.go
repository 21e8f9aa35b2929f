//go:build integration

package main_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/integration/host/hosttest"
	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
	"libvirt-direct/vdp/vdptest"
)

// clientVariable makes this program a client of the socket that it names.
const clientVariable = "VDPD_TEST_CLIENT"

func askStatus(path string) {
	if _, err := control.NewClient(path).Status(context.Background()); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// as asks vdpd as another user, and returns what that one is told.
func (h *host) as(c syscall.Credential) string {
	h.Helper()
	// A copy that everybody may execute.
	self := filepath.Join(h.dir, "client")
	if _, err := os.Stat(self); err != nil {
		exe, err := os.Executable()
		require.NoError(h, err)
		h.sh("install", "-m", "755", exe, self)
	}
	cmd := exec.Command(self)
	cmd.Env = []string{clientVariable + "=" + h.controlPath()}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &c}
	out, err := cmd.CombinedOutput()
	require.Equal(h, err != nil, len(out) > 0, "%v", err)
	return strings.TrimSpace(string(out))
}

// Guests without libvirt's rtnetlink: the control socket of the real daemon,
// which has no privileges left but two.
func TestControlSocket(t *testing.T) {
	h := newHost(t)
	require.NoError(t, os.Chmod(h.dir, 0o755)) // os.MkdirTemp's are their owner's only
	br := h.responder(vdptest.Config{Edition: vdp.Edition2012})
	group, err := user.LookupGroup("daemon")
	require.NoError(t, err)
	gid, err := strconv.Atoi(group.Gid)
	require.NoError(t, err)
	conf := filepath.Join(h.dir, "vdpd.toml")
	require.NoError(t, os.WriteFile(conf, []byte("control_group = \"daemon\"\n"), 0o600))

	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(h.dir, "notify"), Net: "unixgram"})
	require.NoError(t, err)
	defer systemd.Close()
	require.NoError(t, systemd.SetReadDeadline(time.Now().Add(20*time.Second)))
	told := func() string {
		b := make([]byte, 100)
		n, err := systemd.Read(b)
		require.NoError(t, err)
		return string(b[:n])
	}
	h.env = []string{"NOTIFY_SOCKET=" + systemd.LocalAddr().String()}
	p := h.vdpd("-config", conf)
	require.Equal(t, "READY=1", told())

	t.Run("privileges", func(t *testing.T) {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", p.cmd.Process.Pid))
		require.NoError(t, err)
		require.Greater(t, len(threads), 2)
		for _, f := range threads {
			b, err := os.ReadFile(f)
			require.NoError(t, err)
			for _, want := range []string{
				"CapInh:\t0000000000000000", "CapPrm:\t0000000000003000", "CapEff:\t0000000000003000",
				"CapBnd:\t0000000000003000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1",
			} {
				require.Contains(t, string(b), want+"\n", f)
			}
		}
		require.Empty(t, h.sh("ip", "netns", "exec", h.a, "ss", "-Htuln"), "no network socket")
	})

	t.Run("who may ask", func(t *testing.T) {
		const nobody = 65534
		require.Empty(t, h.as(syscall.Credential{}))
		require.Empty(t, h.as(syscall.Credential{Uid: nobody, Gid: uint32(gid)}))
		require.Empty(t, h.as(syscall.Credential{Uid: nobody, Gid: nobody, Groups: []uint32{4, uint32(gid)}}))
		refused := "status: " + control.ErrPermission.Error()
		require.Equal(t, refused, h.as(syscall.Credential{Uid: nobody, Gid: nobody}))
		require.NoError(t, os.Chmod(h.controlPath(), 0o666))
		require.Equal(t, refused, h.as(syscall.Credential{Uid: nobody, Gid: nobody, Groups: []uint32{4}}), "by its credentials, too")
	})

	c := control.NewClient(h.controlPath())
	require.Eventually(t, func() bool { return c.Ready(t.Context(), stationIf) == nil }, 35*time.Second, 20*time.Millisecond)
	events, err := c.Subscribe(t.Context())
	require.NoError(t, err)
	defer events.Close()
	v := testVSI(1)
	v.Filters[0].VID = 0
	require.NoError(t, br.Do(func(b *vdptest.Bridge) [][]byte {
		b.Answer = func(vdp.Message) vdptest.Reply { return vdptest.Reply{VID: 77} }
		return nil
	}))
	start := time.Now()
	got, err := c.Associate(t.Context(), stationIf, v)
	require.NoError(t, err)
	t.Logf("associated by the control socket in %v", time.Since(start))
	require.Equal(t, uint16(77), got.Filters[0].VID)
	e, err := events.Next()
	require.NoError(t, err)
	require.Equal(t, "established", e.Type)
	require.Equal(t, 0, h.libvirt(p.cmd.Process.Pid).status(v), "libvirt sees it, too")

	// It outlives a crash, in a socket's place that the dead one left.
	hosttest.Eventually(h, 20*time.Second, "state", func() bool {
		b, _ := os.ReadFile(filepath.Join(h.dir, "state.json"))
		return strings.Contains(string(b), `"mode"`)
	})
	p.signal(unix.SIGKILL)
	_, err = events.Next()
	require.ErrorIs(t, err, control.ErrNoDaemon)
	p = h.vdpd("-config", conf)
	require.Equal(t, "READY=1", told())
	require.Eventually(t, func() bool {
		l, err := c.Show(t.Context(), v.ID)
		return err == nil && l[0].State == "established"
	}, 35*time.Second, 20*time.Millisecond)
	require.NoError(t, c.DeAssociate(t.Context(), "", v.ID))

	require.NoError(t, p.signal(unix.SIGTERM))
	require.Equal(t, "STOPPING=1", told())
	require.NoFileExists(t, h.controlPath())
	require.ErrorIs(t, c.Ready(t.Context(), stationIf), control.ErrNoDaemon)
}
