//go:build integration

package link_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/internal/link"
	"libvirt-direct/internal/link/linktest"
)

func host(t *testing.T) linktest.Host { return linktest.NewNetns(t) }

func TestUses(t *testing.T) { linktest.Run(t, host, linktest.Basic()) }

// space is a network namespace in which a process is until it ends.
func space(t *testing.T) (pid string, file string, end func()) {
	t.Helper()
	cmd := exec.Command("sleep", "infinity")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	require.NoError(t, cmd.Start())
	end = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	t.Cleanup(end)
	pid = strconv.Itoa(cmd.Process.Pid)
	return pid, "/proc/" + pid + "/ns/net", end
}

func evidence(t *testing.T, c *link.Conn) []string {
	t.Helper()
	uses, err := c.UppersEverywhere(t.Context(), "nica")
	require.NoError(t, err)
	var texts []string
	for _, u := range uses {
		texts = append(texts, string(u.Kind)+": "+u.Evidence)
	}
	return texts
}

// As `ip netns` and container runtimes keep theirs.
func TestMountedNamespaceIsFound(t *testing.T) {
	h := linktest.NewNetns(t)
	h.Card("nica")
	pid, ns, end := space(t)
	h.AddIn(pid, "macvlan", "mv0", "nica", "mode", "bridge")
	file := filepath.Join(t.TempDir(), "a name")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.NoError(t, unix.Mount(ns, file, "", unix.MS_BIND, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(file, unix.MNT_DETACH)) })
	end()
	require.Equal(t, []string{"elsewhere: macvlan mv0 (bridge) stands on it in the network namespace " + file}, evidence(t, h.Conn()))
}

// What nothing but an open file holds is in no list. The kernel still knows where a
// device has been moved; one that was made there shows itself while it is up, by its
// address in the lower device's filter.
func TestNamespaceHeldByAFileAlone(t *testing.T) {
	h := linktest.NewNetns(t)
	h.Card("nica")
	c := h.Conn()
	hold := func(pid, file string, end func()) {
		f, err := os.Open(file)
		require.NoError(t, err)
		t.Cleanup(func() { f.Close() })
		end()
	}
	pid, file, end := space(t)
	h.AddIn(pid, "macvtap", "mt0", "nica", "mode", "bridge")
	hold(pid, file, end)
	require.Empty(t, evidence(t, c), "nobody can see it")

	pid, file, end = space(t)
	h.Do("ip", "link", "add", "link", "nica", "name", "mt0", "address", "52:54:00:00:00:07", "netns", pid, "type", "macvtap", "mode", "bridge")
	h.UpIn(pid, "mt0")
	hold(pid, file, end)
	want := []string{"elsewhere: it receives frames for 52:54:00:00:00:07, as for a macvlan in a network namespace that cannot be seen"}
	require.Equal(t, want, evidence(t, c))
	u, used := link.FirstUse(c.Uses(t.Context(), "nica", nil))
	require.True(t, used, "without a look at other namespaces")
	require.Equal(t, want[0], string(u.Kind)+": "+u.Evidence)

	pid, file, end = space(t)
	h.Add("macvtap", "mt1", "nica", "mode", "bridge")
	h.Move("mt1", pid)
	hold(pid, file, end)
	have := evidence(t, c)
	require.Len(t, have, 1)
	require.True(t, strings.HasPrefix(have[0], "elsewhere: macvtap mt1 (bridge) stands on it in a network namespace without a name (id "), have)
}

// The hook has no other capability under AppArmor, and may trace nobody.
func TestOneCapabilityIsEnough(t *testing.T) {
	h := linktest.NewNetns(t)
	h.Card("nica")
	pid, _, _ := space(t)
	h.AddIn(pid, "macvlan", "mv0", "nica", "mode", "bridge")
	set := func(mask uint32) {
		t.Helper()
		head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		require.NoError(t, unix.Capget(&head, &data[0]))
		data[0].Effective, data[1].Effective = mask, 0
		require.NoError(t, unix.Capset(&head, &data[0]))
	}
	set(1 << unix.CAP_NET_ADMIN)
	want := []string{"elsewhere: macvlan mv0 (bridge) stands on it in the network namespace of process " + pid + " (sleep)"}
	require.Equal(t, want, evidence(t, h.Conn()))
	set(0)
	uses := slices.Collect(h.Conn().Uses(t.Context(), "nica", h.Conn().Elsewhere(t.Context())))
	require.Len(t, uses, 1)
	require.Equal(t, link.UseUnknown, uses[0].Kind)
	require.ErrorIs(t, uses[0].Err, unix.EPERM)
}

// With net.ipv4.nexthop_compat_mode=0 such a route does not say where it goes.
func TestRouteByNextHopObject(t *testing.T) {
	h := linktest.NewNetns(t)
	h.Card("nica")
	h.Card("nicb")
	h.Do("ip", "nexthop", "add", "id", "7", "dev", "nica")
	h.Route("198.51.100.0/24", "nhid", "7")
	for mode, want := range map[string]string{"0": "route 198.51.100.0/24 nhid 7 goes through it", "1": "route 198.51.100.0/24 goes through it"} {
		h.Do("sysctl", "-q", "net.ipv4.nexthop_compat_mode="+mode)
		u, used := link.FirstUse(h.Conn().Uses(t.Context(), "nica", nil))
		require.True(t, used)
		require.Equal(t, want, u.Evidence)
		u, used = link.FirstUse(h.Conn().Uses(t.Context(), "nicb", nil))
		require.False(t, used, "%v", u)
	}
}

func TestPacketSocketIsNoUse(t *testing.T) {
	h := linktest.NewNetns(t)
	h.Card("nica")
	l, err := h.Conn().ByName(t.Context(), "nica")
	require.NoError(t, err)
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(s)
	require.NoError(t, unix.Bind(s, &unix.SockaddrLinklayer{Protocol: 0xcc88, Ifindex: l.Index}))
	for _, mreq := range []unix.PacketMreq{
		{Type: unix.PACKET_MR_PROMISC}, {Type: unix.PACKET_MR_ALLMULTI},
		{Type: unix.PACKET_MR_MULTICAST, Alen: 6, Address: [8]byte{1, 0x80, 0xc2, 0, 0, 0x0e}},
	} {
		mreq.Ifindex = int32(l.Index)
		require.NoError(t, unix.SetsockoptPacketMreq(s, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &mreq))
	}
	u, used := link.FirstUse(h.Conn().Uses(t.Context(), "nica", h.Conn().Elsewhere(t.Context())))
	require.False(t, used, "%v", u)
}
