// Package realhost makes the hosts of hooktest's contracts on this machine.
package realhost

import (
	"encoding/json"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/hooks/hooktest"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/link/linktest"
)

// Netns is a hooktest.KernelHost in a network namespace.
type Netns struct {
	*linktest.Netns
	t *testing.T
}

var _ hooktest.KernelHost = (*Netns)(nil)

// NewNetns makes one, as linktest.NewNetns does. It needs root.
func NewNetns(t *testing.T) hooktest.KernelHost {
	t.Helper()
	return &Netns{linktest.NewNetns(t), t}
}

// Kernel is a connection in the namespace.
func (n *Netns) Kernel() step.Kernel { return n.Conn() }

// Bridge implements hooktest.KernelHost.
func (n *Netns) Bridge(name string) {
	n.t.Helper()
	n.Add("bridge", name, "")
	n.Up(name)
}

// In implements hooktest.KernelHost.
func (n *Netns) In(container string) []string {
	n.t.Helper()
	var links []struct{ Ifname string }
	text := n.Do("nsenter", "--net=/proc/"+container+"/ns/net", "ip", "-j", "link")
	require.NoError(n.t, json.Unmarshal([]byte(text), &links))
	var names []string
	for _, l := range links {
		if l.Ifname != "lo" {
			names = append(names, l.Ifname)
		}
	}
	return names
}

// PortVLANs implements hooktest.KernelHost.
func (n *Netns) PortVLANs(name string) []link.PortVLAN {
	n.t.Helper()
	vlans, err := n.Conn().PortVLANs(n.t.Context(), n.link(name).Index)
	require.NoError(n.t, err)
	return vlans
}

// PortMACs implements hooktest.KernelHost.
func (n *Netns) PortMACs(name string) []string {
	n.t.Helper()
	var macs []string
	for line := range strings.Lines(n.Do("bridge", "fdb", "show", "brport", name, "dynamic", "state", "all")) {
		f := strings.Fields(line)
		if slices.Contains(f, "static") && slices.Contains(f, "master") && !slices.Contains(macs, f[0]) {
			macs = append(macs, f[0])
		}
	}
	return macs
}

// IPv6 implements hooktest.KernelHost.
func (n *Netns) IPv6(name string) bool {
	n.t.Helper()
	b, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6")
	require.NoError(n.t, err)
	return strings.TrimSpace(string(b)) == "0"
}

func (n *Netns) link(name string) link.Link {
	n.t.Helper()
	l, err := n.Conn().ByName(n.t.Context(), name)
	require.NoError(n.t, err)
	return l
}

// experiment is the EtherType that IEEE 802 leaves to experiments.
const experiment = 0x88b5

// Receiver implements hooktest.KernelHost. The frame reaches one of them.
func (n *Netns) Receiver(from, mac string, macvtaps ...string) string {
	n.t.Helper()
	sender := n.link(from)
	lower, err := n.Conn().ByIndex(n.t.Context(), sender.Parent)
	require.NoError(n.t, err)
	var fds []unix.PollFd
	for _, name := range append(slices.Clone(macvtaps), lower.Name+"-wire") {
		fd := n.socket(n.link(name).Index, unix.ETH_P_ALL) // a macvtap takes frames before sockets of one type see them
		fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		defer unix.Close(fd)
	}
	s := n.socket(sender.Index, 0)
	defer unix.Close(s)
	to, err := net.ParseMAC(mac)
	require.NoError(n.t, err)
	own, err := net.ParseMAC(sender.MAC)
	require.NoError(n.t, err)
	frame := slices.Concat(to, own, []byte{experiment >> 8, experiment & 0xff}, make([]byte, 46))
	require.NoError(n.t, unix.Sendto(s, frame, 0, &unix.SockaddrLinklayer{Ifindex: sender.Index}))
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		_, err := unix.Poll(fds, 1000)
		if err == unix.EINTR {
			continue
		}
		require.NoError(n.t, err)
		for i, p := range fds {
			if p.Revents&unix.POLLIN == 0 {
				continue
			}
			buf := make([]byte, 2048)
			size, _, err := unix.Recvfrom(int(p.Fd), buf, 0)
			require.NoError(n.t, err)
			if size >= 14 && slices.Equal(buf[:14], frame[:14]) {
				return strings.Join(macvtaps[min(i, len(macvtaps)):min(i+1, len(macvtaps))], "")
			}
		}
	}
	require.Fail(n.t, "nobody gets the frame")
	return ""
}

func (n *Netns) socket(index, typ int) int {
	n.t.Helper()
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	require.NoError(n.t, err)
	swapped := uint16(typ)<<8 | uint16(typ)>>8
	require.NoError(n.t, unix.Bind(s, &unix.SockaddrLinklayer{Protocol: swapped, Ifindex: index}))
	return s
}
