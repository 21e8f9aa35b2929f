//go:build integration

package host_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
)

// killedMain names a folder: the program then makes a host in it, reports and
// waits to be killed.
const killedMain = "HOST_TEST_KILLED_MAIN"

// sendMain holds a frame in hexadecimal: the program then sends it on "nic".
const sendMain = "HOST_TEST_SEND_MAIN"

// taggedFrame is a broadcast in VLAN 100 with priority 3.
var taggedFrame = append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x81, 0x00, 0x60, 100, 0x88, 0xb5}, make([]byte, 46)...)

func TestMain(m *testing.M) {
	host.MaybeInit()
	if frame := os.Getenv(sendMain); frame != "" {
		send(frame)
	}
	if dir := os.Getenv(killedMain); dir != "" {
		runToBeKilled(dir)
	}
	hosttest.Main(m)
}

func send(frame string) {
	data, err := hex.DecodeString(frame)
	check(err)
	nic, err := net.InterfaceByName("nic")
	check(err)
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	check(err)
	check(unix.Sendto(s, data, 0, &unix.SockaddrLinklayer{Ifindex: nic.Index}))
	os.Exit(0)
}

const guestMAC = "52:54:00:77:77:01"

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// started is a Host whose libvirtd answers.
func started(ctx context.Context, t *testing.T, opts host.Options) *host.Host {
	begin := time.Now()
	h := hosttest.New(ctx, t, opts)
	namespaces := time.Since(begin)
	require.NoError(t, h.StartLibvirtd(ctx))
	t.Logf("%s: namespaces after %v, libvirtd answers after %v", h.Name(),
		namespaces.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
	return h
}

func TestDirectNICLeavesNothingBehind(t *testing.T) {
	ctx := deadline(t)
	h := started(ctx, t, host.Options{Name: "a"})
	peer := hosttest.NewPeer(ctx, t, host.Options{Name: "peer"})
	require.NoError(t, host.Wire(ctx, h.Peer, "nica", peer, "wire0"))

	before, err := h.Snapshot(ctx)
	require.NoError(t, err)
	require.Contains(t, before, "nica")
	require.Equal(t, "true", before["nica"]["up"])

	require.NoError(t, h.Define(ctx, host.Domain{Name: "g", Interfaces: []string{host.DirectNIC(guestMAC, "nica", "bridge")}}.XML()))
	_, err = h.Virsh(ctx, "start", "g")
	require.NoError(t, err)

	running, err := h.Snapshot(ctx)
	require.NoError(t, err)
	tap := running["macvtap0"]
	require.Equal(t, "macvtap", tap["kind"])
	require.Equal(t, "bridge", tap["mode"])
	require.Equal(t, "nica", tap["parent"])
	require.Equal(t, guestMAC, tap["mac"])
	require.Equal(t, "/dev/tap"+tap["index"], tap["tap"])
	require.Contains(t, before.Diff(running), "+ macvtap0: ")

	_, err = h.Virsh(ctx, "destroy", "g")
	require.NoError(t, err)
	require.NoError(t, h.WaitState(ctx, "g", libvirt.DomainShutoff))
	after, err := h.Snapshot(ctx)
	require.NoError(t, err)
	require.Empty(t, before.Diff(after))
	require.NoFileExists(t, tap["tap"])
}

func TestFirmwareGetsLease(t *testing.T) {
	hosttest.Require(t, "dnsmasq", "tcpdump")
	ctx := deadline(t)
	h := started(ctx, t, host.Options{Name: "a"})
	peer := hosttest.NewPeer(ctx, t, host.Options{Name: "peer"})
	require.NoError(t, host.Wire(ctx, h.Peer, "nica", peer, "wire0"))
	dhcp, err := peer.StartDHCP(ctx, host.DHCPConfig{
		Interface: "wire0",
		Address:   netip.MustParsePrefix("10.55.0.1/24"),
		First:     netip.MustParseAddr("10.55.0.10"),
		Last:      netip.MustParseAddr("10.55.0.20"),
	})
	require.NoError(t, err)
	capture, err := peer.Capture(ctx, "wire0")
	require.NoError(t, err)

	serial := filepath.Join(t.TempDir(), "serial.log")
	require.NoError(t, h.Define(ctx, host.Domain{
		Name:       "g",
		Interfaces: []string{host.DirectNIC(guestMAC, "nica", "bridge", "<boot order='1'/>")},
	}.XML()))
	begin := time.Now()
	_, err = h.Virsh(ctx, "start", "g")
	require.NoError(t, err)
	mac, err := net.ParseMAC(guestMAC)
	require.NoError(t, err)
	lease, err := dhcp.WaitLease(ctx, mac)
	require.NoError(t, err)
	t.Logf("lease %s after %v", lease.Addr, time.Since(begin).Round(time.Millisecond))
	require.True(t, netip.MustParsePrefix("10.55.0.0/24").Contains(lease.Addr))

	frame, err := capture.Wait(ctx, func(f []byte) bool { return len(f) > 12 && bytes.Equal(f[6:12], mac) })
	require.NoError(t, err)
	require.Equal(t, uint16(unix.ETH_P_IP), binary.BigEndian.Uint16(frame[12:]))

	// A line that comes after the wait for it has begun.
	go h.Run(ctx, "sh", "-c", `echo first >"$1"; echo second >>"$1"`, "sh", serial)
	line, err := h.WaitLine(ctx, serial, func(l string) bool { return strings.HasPrefix(l, "sec") })
	require.NoError(t, err)
	require.Equal(t, "second", line)

	require.NoError(t, capture.Close())
	require.NoError(t, dhcp.Close())
	_, err = dhcp.WaitLease(ctx, net.HardwareAddr{2, 0, 0, 0, 0, 0})
	require.Error(t, err, "a closed server has no more leases to wait for")
}

// Two hosts and a peer see one network; VEPA needs the switch to reflect.
func TestLiveMigrationRenamesUplink(t *testing.T) {
	ctx := deadline(t)
	a := started(ctx, t, host.Options{Name: "a", ListenTCP: true})
	b := hosttest.New(ctx, t, host.Options{Name: "b", ListenTCP: true})
	hook := filepath.Join(t.TempDir(), "hook")
	require.NoError(t, os.WriteFile(hook, []byte("#!/bin/sh\nif [ \"$2\" = migrate ]; then sed \"s/dev='nica'/dev='enpb'/\"; else cat >/dev/null; fi\n"), 0o600))
	require.NoError(t, b.InstallHook(ctx, hook))
	require.NoError(t, b.StartLibvirtd(ctx))

	sw := hosttest.NewPeer(ctx, t, host.Options{Name: "switch"})
	require.NoError(t, host.Wire(ctx, a.Peer, "nica", sw, "p1"))
	require.NoError(t, host.Wire(ctx, b.Peer, "enpb", sw, "p2"))
	require.NoError(t, sw.Bridge(ctx, "br0", host.Port{Name: "p1", Hairpin: true}, host.Port{Name: "p2", Hairpin: true}))
	require.NoError(t, host.Wire(ctx, a.Peer, "mgmt", b.Peer, "mgmt"))
	require.NoError(t, a.SetAddress(ctx, "mgmt", "10.99.0.1/24"))
	require.NoError(t, b.SetAddress(ctx, "mgmt", "10.99.0.2/24"))

	beforeA, err := a.Snapshot(ctx)
	require.NoError(t, err)
	require.NoError(t, a.Define(ctx, host.Domain{Name: "m", Interfaces: []string{host.DirectNIC(guestMAC, "nica", "vepa")}}.XML()))
	_, err = a.Virsh(ctx, "start", "m")
	require.NoError(t, err)
	source, err := a.Snapshot(ctx)
	require.NoError(t, err)

	begin := time.Now()
	require.NoError(t, a.Migrate(ctx, "m", "10.99.0.2"))
	t.Logf("migrated in %v", time.Since(begin).Round(time.Millisecond))

	require.NoError(t, b.WaitState(ctx, "m", libvirt.DomainRunning))
	require.NoError(t, a.WaitState(ctx, "m", libvirt.DomainShutoff))
	moved, err := b.Snapshot(ctx)
	require.NoError(t, err)
	require.Equal(t, "enpb", moved["macvtap0"]["parent"])
	require.Equal(t, "vepa", moved["macvtap0"]["mode"])
	require.Equal(t, "/dev/tap"+moved["macvtap0"]["index"], moved["macvtap0"]["tap"])
	require.NotEqual(t, source["macvtap0"]["tap"], moved["macvtap0"]["tap"], "/dev is shared")
	afterA, err := a.Snapshot(ctx)
	require.NoError(t, err)
	require.Empty(t, beforeA.Diff(afterA))
}

func TestBridgeForwardsAndReflects(t *testing.T) {
	hosttest.Require(t, "tcpdump")
	ctx := deadline(t)
	a := hosttest.NewPeer(ctx, t, host.Options{Name: "a"})
	b := hosttest.NewPeer(ctx, t, host.Options{Name: "b"})
	sw := hosttest.NewPeer(ctx, t, host.Options{Name: "switch"})
	require.NoError(t, host.Wire(ctx, a, "nic", sw, "p1"))
	require.NoError(t, host.Wire(ctx, b, "nic", sw, "p2"))
	require.NoError(t, sw.Bridge(ctx, "br0", host.Port{Name: "p1", Hairpin: true}, host.Port{Name: "p2"}))
	for port, want := range map[string]string{"p1": "1\n", "p2": "0\n"} {
		got, err := sw.Run(ctx, "cat", "/sys/class/net/"+port+"/brport/hairpin_mode")
		require.NoError(t, err)
		require.Equal(t, want, got)
	}

	atA, err := a.Capture(ctx, "nic")
	require.NoError(t, err)
	atB, err := b.Capture(ctx, "nic")
	require.NoError(t, err)
	self, err := os.Executable()
	require.NoError(t, err)
	send := a.Command(ctx, self)
	send.Env = append(send.Env, sendMain+"="+hex.EncodeToString(taggedFrame))
	out, err := send.CombinedOutput()
	require.NoError(t, err, "%s", out)
	same := func(f []byte) bool { return bytes.Equal(f, taggedFrame) }
	_, err = atB.Wait(ctx, same)
	require.NoError(t, err, "VLAN tag and all")
	// Hairpin: a's own broadcast comes back, beside the one that it sent.
	_, err = atA.Wait(ctx, func([]byte) bool {
		n := 0
		for _, f := range atA.Frames() {
			if same(f) {
				n++
			}
		}
		return n == 2
	})
	require.NoError(t, err)
}

func TestSaveAndRestore(t *testing.T) {
	ctx := deadline(t)
	h := started(ctx, t, host.Options{Name: "a"})
	peer := hosttest.NewPeer(ctx, t, host.Options{Name: "peer"})
	require.NoError(t, host.Wire(ctx, h.Peer, "nica", peer, "wire0"))
	require.NoError(t, h.Define(ctx, host.Domain{Name: "g", Interfaces: []string{host.DirectNIC(guestMAC, "nica", "private")}}.XML()))
	_, err := h.Virsh(ctx, "start", "g")
	require.NoError(t, err)
	image := filepath.Join(t.TempDir(), "image")
	_, err = h.Virsh(ctx, "save", "g", image)
	require.NoError(t, err)
	require.NoError(t, h.WaitState(ctx, "g", libvirt.DomainShutoff))
	_, err = h.Virsh(ctx, "restore", image)
	require.NoError(t, err)
	require.NoError(t, h.WaitState(ctx, "g", libvirt.DomainRunning))
	s, err := h.Snapshot(ctx)
	require.NoError(t, err)
	links := 0
	for _, l := range s {
		if l["kind"] == "macvtap" {
			links++
			require.Equal(t, "private", l["mode"])
		}
	}
	require.Equal(t, 1, links)
}

func TestLibvirtdRestartKeepsGuest(t *testing.T) {
	ctx := deadline(t)
	h := started(ctx, t, host.Options{Name: "a"})
	require.ErrorContains(t, h.StartLibvirtd(ctx), "runs already")
	require.NoError(t, h.Define(ctx, host.Domain{Name: "g", OnPoweroff: "destroy"}.XML()))
	_, err := h.Virsh(ctx, "start", "g")
	require.NoError(t, err)
	for _, sig := range []unix.Signal{unix.SIGKILL, unix.SIGTERM} {
		require.NoError(t, h.KillLibvirtd(ctx, sig))
		_, err = h.Virsh(ctx, "list")
		require.Error(t, err)
		require.NoError(t, h.StartLibvirtd(ctx))
		require.NoError(t, h.WaitState(ctx, "g", libvirt.DomainRunning))
	}
}

func TestLibvirtdThatFailsSaysWhy(t *testing.T) {
	ctx := deadline(t)
	h := hosttest.New(ctx, t, host.Options{Name: "a", Log: new(bytes.Buffer)})
	require.NoError(t, h.WriteFile(ctx, "/etc/libvirt/libvirtd.conf", 0o644, []byte("nonsense")))
	begin := time.Now()
	err := h.StartLibvirtd(ctx)
	require.ErrorContains(t, err, "libvirtd ended")
	require.Less(t, time.Since(begin), 10*time.Second)
}

func TestNothingInsideReachesTheMachine(t *testing.T) {
	ctx := deadline(t)
	p := hosttest.NewPeer(ctx, t, host.Options{Name: "inside"})
	for _, name := range []string{"/etc/libvirt-direct/x", "/etc/libvirt/x", "/etc/host-test-x", "/var/lib/host-test-x",
		"/var/lib/libvirt/x", "/var/cache/libvirt/x", "/var/log/libvirt/x", "/run/host-test-x", "/dev/shm/host-test-x"} {
		require.NoError(t, p.WriteFile(ctx, name, 0o640, []byte("inside")))
		require.FileExists(t, p.Path(name))
		require.NoFileExists(t, name)
	}
	out, err := p.Run(ctx, "sh", "-c", "cat /etc/libvirt/x; ls /etc/libvirt /sys/class/net; hostname; ls -d /proc/1")
	require.NoError(t, err)
	require.Equal(t, "inside/etc/libvirt:\nx\n\n/sys/class/net:\nlo\ninside\n/proc/1\n", out)

	_, err = p.Run(ctx, "sh", "-c", "echo why >&2; exit 3")
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 3, exit.ExitCode())
	require.ErrorContains(t, err, "why")

	require.NoError(t, p.Close())
	_, err = p.Run(ctx, "true")
	require.ErrorIs(t, err, host.ErrClosed)
	require.ErrorIs(t, p.Command(ctx, "true").Start(), host.ErrClosed)
	require.NoError(t, p.Close(), "twice")
}

func TestCommandDiesWithItsContext(t *testing.T) {
	ctx := deadline(t)
	p := hosttest.NewPeer(ctx, t, host.Options{Name: "inside"})
	short, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := p.Command(short, "sh", "-c", "echo here; exec sleep 1000")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	cancel()
	require.Error(t, cmd.Wait())
	require.Eventually(t, func() bool {
		left, err := p.Run(ctx, "pgrep", "-c", "-x", "sleep")
		return err != nil && left == "0\n"
	}, 5*time.Second, 10*time.Millisecond)
}

// runToBeKilled makes a host with a running guest and a command, prints the
// namespaces, and never ends by itself.
func runToBeKilled(dir string) {
	ctx := context.Background()
	h, err := host.New(ctx, host.Options{Name: "a", Dir: dir, Log: os.Stderr})
	check(err)
	check(h.StartLibvirtd(ctx))
	check(h.Define(ctx, host.Domain{Name: "g"}.XML()))
	_, err = h.Virsh(ctx, "start", "g")
	check(err)
	check(h.Command(ctx, "sleep", "1000").Start())
	_, err = h.Run(ctx, "sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 &")
	check(err)
	for _, ns := range []string{"net", "mnt", "pid", "uts", "ipc"} {
		link, err := os.Readlink(h.Path("/proc/1/ns/" + ns))
		check(err)
		fmt.Println(link)
	}
	fmt.Println("end")
	select {}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func TestKilledCreatorLeavesNothing(t *testing.T) {
	hosttest.Require(t, "libvirtd", "virsh", "qemu-system-x86_64")
	ctx := deadline(t)
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	dir := filepath.Join(t.TempDir(), "killed")
	cmd.Env = append(os.Environ(), killedMain+"="+dir)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	namespaces := map[string]bool{}
	for lines := bufio.NewScanner(out); lines.Scan() && lines.Text() != "end"; {
		namespaces[lines.Text()] = true
	}
	require.Len(t, namespaces, 5)
	inside := processesOf(t, namespaces, dir)
	t.Logf("before: %s", strings.Join(inside, ", "))
	for _, want := range []string{"libvirtd", "qemu-system-x86", "sleep"} {
		require.Contains(t, strings.Join(inside, " "), want)
	}

	require.NoError(t, cmd.Process.Kill())
	cmd.Wait()
	begin := time.Now()
	var left []string
	require.Eventually(t, func() bool { left = processesOf(t, namespaces, dir); return len(left) == 0 },
		10*time.Second, 20*time.Millisecond, "left: %v", left)
	t.Logf("all gone %v after the kill", time.Since(begin).Round(time.Millisecond))
}

// processesOf lists, machine-wide, what runs in any of the namespaces or was
// started by the program that was given dir.
func processesOf(t *testing.T, namespaces map[string]bool, dir string) []string {
	var found []string
	entries, err := os.ReadDir("/proc")
	require.NoError(t, err)
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		at := filepath.Join("/proc", e.Name())
		// A zombie has nothing left but its number, until the machine's PID 1
		// gets round to reaping it.
		stat, _ := os.ReadFile(filepath.Join(at, "stat"))
		if _, state, _ := strings.Cut(string(stat), ") "); strings.HasPrefix(state, "Z") {
			continue
		}
		env, _ := os.ReadFile(filepath.Join(at, "environ")) // gone by now, perhaps
		ours := bytes.Contains(env, []byte(killedMain+"="+dir))
		for _, ns := range []string{"net", "mnt", "pid", "uts", "ipc"} {
			link, _ := os.Readlink(filepath.Join(at, "ns", ns))
			ours = ours || namespaces[link]
		}
		if ours {
			comm, _ := os.ReadFile(filepath.Join(at, "comm"))
			found = append(found, e.Name()+" "+strings.TrimSpace(string(comm)))
		}
	}
	return found
}
