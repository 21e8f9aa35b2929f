//go:build integration || vm

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/helper/client"
)

const lanProfile = `
[lan]
kind = macvtap
lower = v0
allow = uid:64321
mac = derived 52:54:00:*
`

func TestOrderOfArguments(t *testing.T) {
	bridge(t, "br0")
	acl(t, "allow br0\n")
	for _, args := range []string{
		"--use-vnet --fd=%FD --br=br0", // QEMU
		"--use-vnet --br=br0 --fd=%FD", // libvirt, virtio
		"--br=br0 --fd=%FD",            // libvirt, other models
		"--br=br0 --use-vnet --fd=%FD", // QEMU, with --br= among the user's words
		"--br=x --fd=99 --br=br0 --fd=%FD",
	} {
		a := call{uid: alice, args: strings.Fields(args)}.do(t)
		f := requireGranted(t, a)
		require.Len(t, a.files, 1)
		flags := tunFlags(t, f)
		require.Equal(t, strings.Contains(args, "--use-vnet"), flags&unix.IFF_VNET_HDR != 0, args)
		require.NotZero(t, flags&unix.IFF_TAP)
		d, err := client.Inspect(f)
		require.NoError(t, err)
		require.Equal(t, byte(0xfe), d.MAC[0])
		show := run(t, "ip", "-d", "link", "show", d.Name)
		require.Contains(t, show, "master br0")
		require.Contains(t, show, "mtu 1450")
		require.Contains(t, show, ",UP")
		off, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + d.Name + "/disable_ipv6")
		require.NoError(t, err)
		require.Equal(t, "1\n", string(off))
		a.close()
		requireNothingLeft(t)
	}
}

func tunFlags(t testing.TB, f *os.File) uint16 {
	ifr, err := unix.NewIfreq("x")
	require.NoError(t, err)
	raw, err := f.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) { err = unix.IoctlIfreq(int(fd), unix.TUNGETIFF, ifr) }))
	require.NoError(t, err)
	return ifr.Uint16()
}

func TestShellForm(t *testing.T) {
	bridge(t, "br0")
	acl(t, "allow br0\n")
	a := call{uid: alice, wrap: []string{"/bin/sh", "-c", `exec "$0" "$@"`}, args: strings.Fields("--br=br0 --use-vnet --fd=%FD")}.do(t)
	requireGranted(t, a)
}

func TestUnknownWords(t *testing.T) {
	for _, args := range []string{"", "--help", "--br=br0", "--fd=%FD", "--br=br0 --fd=%FD --mac=1", "--br= --fd=%FD", "--br=br0 --fd=%FD x"} {
		a := call{uid: alice, args: strings.Fields(args)}.do(t)
		requireRefused(t, a, "usage: ")
	}
	for _, fd := range []string{"-1", "+3", "3x", "0x3", ""} {
		a := call{uid: alice, args: []string{"--br=br0", "--fd=" + fd}}.do(t)
		requireRefused(t, a, "--fd= takes the number of a socket, in decimal digits")
	}
}

func TestMacvtapLivesAsLongAsItsDescriptor(t *testing.T) {
	wire(t, "v0", "v1")
	profiles(t, lanProfile)
	a := ask(t, "lan/52:54:00:aa:bb:cc")
	f := requireGranted(t, a)
	d, err := client.Inspect(f)
	require.NoError(t, err)
	require.Equal(t, "52:54:00:aa:bb:cc", d.MAC.String())
	require.NotContains(t, run(t, "ip", "link"), d.Name, "an anonymous namespace is not the host's")
	require.NotEmpty(t, leftovers(t))

	dup, err := unix.Dup(int(f.Fd()))
	require.NoError(t, err)
	a.close()
	require.NotEmpty(t, leftovers(t), "a copy of the descriptor still holds the device")
	unix.Close(dup)
	requireNothingLeft(t)
}

func TestMultiqueue(t *testing.T) {
	wire(t, "v0", "v1")
	bridge(t, "br0")
	acl(t, "allow br0\n")
	profiles(t, lanProfile)
	for _, name := range []string{"lan", "br0"} {
		a := ask(t, name, "--queues=4")
		requireGranted(t, a)
		require.Len(t, a.files, 4)
		first, err := client.Inspect(a.files[0])
		require.NoError(t, err)
		for _, f := range a.files {
			require.NotZero(t, tunFlags(t, f)&unix.IFF_MULTI_QUEUE)
			d, err := client.Inspect(f)
			require.NoError(t, err)
			require.Equal(t, first, d)
		}
		for _, f := range a.files[:3] {
			f.Close()
		}
		require.NotEmpty(t, leftovers(t))
		a.close()
		requireNothingLeft(t)
	}
	requireRefused(t, ask(t, "lan", "--queues=9"), "access denied by acl file")
	requireRefused(t, ask(t, "lan", "--queues=0"), "--queues=")
}

func TestModes(t *testing.T) {
	for _, mode := range []string{"bridge", "vepa", "private"} {
		wire(t, "v0", "v1")
		profiles(t, lanProfile+"mode = "+mode+"\n")
		requireGranted(t, ask(t, "lan")).Close()
		requireNothingLeft(t)
		run(t, "ip", "link", "del", "v0")
	}
}

func TestVisibleDevicesAreSwept(t *testing.T) {
	wire(t, "v0", "v1")
	profiles(t, strings.Replace(lanProfile, "[lan]", "[lan]\nvisible = yes\nmode = vepa\nmax-per-user = 2", 1))
	a, b := ask(t, "lan"), ask(t, "lan")
	da, err := client.Inspect(requireGranted(t, a))
	require.NoError(t, err)
	db, err := client.Inspect(requireGranted(t, b))
	require.NoError(t, err)
	require.Contains(t, run(t, "ip", "-d", "link", "show", da.Name), "macvtap mode vepa")
	requireRefused(t, ask(t, "lan"), "access denied by acl file")
	a.close()
	run(t, "ip", "link", "show", da.Name) // the kernel does not remove it
	c := ask(t, "lan")
	requireGranted(t, c)
	links := run(t, "ip", "link")
	require.NotContains(t, links, da.Name)
	require.Contains(t, links, db.Name, "still held")
	b.close()
	c.close()
	for _, l := range leftovers(t) {
		if !strings.ContainsAny(l, "/ ") {
			run(t, "ip", "link", "del", l)
		}
	}
	requireNothingLeft(t)
}

func TestPassthrough(t *testing.T) {
	wire(t, "v0", "v1")
	wire(t, "v2", "v3")
	const section = "[vf]\nkind = macvtap\nmode = passthrough\nlower = v0 v2\nallow = everyone\n"
	profiles(t, section)
	requireRefused(t, ask(t, "vf"), "access denied by acl file")
	profiles(t, "passthrough = v0\n"+section)
	requireRefused(t, ask(t, "vf"), "v2 is not in the file's passthrough line")

	profiles(t, "passthrough = v0 v2\n"+section)
	a, b := ask(t, "vf"), askAs(t, bob, "vf")
	for _, got := range []struct {
		answer
		lower string
	}{{a, "v0"}, {b, "v2"}} {
		d, err := client.Inspect(requireGranted(t, got.answer))
		require.NoError(t, err)
		require.Contains(t, run(t, "ip", "link", "show", got.lower), d.MAC.String(), "the lower device's own address")
	}
	c := ask(t, "vf")
	require.Equal(t, 1, c.code)
	require.Empty(t, c.files)
	a.close()
	b.close()
	requireNothingLeft(t)
}

func TestProfileOnBridge(t *testing.T) {
	bridge(t, "br0")
	profiles(t, "[lan]\nkind = bridge\nbridge = br0\nisolated = yes\nlearning = no\nallow = gid:777\n")
	requireRefused(t, ask(t, "lan"), "access denied by acl file")
	a := call{uid: alice, groups: []uint32{777}, args: []string{"--br=lan", "--fd=%FD"}}.do(t)
	d, err := client.Inspect(requireGranted(t, a))
	require.NoError(t, err)
	show := run(t, "ip", "-d", "link", "show", d.Name)
	require.Contains(t, show, "isolated on")
	require.Contains(t, show, "learning off")
	require.Contains(t, show, "master br0")
}

func TestDerivedAddressesAreListedAndGiven(t *testing.T) {
	wire(t, "v0", "v1")
	profiles(t, lanProfile+"[hidden]\nkind = macvtap\nlower = v0\nallow = uid:1\n")
	out, err := exec.Command("setpriv", "--reuid", "64321", "--regid", "64321", "--clear-groups", helper, "--list").Output()
	require.NoError(t, err)
	require.Equal(t, 1, bytes.Count(out, []byte("\n")), "%s", out)
	f := strings.Fields(string(out))
	require.Equal(t, []string{"lan", "macvtap", "4"}, f[:3])
	require.Len(t, f, 7)
	for _, want := range f[3:] {
		d, err := client.Inspect(requireGranted(t, ask(t, "lan")))
		require.NoError(t, err)
		require.Equal(t, want, d.MAC.String())
	}
	start := time.Now()
	requireRefused(t, ask(t, "lan"), "access denied by acl file")
	require.Less(t, time.Since(start), 4*time.Second)
}

// Before visible devices were known by a namespace, they were called by their own index. A guest may run on one still.
func TestVisibleDeviceOfAnEarlierHelperStays(t *testing.T) {
	wire(t, "v0", "v1")
	profiles(t, lanProfile+"visible = yes\n")
	const index = 1<<30 | 0xabc
	name := fmt.Sprintf("mvt%x", index)
	run(t, "ip", "link", "add", "link", "v0", "name", name, "index", strconv.Itoa(index), "type", "macvtap", "mode", "bridge")
	t.Cleanup(func() { run(t, "ip", "link", "del", name) })
	a := ask(t, "lan")
	requireGranted(t, a)
	a.close()
	requireGranted(t, ask(t, "lan"))
	run(t, "ip", "link", "show", name)
	for _, l := range leftovers(t) {
		if strings.HasPrefix(l, "mvt") && l != name {
			t.Cleanup(func() { run(t, "ip", "link", "del", l) })
		}
	}
}

// A call that waits for a device makes many attempts, whatever few descriptors its caller leaves it.
func TestPatientCallKeepsNoDescriptors(t *testing.T) {
	wire(t, "v0", "v1")
	profiles(t, "passthrough = v0\n[vf]\nkind = macvtap\nmode = passthrough\nlower = v0\nallow = everyone\n")
	run(t, "ip", "link", "add", "link", "v0", "name", "sys0", "type", "macvtap", "mode", "passthru")
	a := call{uid: alice, wrap: []string{"prlimit", "--nofile=36", "--"}, args: strings.Fields("--br=vf --fd=%FD")}.do(t)
	requireRefused(t, a, "mode passthrough needs the device to itself")
}
