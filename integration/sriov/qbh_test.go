//go:build integration

package sriov

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/integration/host"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const qbhConfiguration = `deadline = "30s"
[uplink.ucs]
device = "eth0"
associate = "hook"
`

// libvirt's own 802.1Qbh association is refused by a driver that is as strict as enic,
// and the hook's is accepted. Both messages are kept as they were seen on the kernel's
// netlink monitor.
func TestPortProfileUnderLibvirt(t *testing.T) {
	installHook(t, "qemu", qbhConfiguration)
	lv := libvirtd(t)
	sh(t, "modprobe -r igbvf igb && modprobe nlmon && ip link add nl0 type nlmon && ip link set nl0 up")
	t.Cleanup(func() { sh(t, "ip link del nl0") })
	t.Cleanup(func() { sh(t, "modprobe igb") })
	loadTestnic(t, "")
	sh(t, "ip link set eth0 up && echo 2 >/sys/bus/pci/drivers/testnic/0000:01:00.0/sriov_numvfs")
	t.Cleanup(func() { sh(t, "echo 0 >/sys/bus/pci/drivers/testnic/0000:01:00.0/sriov_numvfs") })
	var netdev string
	require.Eventually(t, func() bool {
		out, err := tryShell("ls /sys/class/net/eth0/device/virtfn1/net")
		netdev = out
		return err == nil
	}, 10*time.Second, 50*time.Millisecond)
	before, own := links(t), sh(t, "cat /sys/class/net/%s/address", netdev)

	d := host.Domain{
		Name: "port", UUID: "12345678-1234-4234-8234-123456789abc", MemoryMiB: 32,
		Interfaces: []string{host.DirectNIC(macP, netdev, "passthrough",
			"<virtualport type='802.1Qbh'><parameters profileid='gold'/></virtualport>")},
	}
	dom := lv.define(t, d)
	messages := record(t, func() {
		err := lv.DomainCreate(dom)
		require.ErrorContains(t, err, "PortProfileRequest")
		t.Logf("libvirt's own, strict driver: %v", err)
	})
	require.NotEmpty(t, messages)
	goldenMessage(t, "libvirt.golden", messages[0])

	answer(t, "strict", 0)
	lv.start(t, dom)
	t.Log("libvirt's own, driver before 2024: accepted")
	lv.destroy(t, dom)
	answer(t, "strict", 1)
	if links(t) != before {
		t.Log("libvirt has left the guest's MAC on the VF")
		sh(t, "ip link set %s down && ip link set eth0 vf 1 mac 00:00:00:00:00:00 && ip link set %s address %s", netdev, netdev, own)
	}
	require.Equal(t, before, links(t))

	lv.rewrite(t, dom)
	messages = record(t, func() { lv.start(t, dom) })
	require.NotEmpty(t, messages)
	goldenMessage(t, "hook.golden", messages[0])
	status := sh(t, "%s status", program("libvirt-direct"))
	t.Logf("ours, strict driver: accepted\n%s", status)
	require.Contains(t, status, `port profile "gold" on VF 1 of eth0`)
	answer(t, "disassociations", 0)
	lv.destroy(t, dom)
	require.Equal(t, "1", counted(t, "disassociations"))
	require.Equal(t, before, links(t))

	// The switch refuses: the start fails in words, and nothing is left.
	answer(t, "response", 0x104)
	require.ErrorContains(t, lv.DomainCreate(dom), `associate with port profile "gold": port profile refused: the switch lacks resources for the profile (0x104)`)
	require.Equal(t, before, links(t))
	require.Empty(t, sh(t, "ls /run/libvirt-direct/domains"))
}

// record returns port-profile requests that were sent to the kernel meanwhile, at least the
// first.
func record(t *testing.T, do func()) [][]byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "netlink.pcap")
	capture := exec.Command("tcpdump", "-Z", "root", "-U", "--immediate-mode", "-i", "nl0", "-w", file)
	require.NoError(t, capture.Start())
	require.Eventually(t, func() bool { fi, err := os.Stat(file); return err == nil && fi.Size() >= 24 }, 10*time.Second, 20*time.Millisecond)
	do()
	var messages [][]byte
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(file)
		if err == nil {
			messages = portMessages(b[24:])
		}
		return len(messages) > 0
	}, 10*time.Second, 20*time.Millisecond, "no request was seen")
	require.NoError(t, capture.Process.Signal(unix.SIGINT))
	require.NoError(t, capture.Wait())
	return messages
}

// portMessages picks the RTM_SETLINK messages with a port profile out of the packets
// of a pcap file: 16 octets of header each, then 16 of the link type NETLINK.
func portMessages(b []byte) [][]byte {
	var found [][]byte
	for len(b) >= 32 {
		size := int(binary.NativeEndian.Uint32(b[8:]))
		if size < 16 || 16+size > len(b) {
			break
		}
		m := b[32 : 16+size]
		b = b[16+size:]
		if len(m) < 32 || binary.NativeEndian.Uint16(m[4:]) != unix.RTM_SETLINK {
			continue
		}
		if ports := []byte{unix.IFLA_VF_PORTS, 0x80}; bytes.Contains(m[32:], ports) {
			found = append(found, m[:min(len(m), int(binary.NativeEndian.Uint32(m)))])
		}
	}
	return found
}

// goldenMessage compares a message but for what is different each time: its number,
// its sender, the interface's index, and the host's UUID.
func goldenMessage(t *testing.T, name string, m []byte) {
	t.Helper()
	m = bytes.Clone(m)
	clear(m[8:16])
	clear(m[20:24])
	if i := bytes.Index(m, []byte{20, 0, unix.IFLA_PORT_HOST_UUID, 0}); i >= 0 {
		clear(m[i+4 : i+20])
	}
	got := hex.Dump(m)
	t.Logf("%s:\n%s", name, got)
	file := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}
