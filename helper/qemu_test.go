//go:build integration

package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/helper/client"
)

const guestMAC = "52:54:00:77:77:01"

// noProxyDHCP tells iPXE, the firmware, that there is no ProxyDHCP server, for which it would wait three seconds after the
// offer: its option no-pxedhcp.
const noProxyDHCP = "dhcp-option=encap:175,176,1b"

// lease runs dnsmasq on a device and returns a function that waits until it has acknowledged a lease for mac.
func lease(t testing.TB, dev, cidr, from, to string) func(mac string) {
	t.Helper()
	run(t, "ip", "addr", "add", cidr, "dev", dev)
	cmd := exec.Command("dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--interface="+dev, "--bind-interfaces",
		"--dhcp-range="+from+","+to, "--dhcp-leasefile="+filepath.Join(t.TempDir(), "leases"), "--pid-file=", "--user=root", "--no-ping",
		"--"+noProxyDHCP)
	out, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	lines := make(chan string, 1000)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	return func(mac string) {
		t.Helper()
		var log []string
		deadline := time.After(60 * time.Second)
		for {
			select {
			case l, ok := <-lines:
				require.True(t, ok, "dnsmasq ended: %v", log)
				log = append(log, l)
				if strings.Contains(l, "DHCPACK") && strings.Contains(l, mac) {
					return
				}
			case <-deadline:
				require.Fail(t, "no lease", "%v", log)
			}
		}
	}
}

// qemuArgs is the command of a guest without disk.
func qemuArgs(args ...string) []string {
	return append([]string{"qemu-system-x86_64", "-accel", "tcg", "-machine", "q35", "-m", "128", "-display", "none",
		"-serial", "none", "-nodefaults"}, args...)
}

// qemu starts a guest as alice whose firmware asks for a DHCP lease.
func qemu(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	return asAlice(t, qemuArgs(args...)...)
}

// asAlice starts a program that ends with the test.
func asAlice(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: alice, Gid: alice}, Pdeathsig: syscall.SIGKILL}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s: %s", args[0], stderr.String())
		}
	})
	return cmd
}

func kill9(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	require.NoError(t, cmd.Process.Kill())
	cmd.Wait()
	requireNothingLeft(t)
}

func TestQEMU(t *testing.T) {
	wire(t, "v0", "v1")
	bridge(t, "br0")
	acl(t, "allow br0\n")
	profiles(t, lanProfile+"[guests]\nkind = bridge\nbridge = br0\nanti-spoof = yes\nmac = 52:54:00:*\nallow = uid:64321\n")
	macvtapLease := lease(t, "v1", "10.55.0.1/24", "10.55.0.10", "10.55.0.200")
	bridgeLease := lease(t, "br0", "10.56.0.1/24", "10.56.0.10", "10.56.0.200")
	device := "virtio-net-pci,netdev=n0,bootindex=1,mac=" + guestMAC
	for _, test := range []struct {
		name, netdev string
		wait         func(string)
	}{
		{"bridge", "bridge,id=n0,br=br0,helper=" + helper, bridgeLease},
		{"tap form A", "tap,id=n0,br=br0,helper=" + helper, bridgeLease},
		{"tap form B", "tap,id=n0,helper=" + helper + " --br=br0", bridgeLease},
		{"bridge profile", "bridge,id=n0,br=guests/" + guestMAC + ",helper=" + helper, bridgeLease},
		{"macvtap by bridge", "bridge,id=n0,br=lan/" + guestMAC + ",helper=" + helper, macvtapLease},
		{"macvtap by tap", "tap,id=n0,br=lan/" + guestMAC + ",helper=" + helper, macvtapLease},
		{"macvtap form B", "tap,id=n0,helper=" + helper + " --br=lan/" + guestMAC, macvtapLease},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd := qemu(t, "-netdev", test.netdev, "-device", device)
			test.wait(guestMAC)
			kill9(t, cmd)
		})
	}
	t.Run("hot plug", func(t *testing.T) {
		for _, kind := range []string{"tap", "bridge"} {
			for _, name := range []string{"lan/" + guestMAC, "br0"} {
				dir, err := os.MkdirTemp("", "qmp")
				require.NoError(t, err)
				t.Cleanup(func() { os.RemoveAll(dir) })
				require.NoError(t, os.Chown(dir, alice, alice))
				monitor := filepath.Join(dir, "qmp")
				cmd := qemu(t, "-S", "-qmp", "unix:"+monitor+",server=on,wait=off")
				q := dialQMP(t, monitor)
				q.do(`{"execute":"qmp_capabilities"}`)
				q.do(fmt.Sprintf(`{"execute":"netdev_add","arguments":{"type":%q,"id":"n0","br":%q,"helper":%q}}`, kind, name, helper))
				require.NotEmpty(t, leftovers(t))
				q.do(`{"execute":"netdev_del","arguments":{"id":"n0"}}`)
				requireNothingLeft(t)
				kill9(t, cmd)
			}
		}
	})
	t.Run("sandbox", func(t *testing.T) {
		cmd := exec.Command("qemu-system-x86_64", "-sandbox", "on", "-display", "none", "-nodefaults", "-netdev", "bridge,id=n0,br=lan,helper="+helper)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: alice, Gid: alice}}
		out, err := cmd.CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), "no_new_privs is set")
	})
}

type qmp struct {
	t testing.TB
	c net.Conn
	r *bufio.Reader
}

func dialQMP(t testing.TB, path string) qmp {
	t.Helper()
	var c net.Conn
	require.Eventually(t, func() (ok bool) { c, _ = net.Dial("unix", path); return c != nil }, 10*time.Second, 5*time.Millisecond)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	q := qmp{t, c, bufio.NewReader(c)}
	_, err := q.r.ReadString('\n') // the greeting
	require.NoError(t, err)
	return q
}

// do returns the answer to a command.
func (q qmp) do(command string) string {
	q.t.Helper()
	_, err := io.WriteString(q.c, command+"\n")
	require.NoError(q.t, err)
	for {
		line, err := q.r.ReadString('\n')
		require.NoError(q.t, err)
		if !strings.Contains(line, `"event"`) {
			require.Contains(q.t, line, `"return"`, "%s", command)
			return line
		}
	}
}

// TestFirstHour runs the commands at the top of the reference.
func TestFirstHour(t *testing.T) {
	doc, err := os.ReadFile("../docs/helper.md")
	require.NoError(t, err)
	_, script, _ := strings.Cut(string(doc), "```sh\n")
	script, _, _ = strings.Cut(script, "```")
	script = strings.NewReplacer("sudo ", "", client.DefaultHelper, helper, "lower = eth0", "lower = v0", "group:kvm", "uid:64321",
		"-accel kvm -m 1024", "-accel tcg -m 64 -display none").Replace(script)
	asRoot, asUser, found := strings.Cut(script, "\n")
	require.True(t, found)
	wire(t, "v0", "v1")
	profiles(t, "")
	wait := lease(t, "v1", "10.60.0.1/24", "10.60.0.10", "10.60.0.200")
	run(t, "/bin/sh", "-ec", asRoot)
	mac := strings.Fields(call{uid: alice, args: []string{"--list"}}.do(t).stdout)[3]
	cmd := asAlice(t, "/bin/sh", "-ec", strings.Replace(asUser, "qemu-system", "exec qemu-system", 1))
	wait(mac)
	kill9(t, cmd)
}
