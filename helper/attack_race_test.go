//go:build integration

package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/integration/host/hosttest"
)

// Whoever watches how a device is made is there before it is done. Where strace delays the helper he always is.

// news is what the kernel tells everybody about a device or a namespace of the helper's.
type news struct {
	indices []int  // all the numbers in it that are as large as the helper's
	name    string // a device's
	mac     string
}

// overhear calls f, as the stranger and on a thread of its own, with all that the kernel tells of the host's network until
// the test ends or stop is called.
func overhear(t testing.TB, f func(news)) (stop func()) {
	t.Helper()
	const rtnlgrpNSID = 28 // linux/rtnetlink.h
	var fd int
	require.NoError(t, as(stranger, func() (err error) {
		if fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE); err != nil {
			return err
		}
		if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return err
		}
		for _, group := range []int{unix.RTNLGRP_LINK, rtnlgrpNSID} {
			if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group); err != nil {
				return err
			}
		}
		return nil
	}))
	socket, done := os.NewFile(uintptr(fd), "netlink"), make(chan error, 1)
	go func() {
		done <- as(stranger, func() error {
			for b := make([]byte, 1<<16); ; {
				n, err := socket.Read(b)
				if err != nil {
					return nil
				}
				messages, err := syscall.ParseNetlinkMessage(b[:n])
				if err != nil {
					return err
				}
				for _, m := range messages {
					if said := heardNews(m); len(said.indices) > 0 {
						f(said)
					}
				}
			}
		})
	}()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			socket.Close()
			require.NoError(t, <-done)
		}
	}
	t.Cleanup(stop)
	return stop
}

func heardNews(m syscall.NetlinkMessage) (out news) {
	number := func(b []byte) {
		if len(b) >= 4 {
			if i := int(int32(binary.NativeEndian.Uint32(b))); i >= 1<<30 && !slices.Contains(out.indices, i) {
				out.indices = append(out.indices, i)
			}
		}
	}
	switch m.Header.Type {
	case unix.RTM_NEWNSID:
		for b := m.Data[4:]; len(b) >= 8; {
			n := int(binary.NativeEndian.Uint16(b))
			if n < 4 || n > len(b) {
				break
			}
			number(b[4:n])
			b = b[min((n+3)&^3, len(b)):]
		}
	case unix.RTM_NEWLINK:
		number(m.Data[4:8])
		attributes, _ := syscall.ParseNetlinkRouteAttr(&m)
		for _, a := range attributes {
			switch a.Attr.Type {
			case unix.IFLA_IFNAME:
				out.name = strings.TrimRight(string(a.Value), "\x00")
			case unix.IFLA_ADDRESS:
				out.mac = net.HardwareAddr(a.Value).String()
			case unix.IFLA_LINK: // the other end of a cable, in a namespace of its own
				number(a.Value)
			}
		}
	}
	return out
}

// forestall has the stranger make a macvtap, in a network namespace of his own, of each number that he hears of: under
// the name that begins with prefix, and with the address mac, or if that is empty the one that he hears. Its node is the
// host's. made returns his devices.
func forestall(t testing.TB, prefix, mac string) (made func() []string) {
	t.Helper()
	ip := userCommand(t, stranger, nil, "unshare", "-Urn", "ip", "-force", "-batch", "-")
	ip.SysProcAttr.Pdeathsig = 0 // it would come with the end of this thread; the end of its input ends it as well
	in, err := ip.StdinPipe()
	require.NoError(t, err)
	out, err := ip.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, ip.Start())
	lines := bufio.NewReader(out)
	say := func(format string, a ...any) { _, _ = fmt.Fprintf(in, format+"\n", a...) }
	// answer is what ip prints for a command.
	answer := func(command string) string {
		say("%s\nlink show dev lo", command)
		var text strings.Builder
		for {
			line, err := lines.ReadString('\n')
			require.NoError(t, err, "the stranger has no namespace of his own: %s", text.String())
			if strings.Contains(line, " lo: ") {
				_, err := lines.ReadString('\n') // its address
				require.NoError(t, err)
				return text.String()
			}
			text.WriteString(line)
		}
	}
	say("link add d0 type veth peer name d1\nlink set d0 up\nlink set d1 up")
	require.Contains(t, answer("link show dev d0"), "d0@d1")
	seen := map[int]bool{}
	stop := overhear(t, func(n news) {
		his := mac
		if his == "" {
			his = n.mac
		}
		if his == "" {
			return
		}
		for _, i := range n.indices {
			for _, i := range []int{i, i ^ 1<<28} { // and what could be made of it
				if !seen[i] {
					seen[i] = true
					say("link add link d0 name %s%x index %d address %s type macvtap mode bridge\nlink set %[1]s%[2]x up", prefix, i, i, his)
				}
			}
		}
	})
	t.Cleanup(func() { in.Close() })
	return func() []string {
		stop()
		var names []string
		for line := range strings.Lines(answer("link show type macvtap")) {
			if _, name, ok := strings.Cut(line, ": "); ok && strings.Contains(name, "@d0") {
				names = append(names, name[:strings.Index(name, "@")])
			}
		}
		return names
	}
}

// askSlowly is a call of alice's that strace delays at the entry of system calls.
func askSlowly(t testing.TB, calls, name string, more ...string) answer {
	t.Helper()
	ours, theirs := socketpairAs(t, alice)
	defer unix.Close(ours)
	defer theirs.Close()
	const delay = 15000 // microseconds
	args := append([]string{"-f", "-o", "/dev/null", "-u", "helperalice", "-e", "trace=" + calls,
		"-e", fmt.Sprintf("inject=%s:delay_enter=%d", calls, delay), helper, "--use-vnet", "--fd=3", "--br=" + name}, more...)
	cmd := strace(t, args...)
	cmd.ExtraFiles = []*os.File{theirs}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.NoError(t, cmd.Start())
	theirs.Close()
	return finish(t, cmd, ours, &stdout, &stderr)
}

// paces are the ways to call the helper for alice.
var paces = map[string]func(t testing.TB, name string, more ...string) answer{
	"as it is": ask,
	"slow": func(t testing.TB, name string, more ...string) answer {
		return askSlowly(t, "openat,sendto", name, more...)
	},
}

// nodeDevices are the devices whose descriptors come from a node below /dev.
var nodeDevices = map[string]struct{ profile, request, prefix, far string }{
	"macvtap isolated":       {lan, "lan/" + alicesMAC, "mvt", "v1"},
	"macvtap plain":          {lan + "device = macvtap\n", "lan/" + alicesMAC, "mvt", "v1"},
	"macvtap visible":        {lan + "visible = yes\n", "lan/" + alicesMAC, "mvt", "v1"},
	"bridge port":            {guests, "guests/" + alicesMAC, "tap", "b1"},
	"bridge port no address": {"[guests]\nkind = bridge\nbridge = br0\ndevice = isolated\nallow = everyone\n", "guests", "tap", "b1"},
}

// eachForestalled calls f with a way to ask for each of the devices, at each pace, while the stranger makes his own.
func eachForestalled(t *testing.T, mac func(request string) string, f func(t *testing.T, far string, a answer)) {
	t.Helper()
	fabric(t)
	wire(t, "v0", "v1")
	addUser(t)
	for _, name := range slices.Sorted(maps.Keys(nodeDevices)) {
		d := nodeDevices[name]
		for pace, ask := range paces {
			t.Run(name+" "+pace, func(t *testing.T) {
				profiles(t, d.profile)
				for range hosttest.Rounds(3, 100) {
					made := forestall(t, d.prefix, mac(d.request))
					a := ask(t, d.request)
					require.NotEmpty(t, made(), "the stranger heard of nothing, and tried nothing")
					f(t, d.far, a)
					a.close()
					requireNoPorts(t, "br0")
				}
			})
		}
	}
}

func TestStrangerBecomesAnotherUsersNetwork(t *testing.T) {
	mac := func(request string) string {
		_, mac, _ := strings.Cut(request, "/")
		return mac
	}
	eachForestalled(t, mac, func(t *testing.T, far string, granted answer) {
		wire := ear(t, far)
		a := holder(t, alice, granted)
		if strings.HasPrefix(a.name, "tap") {
			a.mac = alicesMAC
		}
		a.says(t, eth(t, "alice's secret", everybody, alicesMAC, experimental), a.end(t, alicesMAC))
		require.Equal(t, []string{"alice's secret"}, hears(t, wire))
		require.Equal(t, []string{"for alice"}, a.reads(t, far, eth(t, "for alice", alicesMAC, router, experimental)))
	})
}

func TestStrangerKeepsAnotherUserFromStartingWithANodeOfHisOwn(t *testing.T) {
	mac := func(string) string { return "02:00:00:00:00:55" }
	eachForestalled(t, mac, func(t *testing.T, _ string, a answer) { requireGranted(t, a) })
}

// joiner is the stranger who attaches a queue to each TAP device that he hears of, and closes it when then has done
// something to the device. Without then he keeps it. attempts tells how many devices he tried.
func joiner(t testing.TB, then func(fd int) error) (attempts func() int) {
	t.Helper()
	tried, spare := map[string]bool{}, -1
	open := func() (err error) {
		spare, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		return err
	}
	require.NoError(t, as(stranger, open))
	stop := overhear(t, func(n news) {
		if !strings.HasPrefix(n.name, "tap") {
			return
		}
		tried[n.name] = true
		r, err := unix.NewIfreq(n.name)
		if err != nil {
			return
		}
		r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_MULTI_QUEUE | unix.IFF_VNET_HDR)
		if unix.IoctlIfreq(spare, unix.TUNSETIFF, r) != nil {
			return
		}
		if then != nil {
			_ = then(spare)
			unix.Close(spare)
		} else {
			held := spare
			t.Cleanup(func() { unix.Close(held) })
		}
		_ = open()
	})
	t.Cleanup(func() { unix.Close(spare) })
	return func() int {
		stop()
		return len(tried)
	}
}

func TestStrangerSpoilsATAPDeviceInTheMomentItIsMade(t *testing.T) {
	addUser(t)
	const header = 20 // instead of 10
	for doing, then := range map[string]func(fd int) error{
		"holds":                nil,
		"takes the carrier":    func(fd int) error { return unix.IoctlSetPointerInt(fd, unix.TUNSETCARRIER, 0) },
		"changes the header":   func(fd int) error { return unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, header) },
		"leaves it persistent": func(fd int) error { return unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1) },
	} {
		for _, name := range []string{"taps", "br0"} {
			for pace, ask := range map[string]func(testing.TB, string, ...string) answer{
				"as it is": ask,
				"slow": func(t testing.TB, name string, more ...string) answer {
					return askSlowly(t, "ioctl", name, more...)
				},
			} {
				t.Run(doing+" "+name+" "+pace, func(t *testing.T) {
					fabric(t)
					acl(t, "allow br0\n")
					profiles(t, taps)
					attempts := joiner(t, then)
					for range hosttest.Rounds(5, 200) {
						a := holder(t, alice, ask(t, name, "--queues=2"))
						a.mac = alicesMAC
						requireWorkingTAP(t, a)
						a.close()
						requireNoPort(t, a.name)
					}
					require.Positive(t, attempts(), "the stranger heard of nothing, and tried nothing")
				})
			}
		}
	}
}

// requireWorkingTAP says that frames with a struct virtio_net_hdr go to the bridge br0 and come from it.
func requireWorkingTAP(t testing.TB, a *nic) {
	t.Helper()
	for _, fd := range a.fds(t) {
		r, err := unix.NewIfreq("x")
		require.NoError(t, err)
		require.NoError(t, unix.IoctlIfreq(fd, unix.TUNGETIFF, r))
		require.NotZero(t, r.Uint16()&unix.IFF_VNET_HDR)
		size, err := unix.IoctlGetInt(fd, unix.TUNGETVNETHDRSZ)
		require.NoError(t, err)
		require.Equal(t, 10, size)
	}
	carrier, err := os.ReadFile("/sys/class/net/" + a.name + "/carrier")
	require.NoError(t, err)
	require.Equal(t, "1\n", string(carrier))
	far := ear(t, "b1")
	a.says(t, eth(t, "from alice", everybody, alicesMAC, experimental), a.end(t, alicesMAC))
	require.Equal(t, []string{"from alice"}, hears(t, far))
	require.Equal(t, []string{"for alice"}, a.reads(t, "b1", eth(t, "for alice", alicesMAC, router, experimental)))
}
