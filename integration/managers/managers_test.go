//go:build integration

package managers

import (
	"slices"
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
			m.requireAlone(d)
			// Nobody forgets what he has seen.
			m.sh("udevadm trigger --action=change --subsystem-match=net; udevadm settle")
			m.sh("udevadm trigger --action=add --subsystem-match=net; udevadm settle")
			m.requireAlone(d)
			m.hook("stopped")
			m.hook("release")
		})
	}
}

// waitAddress waits until the host has its address on a device.
func (m *machine) waitAddress(name string) {
	m.t.Helper()
	hosttest.Eventually(m.t, time.Minute, "address of "+name, func() bool {
		return slices.ContainsFunc(m.device(name).Has, func(a address) bool { return a.Local == hostIP })
	})
}
