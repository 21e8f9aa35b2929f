//go:build integration

package managers

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/helper/client"
	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
	"libvirt-direct/internal/link"
)

// A machine is a Debian host whose eth0 is wired to a capture.
type machine struct {
	*host.Peer
	t    *testing.T
	ctx  context.Context
	root string // of the release, seen from the host's namespaces
	far  *host.Peer
	wire *host.Capture
	card string // eth0, whatever it is called by now
}

const (
	cardMAC  = "02:00:00:00:00:10"
	guestMAC = "52:54:00:cc:00:02"
	hostIP   = "198.51.100.7"
)

// newMachine makes a host of a release on which udev runs. files are by their paths; with
// shield there are those of our packages too.
func newMachine(t *testing.T, suite string, shield bool, files map[string]string) *machine {
	t.Helper()
	tree := os.Getenv(treesVariable + "_" + suite)
	require.NotEmpty(t, tree)
	ctx := hosttest.Deadline(t, 4*time.Minute)
	m := &machine{Peer: hosttest.NewPeer(ctx, t, host.Options{Name: suite}), t: t, ctx: ctx, root: "/run/root", card: "eth0"}
	m.far = hosttest.NewPeer(ctx, t, host.Options{Name: "far"})
	m.outside(`
		modprobe -a tun 8021q macvtap
		mkdir /run/root /run/layers; mount -t tmpfs -o mode=755 layers /run/layers; cd /run/layers; mkdir -m 755 upper work
		mount -t overlay -o lowerdir="$0",upperdir=upper,workdir=work root /run/root; cd /run/root
		mkdir -p proc sys dev run tmp root prog var/lib/systemd/network var/lib/NetworkManager etc/libvirt-direct
		for d in bin sbin lib lib64; do [ -e $d ] || ln -s usr/$d $d; done; [ -e bin/sh ] || ln -s dash bin/sh; [ -e var/run ] || ln -s /run var/run
		mount -t proc proc proc; mount --rbind /sys sys; mount --rbind /dev dev; mount -t tmpfs -o mode=755 run run; mount --bind "$1" prog
		mkdir -p run/systemd/netif run/systemd/network run/udev run/dbus run/network run/libvirt run/lldpd run/lock
		printf '%s:x:%d:%d::/:/bin/sh\n' root 0 0 systemd-network 998 998 messagebus 997 997 _lldpd 996 996 >etc/passwd
		printf '%s:x:%d:\n' root 0 systemd-network 998 messagebus 997 _lldpd 996 kvm 995 >etc/group
		for d in . links leases lldp; do mkdir -p run/systemd/netif/$d; chown 998:998 run/systemd/netif/$d; done
		echo 0123456789abcdef0123456789abcdef >etc/machine-id
		for scope in all default; do echo 0 >/proc/sys/net/ipv6/conf/$scope/disable_ipv6; done`, tree, os.Getenv(programsVariable))
	if shield {
		for name, to := range map[string]string{"udev.rules": "udev/rules.d/0-libvirt-direct.rules",
			"unmanaged.network": "systemd/network/0-libvirt-direct.network", "unmanaged.link": "systemd/network/0-libvirt-direct.link"} {
			text, err := os.ReadFile(filepath.Join("../../packaging/managers", name))
			require.NoError(t, err)
			m.write("/usr/lib/"+to, string(text))
		}
	}
	for name, text := range files {
		m.write(name, text)
	}
	require.NoError(t, host.Wire(ctx, m.Peer, "eth0", m.far, "port0"))
	m.outside("ip link set eth0 down; ip link set eth0 address " + cardMAC)
	var err error
	m.wire, err = m.far.Capture(ctx, "port0")
	require.NoError(t, err)
	t.Cleanup(func() { m.wire.Close() })

	m.background("/lib/systemd/systemd-udevd")
	hosttest.Eventually(t, 30*time.Second, "udevd", func() bool {
		_, err := os.Stat(m.Path(m.root + "/run/udev/control"))
		return err == nil
	})
	m.sh("udevadm trigger --action=add --subsystem-match=net; udevadm settle")
	for _, l := range m.links() {
		if l.Address == cardMAC {
			m.card = l.Name
		}
	}
	m.sh("ip link set " + m.card + " up")
	return m
}

// outside runs a shell script in the host's namespaces, and not in its root.
func (m *machine) outside(script string, args ...string) {
	m.t.Helper()
	_, err := m.Run(m.ctx, "/bin/sh", append([]string{"-euc", script}, args...)...)
	require.NoError(m.t, err)
}

func (m *machine) inside(name string, args ...string) *host.Cmd {
	cmd := m.Command(m.ctx, "chroot", append([]string{m.root, name}, args...)...)
	// Else udevadm does nothing in a chroot.
	cmd.Env = []string{"PATH=/prog:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_IGNORE_CHROOT=1", "LC_ALL=C"}
	return cmd
}

func (m *machine) try(script string) (string, error) {
	out, err := m.inside("/bin/sh", "-euc", script).CombinedOutput()
	return string(out), err
}

// sh runs a shell script in the root and returns what it prints.
func (m *machine) sh(script string) string {
	m.t.Helper()
	out, err := m.try(script)
	require.NoError(m.t, err, "%s\n%s", script, out)
	return out
}

// background runs a daemon until the test ends.
func (m *machine) background(name string, args ...string) {
	m.t.Helper()
	cmd := m.inside(name, args...)
	cmd.Stdout, cmd.Stderr = m.t.Output(), m.t.Output()
	require.NoError(m.t, cmd.Start())
	m.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
}

func (m *machine) write(name, text string) {
	m.t.Helper()
	require.NoError(m.t, m.WriteFile(m.ctx, filepath.Join(m.root, name), 0o644, []byte(text)))
}

// device is what ip says of one.
type device struct {
	Index   int       `json:"ifindex"`
	Name    string    `json:"ifname"`
	Address string    `json:"address"`
	Flags   []string  `json:"flags"`
	Has     []address `json:"addr_info"`
}

type address struct {
	Local string `json:"local"`
}

func (m *machine) links() (found []device) {
	m.t.Helper()
	require.NoError(m.t, json.Unmarshal([]byte(m.sh("ip -json address show")), &found))
	return found
}

func (m *machine) device(name string) device {
	m.t.Helper()
	all := m.links()
	i := slices.IndexFunc(all, func(d device) bool { return d.Name == name })
	require.GreaterOrEqual(m.t, i, 0, "%s is not there: %v", name, all)
	return all[i]
}

// made are the devices of libvirt-direct on the host.
type made struct{ vlan, macvtap, tap, helperVLAN, helperMacvtap string }

func (d made) all() []string {
	return []string{d.vlan, d.macvtap, d.tap, d.helperVLAN, d.helperMacvtap}
}

// guest is a domain with a VLAN of the card that libvirt puts a macvtap on, and with a
// macvtap that the hook makes.
func (m *machine) guest() string {
	return fmt.Sprintf(`<domain type='qemu'><name>vm</name><uuid>6d6c1f0e-1111-4222-8333-012345678821</uuid>
<metadata><ld:nics xmlns:ld='urn:libvirt-direct:1'><ld:nic mac='%s' own='hook' dev='%s' mode='bridge'/></ld:nics></metadata>
<devices><interface type='direct'><mac address='52:54:00:cc:00:01'/><source dev='%[2]s.100' mode='bridge'/></interface>
<interface type='ethernet'><mac address='%[1]s'/><target dev='ldt0123456789' managed='no'/></interface></devices></domain>`, guestMAC, m.card)
}

func (m *machine) hook(op string) {
	m.t.Helper()
	cmd := m.inside("/prog/qemu", "vm", op, "begin", "-")
	cmd.Stdin = strings.NewReader(m.guest())
	out, err := cmd.CombinedOutput()
	require.NoError(m.t, err, "%s: %s", op, out)
}

// make makes one of each kind. They stay until the test ends.
func (m *machine) make() made {
	m.t.Helper()
	d := made{vlan: m.card + ".100", macvtap: "ldt0123456789", tap: "ldtaaaaaaaaaa", helperVLAN: m.card + ".200"}
	m.hook("prepare")
	m.hook("start")
	require.NoError(m.t, in(m.Peer, func(c *link.Conn) error {
		index, err := link.FreeIndex()
		if err != nil {
			return err
		}
		return errors.Join(c.AddTap(m.ctx, link.Tap{Name: d.tap, Index: index}), c.Silence(m.ctx, index), c.SetUp(m.ctx, index, true))
	}))
	m.write("/etc/libvirt-direct/helper.conf", "[lan]\nkind = macvtap\nlower = "+m.card+"\nvlan = 200\nvisible = yes\nallow = user:root\n")
	// The tests' own is what asks the helper; it answers to a descriptor, which goes along.
	script := filepath.Join(m.t.TempDir(), "helper")
	pid := strings.Split(m.Path("/"), "/")[2]
	require.NoError(m.t, os.WriteFile(script, []byte("#!/bin/sh\nexec nsenter --target "+pid+
		" --mount --uts --ipc --net --pid -- chroot "+m.root+" /prog/qemu-direct-helper \"$@\"\n"), 0o755))
	var fds []*os.File
	hosttest.Eventually(m.t, time.Minute, "the helper's device", func() (ok bool) { // on a busy emulator it can take longer than it may
		var err error
		fds, err = client.Open(m.ctx, client.Request{Helper: script, Profile: "lan", VNetHdr: true})
		if err != nil {
			m.t.Log(err)
		}
		return err == nil
	})
	m.t.Cleanup(func() { fds[0].Close() })
	for _, l := range m.links() {
		if strings.HasPrefix(l.Name, "mvt") {
			d.helperMacvtap = l.Name
		}
	}
	m.sh("udevadm settle")
	return d
}

// in calls f on a thread in a host's network namespace.
func in(p *host.Peer, f func(c *link.Conn) error) error {
	ended := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the function
		ended <- func() error {
			ns, err := os.Open(filepath.Join(filepath.Dir(filepath.Clean(p.Path("/"))), "ns/net"))
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			c, err := link.Open()
			if err != nil {
				return err
			}
			defer c.Close()
			return f(c)
		}()
	}()
	return <-ended
}

// send sends a frame from a device.
func send(p *host.Peer, nic string, frame func(own net.HardwareAddr) []byte) error {
	return in(p, func(*link.Conn) error {
		ifi, err := net.InterfaceByName(nic)
		if err != nil {
			return err
		}
		c, err := packet.Listen(ifi, packet.Raw, marker, nil)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.WriteTo(frame(ifi.HardwareAddr), &packet.Addr{HardwareAddr: broadcast})
		return err
	})
}

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// marker is the EtherType that IEEE 802 leaves to experiments.
const marker = 0x88b5

// foreign lists the frames on the wire that are of this host: in the VLANs of the guests, or
// from a guest's address. What is sent after this has been asked for is not in it.
func (m *machine) foreign(d made) (frames []string) {
	m.t.Helper()
	last := []byte(fmt.Sprintf("marker %d", time.Now().UnixNano()))
	require.NoError(m.t, send(m.Peer, d.vlan, func(own net.HardwareAddr) []byte {
		return slices.Concat([]byte(broadcast), own, []byte{marker >> 8, marker & 0xff}, last)
	}))
	_, err := m.wire.Wait(m.ctx, func(f []byte) bool { return bytes.Contains(f, last) })
	require.NoError(m.t, err)
	guests := []string{guestMAC}
	for _, l := range m.links() {
		if l.Name == d.macvtap || l.Name == d.helperMacvtap {
			guests = append(guests, l.Address)
		}
	}
	for _, f := range m.wire.Frames() {
		if len(f) < 18 || bytes.Contains(f, []byte("marker ")) {
			continue
		}
		tagged := f[12] == 0x81 && f[13] == 0
		from := net.HardwareAddr(f[6:12]).String()
		if tagged && from != "02:00:00:00:00:fa" || slices.Contains(guests, from) {
			frames = append(frames, hex.EncodeToString(f[:min(len(f), 60)]))
		}
	}
	return frames
}

// ask sends an ARP request for the host's own address into a VLAN, from the other end of the
// wire, and waits until the host has seen it.
func (m *machine) ask(d made) {
	m.t.Helper()
	seen := make(chan error, 1)
	require.NoError(m.t, in(m.Peer, func(*link.Conn) error {
		c, _, err := hosttest.Arriving(d.vlan)
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
			buf := make([]byte, 2000)
			for {
				n, _, err := c.ReadFrom(buf)
				if err != nil || bytes.Contains(buf[:n], []byte{0x08, 0x06, 0, 1, 8, 0, 6, 4}) {
					seen <- err
					return
				}
			}
		}()
		return nil
	}))
	from := []byte{2, 0, 0, 0, 0, 0xfa}
	require.NoError(m.t, send(m.far, "port0", func(net.HardwareAddr) []byte {
		return slices.Concat([]byte(broadcast), from, []byte{0x81, 0, 0, 100, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1}, from,
			net.ParseIP("198.51.100.99").To4(), make([]byte, 6), net.ParseIP(hostIP).To4(), make([]byte, 18))
	}))
	require.NoError(m.t, <-seen)
}

// requireAlone is for devices that nobody but us has done anything to.
func (m *machine) requireAlone(d made) {
	m.t.Helper()
	links, files := m.links(), ""
	for _, name := range d.all() {
		i := slices.IndexFunc(links, func(l device) bool { return l.Name == name })
		require.GreaterOrEqual(m.t, i, 0, "%s is not there: %v", name, links)
		require.Empty(m.t, links[i].Has, name)
		require.Contains(m.t, links[i].Flags, "NOARP", name)
		files += " /proc/sys/net/ipv6/conf/" + name + "/disable_ipv6 /proc/sys/net/ipv4/conf/" + name + "/rp_filter"
	}
	require.Equal(m.t, strings.Repeat("1\n1\n", len(d.all())), m.sh("cat"+files))
	m.ask(d)
	require.Empty(m.t, m.foreign(d))
}

// judged waits until networkd has looked at the devices, and returns what it says.
func (m *machine) judged(names ...string) (states map[string]string) {
	m.t.Helper()
	states = map[string]string{}
	for _, name := range names {
		file := m.Path(m.root + "/run/systemd/netif/links/" + strconv.Itoa(m.device(name).Index))
		hosttest.Eventually(m.t, time.Minute, "networkd's opinion of "+name, func() bool {
			text, _ := os.ReadFile(file)
			for line := range strings.Lines(string(text)) {
				if state, ok := strings.CutPrefix(line, "ADMIN_STATE="); ok {
					states[name] = strings.TrimSpace(state)
				}
			}
			return !slices.Contains([]string{"", "pending", "initialized", "configuring"}, states[name])
		})
	}
	return states
}
