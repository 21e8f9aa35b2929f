//go:build integration

package sriov

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host"
)

const configuration = `deadline = "1m"
[uplink.fast]
device = "eth0"
vlans = ["40-49"]
[profile.gold]
uplink = "fast"
mode = "passthrough"
vlan = 43
qos = 5
trust = true
optional = ["linkstate"]
linkstate = "enable"
`

func program(name string) string { return filepath.Join(os.Getenv(programsVariable), name) }

// installHook makes one of the programs libvirt's hook.
func installHook(t *testing.T, name, config string) {
	t.Helper()
	require.NoError(t, os.MkdirAll("/etc/libvirt/hooks", 0o755))
	require.NoError(t, os.MkdirAll("/etc/libvirt-direct", 0o755))
	require.NoError(t, os.WriteFile("/etc/libvirt-direct/config.toml", []byte(config), 0o644))
	sh(t, "install -m 755 %s /etc/libvirt/hooks/qemu && ln -sf qemu /etc/libvirt/hooks/network", program(name))
	t.Cleanup(func() { sh(t, "rm -f /etc/libvirt/hooks/qemu /etc/libvirt/hooks/network") })
}

var startLibvirtd = sync.OnceValue(func() error {
	conf := "user = \"root\"\ngroup = \"root\"\nsecurity_driver = \"none\"\n"
	if err := os.WriteFile("/etc/libvirt/qemu.conf", []byte(conf), 0o600); err != nil {
		return err
	}
	out, err := tryShell("modprobe -a vfio-pci macvtap && virtlogd -d && libvirtd -d && virsh -q list")
	if err != nil {
		return fmt.Errorf("libvirtd: %w: %s", err, out)
	}
	return nil
})

// libvirtd starts the daemon, once; it looks for its hooks when it starts.
func libvirtd(t *testing.T) {
	t.Helper()
	require.NoError(t, startLibvirtd())
}

func virsh(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command("virsh", append([]string{"-q"}, args...)...).CombinedOutput()
	require.NoError(t, err, "virsh %v: %s", args, out)
	return string(out)
}

// define defines a domain and forgets it with the test.
func define(t *testing.T, d host.Domain) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "domain.xml")
	require.NoError(t, os.WriteFile(file, []byte(d.XML()), 0o600))
	virsh(t, "define", file)
	t.Cleanup(func() {
		tryShell("virsh -q destroy %s", d.Name)
		virsh(t, "undefine", d.Name)
	})
}

func words(nics ...string) string {
	return "<ld:nics xmlns:ld='urn:libvirt-direct:1'>" + strings.Join(nics, "") + "</ld:nics>"
}

func nic(mac, words string) string { return fmt.Sprintf("<ld:nic mac='%s' %s/>", mac, words) }

func hostdev(mac, address string, more string) string {
	a := strings.FieldsFunc(address, func(r rune) bool { return r == ':' || r == '.' })
	return fmt.Sprintf("<interface type='hostdev' managed='yes'><mac address='%s'/><source><address type='pci' domain='0x%s' bus='0x%s' slot='0x%s' function='0x%s'/></source>%s</interface>",
		mac, a[0], a[1], a[2], a[3], more)
}

// links is what iproute2 shows of the PF and the VFs, without what a new network
// device cannot have again.
func links(t testing.TB) string {
	t.Helper()
	var all []map[string]any
	require.NoError(t, json.Unmarshal([]byte(sh(t, "ip -d -j link show")), &all))
	for _, l := range all {
		delete(l, "ifindex")
		delete(l, "operstate") // settles later
		delete(l, "qdisc")     // a device has one from when it is first up
		if flags, ok := l["flags"].([]any); ok {
			kept := []any{}
			for _, f := range flags {
				if f != "LOWER_UP" && f != "NO-CARRIER" {
					kept = append(kept, f)
				}
			}
			l["flags"] = kept
		}
	}
	slices.SortFunc(all, func(a, b map[string]any) int { return strings.Compare(a["ifname"].(string), b["ifname"].(string)) })
	text, err := json.MarshalIndent(all, "", " ")
	require.NoError(t, err)
	return string(text)
}

// device returns the PCI address and the network device of a VF.
func device(t testing.TB, pf string, vf int) (address, netdev string) {
	t.Helper()
	address = sh(t, "basename $(readlink -f /sys/class/net/%s/device/virtfn%d)", pf, vf)
	return address, sh(t, "ls /sys/class/net/%s/device/virtfn%d/net", pf, vf)
}

const (
	macH = "52:54:00:01:02:03"
	macP = "52:54:00:01:02:04"
	macX = "52:54:00:01:02:05"
)

// tiny is a domain that sits in its firmware.
func tiny(name, iface, w string) host.Domain {
	return host.Domain{Name: name, MemoryMiB: 32, Interfaces: []string{iface}, Metadata: w}
}

// The administrator's settings come back, those that libvirt changes included; again
// and again.
func TestSettingsComeBack(t *testing.T) {
	installHook(t, "qemu", configuration)
	libvirtd(t)
	vfs(t, "eth0", 2)
	sh(t, `ip link set eth0 vf 0 mac 02:aa:00:00:00:01 && ip link set eth0 vf 0 vlan 7 qos 5 && ip link set eth0 vf 0 trust on
		ip link set eth0 vf 1 vlan 8 qos 4 && ip link set eth0 vf 1 spoofchk off`)
	address, _ := device(t, "eth0", 0)
	_, netdev := device(t, "eth0", 1)
	before := links(t)
	define(t, tiny("hd", hostdev(macH, address, ""), words(nic(macH, "vlan='42' qos='3' trust='no'"))))
	define(t, tiny("mt", host.DirectNIC(macP, netdev, "passthrough"), words(nic(macP, "vlan='43' spoofchk='yes' maxrate='50'"))))
	for _, name := range []string{"hd", "mt"} {
		start := time.Now()
		for range 2 {
			virsh(t, "start", name)
			require.NotEqual(t, before, links(t))
			virsh(t, "destroy", name)
			require.Equal(t, before, links(t), name)
		}
		t.Logf("%s: a start and a stop take %v", name, (time.Since(start) / 2).Round(10*time.Millisecond))
	}
}

func TestTwoGuestsFightForOneVF(t *testing.T) {
	installHook(t, "qemu", configuration)
	libvirtd(t)
	vfs(t, "eth0", 2)
	address, hostdevNet := device(t, "eth0", 0)
	_, netdev := device(t, "eth0", 1)
	before := links(t)
	define(t, tiny("hd", hostdev(macH, address, ""), words(nic(macH, "vlan='42' trust='yes'"))))
	define(t, tiny("mt", host.DirectNIC(macP, netdev, "passthrough"), words(nic(macP, "vlan='43' trust='yes'"))))
	define(t, tiny("hd2", hostdev(macX, address, ""), words(nic(macX, "vlan='44' trust='no'"))))
	define(t, tiny("mt2", host.DirectNIC(macX, netdev, "passthrough"), words(nic(macX, "vlan='44' trust='no'"))))
	virsh(t, "start", "hd")
	virsh(t, "start", "mt")
	require.Eventually(t, func() bool { return shown(t, "eth0", 1)["address"] == macP }, 10*time.Second, 100*time.Millisecond,
		"igb has the MAC from the VF's driver")
	running := links(t)
	for _, loser := range []string{"hd2", "mt2"} {
		out, err := tryShell("virsh -q start %s", loser)
		require.Error(t, err)
		t.Log(strings.TrimSpace(out))
		require.Equal(t, running, links(t), "the winner keeps its settings")
	}
	virsh(t, "destroy", "hd")
	virsh(t, "destroy", "mt")
	require.Equal(t, before, links(t), "%s", hostdevNet)
}
