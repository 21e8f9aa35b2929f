//go:build integration

package managers

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host/hosttest"
)

// What administrators write for a host's own NIC. Each of these is for its VLAN
// sub-interfaces too, which have its MAC, and the last for all there is.
var networkd = map[string]string{
	"/etc/systemd/network/00-a.network":         "[Match]\nMACAddress=" + cardMAC + "\n" + addressed,
	"/etc/systemd/network/20-wired.network":     "[Match]\nName=en* eth* lan* ldt* mvt* tap*\n" + addressed,
	"/etc/systemd/network/10-lan.link":          "[Match]\nMACAddress=" + cardMAC + "\n[Link]\nName=lan0\nMTUBytes=1400\n",
	"/etc/udev/rules.d/70-persistent-net.rules": "SUBSYSTEM==\"net\", ACTION==\"add\", ATTR{address}==\"" + cardMAC + "\", NAME=\"lan0\"\n",
	"/etc/sysctl.d/10-all.conf":                 "net.ipv6.conf.*.disable_ipv6 = 0\nnet.ipv4.conf.*.rp_filter = 2\n",
}

const addressed = "[Network]\nAddress=" + hostIP + "/24\nDHCP=yes\nLinkLocalAddressing=yes\n"

func TestNetworkd(t *testing.T) {
	for _, suite := range []string{"bookworm", "trixie"} {
		t.Run(suite, func(t *testing.T) {
			m := newMachine(t, suite, true, networkd)
			require.Equal(t, "lan0", m.card)
			m.background("/lib/systemd/systemd-networkd")
			m.waitAddress(m.card)
			d := m.make()
			for name, state := range m.judged(d.all()...) {
				require.Equal(t, "unmanaged", state, name)
			}
			// Nobody forgets what he has seen.
			m.sh("udevadm trigger --action=change --subsystem-match=net; udevadm settle")
			m.sh("udevadm trigger --action=add --subsystem-match=net; udevadm settle")
			m.requireAlone(d)
			m.requireChecked(finding{"ok", "this host's network managers leave the devices made for guests alone"})
			m.hook("stopped")
			m.hook("release")
			require.NotContains(t, m.sh("ip -brief link"), d.vlan)
		})
	}
}

// Without the files, and with some that a person has written for all his devices, the host
// gets onto what is made for guests. check says who did it, and status that it is so.
func TestNetworkdWithoutTheFiles(t *testing.T) {
	m := newMachine(t, "bookworm", false, map[string]string{"/etc/systemd/network/20-lan.network": "[Match]\nMACAddress=" + cardMAC + "\n" + addressed})
	m.background("/lib/systemd/systemd-networkd")
	m.waitAddress(m.card)
	m.hook("prepare")
	m.waitAddress("eth0.100")
	m.requireChecked(
		finding{"FAULT", "eth0.100 is for guests, and this host is on it: it has address 198.51.100.7/24, by systemd-networkd (/etc/systemd/network/20-lan.network); keep what did that off it"},
		finding{"note", "/usr/lib/udev/rules.d/0-libvirt-direct.rules is missing"},
		finding{"note", "/usr/lib/systemd/network/0-libvirt-direct.link is missing"},
		finding{"note", "/usr/lib/systemd/network/0-libvirt-direct.network is missing"})
	require.Contains(t, m.sh("libvirt-direct status"), "this host is on it: it has address 198.51.100.7/24")
	// Once somebody has renamed it, the next guest's hook finds it by what it is.
	m.sh("ip link set eth0.100 down; ip link set eth0.100 name lan0; ip link set lan0 up")
	m.hook("release")
	require.NotContains(t, m.sh("ip -brief link"), "lan0")
}

// ifupdown's hotplug is a program that a rule of udev's runs, and lldpd sends on each device
// that it takes for a card.
func TestIfupdownAndLLDPD(t *testing.T) {
	m := newMachine(t, "bookworm", true, map[string]string{"/etc/network/interfaces": `
auto lo
iface lo inet loopback
allow-hotplug eth0
iface eth0 inet static
	address ` + hostIP + `/24
allow-hotplug /eth0.* /ldt* /mvt*
iface eth0.100 inet static
	address 203.0.113.7/24
iface eth0.200 inet static
	address 203.0.113.8/24
iface ldt0123456789 inet static
	address 203.0.113.9/24
`})
	m.waitAddress("eth0")
	d := m.make()
	m.background("/usr/sbin/lldpd", "-d")
	lldp := []byte{0x01, 0x80, 0xc2, 0, 0, 0x0e}
	_, err := m.wire.Wait(m.ctx, func(f []byte) bool { return bytes.HasPrefix(f, lldp) && bytes.Equal(f[12:14], []byte{0x88, 0xcc}) })
	require.NoError(t, err)
	m.sh("udevadm trigger --action=add --subsystem-match=net; udevadm settle")
	m.requireAlone(d)
}

// NetworkManager has a profile for a sub-interface of that name, and one for any card.
func TestNetworkManager(t *testing.T) {
	m := newMachine(t, "bookworm", true, nil)
	for name, text := range map[string]string{
		"vlan": "[connection]\nid=vlan\nuuid=6d6c1f0e-1111-4222-8333-012345678801\ntype=vlan\ninterface-name=eth0.100\nautoconnect=true\n" +
			"[vlan]\nid=100\nparent=eth0\n[ipv4]\nmethod=manual\naddress1=203.0.113.7/24\n[ipv6]\nmethod=link-local\n",
		"card": "[connection]\nid=card\nuuid=6d6c1f0e-1111-4222-8333-012345678802\ntype=ethernet\nautoconnect=true\nmulti-connect=3\n" +
			"[ethernet]\nmac-address=" + cardMAC + "\n[ipv4]\nmethod=manual\naddress1=" + hostIP + "/24\n",
	} {
		require.NoError(t, m.WriteFile(m.ctx, m.root+"/etc/NetworkManager/system-connections/"+name+".nmconnection", 0o600, []byte(text)))
	}
	d := m.make()
	m.background("/usr/bin/dbus-daemon", "--system", "--nofork", "--nopidfile")
	hosttest.Eventually(t, 30*time.Second, "the bus", func() bool {
		_, err := os.Stat(m.Path(m.root + "/run/dbus/system_bus_socket"))
		return err == nil
	})
	m.background("/usr/sbin/NetworkManager", "--no-daemon")
	// Until it has seen all there is, each device is unmanaged.
	hosttest.Eventually(t, time.Minute, "NetworkManager", func() bool {
		said, _ := m.try("nmcli -t -f STARTUP general")
		return said == "started\n"
	})
	said := m.sh("nmcli -t -f DEVICE,STATE device")
	require.Contains(t, said, "eth0:connected\n")
	for _, name := range d.all() {
		require.Contains(t, said, name+":unmanaged\n")
	}
	m.requireAlone(d)
}

// finding is how a line of check begins.
type finding struct{ level, text string }

// requireChecked is for what check has to say of network managers.
func (m *machine) requireChecked(want ...finding) {
	m.t.Helper()
	out, _ := m.inside("libvirt-direct", "check", "--json").Output() // it fails where there are faults
	var found []struct{ Level, About, Text string }
	require.NoError(m.t, json.Unmarshal(out, &found), "%s", out)
	var have []string
	for _, f := range found {
		if f.About == "managers" {
			have = append(have, f.Level+" "+f.Text)
		}
	}
	require.Len(m.t, have, len(want), "%v", have)
	for i, w := range want {
		require.True(m.t, strings.HasPrefix(have[i], w.level+" "+w.text), have[i])
	}
}

// waitAddress waits until the host has its address on a device.
func (m *machine) waitAddress(name string) {
	m.t.Helper()
	hosttest.Eventually(m.t, time.Minute, "address of "+name, func() bool {
		return slices.ContainsFunc(m.device(name).Has, func(a address) bool { return a.Local == hostIP })
	})
}
