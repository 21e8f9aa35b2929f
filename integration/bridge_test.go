//go:build integration

package integration

import (
	"fmt"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/integration/host"
)

// bridged is an <interface type='bridge'> without network boot.
func bridged(n int, bridge string, more string) string {
	return fmt.Sprintf("<interface type='bridge'><mac address='%s'/><source bridge='%s'/><model type='virtio'/>%s<rom enabled='no'/></interface>", mac(n), bridge, more)
}

// Two guests on isolated ports of a bridge reach its uplink, and not each other; until
// the flags are taken away, and again when libvirtd comes back.
func TestIsolatedBridgePorts(t *testing.T) {
	ctx := deadline(t, 3*time.Minute)
	s := newSite(ctx, t, "a", "[profile.tenant]\nisolated = true\nlearning = false\nbpduguard = true\n")
	l := newLAN(ctx, t, plug{s, "nica"})
	require.NoError(t, s.Bridge(ctx, "br0", host.Port{Name: "nica"}))
	s.up()
	before := s.snapshot()
	a := newLinux(t, "a", 1, bridged(1, "br0", ""), "profile='tenant'", addr(2))
	// The second one by a network of libvirt's that names the bridge.
	s.network("lan", "<network><name>lan</name><forward mode='bridge'/><bridge name='br0'/></network>")
	b := newLinux(t, "b", 2, networked(2, "lan"), "profile='tenant'")
	s.define(a.Domain)
	s.define(b.Domain)

	_, err := s.Virsh(ctx, "start", "a")
	require.ErrorContains(t, err, `domain "a", NIC `+mac(1)+": the bridge is not set up for it: br0 runs no spanning tree, so that a guard on its ports sees no BPDU; run: ip link set br0 type bridge stp_state 1, or leave bpduguard out")
	s.unchanged(before)
	s.run("", "ip", "link", "set", "br0", "type", "bridge", "stp_state", "1", "forward_delay", "200")
	// Its own BPDUs must not come back, or it blocks its uplink.
	_, err = l.Run(ctx, "ip", "link", "set", "p0", "type", "bridge_slave", "hairpin", "off")
	require.NoError(t, err)

	s.start("a")
	s.start("b")
	taps := []string{s.tap("a"), s.tap("b")}
	flags := func(tap string) string {
		at := "/sys/class/net/" + tap + "/brport/"
		return s.run("", "cat", at+"isolated", at+"learning", at+"bpdu_guard", at+"hairpin_mode")
	}
	for i, tap := range taps {
		require.Equal(t, "1\n0\n1\n0\n", flags(tap))
		require.Contains(t, s.run("", "bridge", "fdb", "show", "brport", tap), mac(i+1)+" master br0 static")
	}
	a.talks(l)
	b.talks(l)
	a.reports(l, "ping "+addr(2)+" lost")

	for _, tap := range taps {
		s.run("", "sh", "-c", "echo 0 >/sys/class/net/"+tap+"/brport/isolated")
	}
	a.reports(l, "ping "+addr(2)+" ok")
	require.NoError(t, s.KillLibvirtd(ctx, unix.SIGTERM))
	s.up()
	// The hook runs for each guest after libvirtd answers.
	for _, tap := range taps {
		require.Eventually(t, func() bool { return flags(tap) == "1\n0\n1\n0\n" }, time.Minute, 50*time.Millisecond)
	}
	a.reports(l, "ping "+addr(2)+" lost")
	a.talks(l)
	s.stop("a")
	s.stop("b")
	s.unchanged(before)
}

// A guest in a bridge moves to a host that calls its bridge otherwise: the uplink's name
// finds it there, and its port is as the words want it.
func TestBridgedGuestMigrates(t *testing.T) {
	a, b, l := twoHosts(t, 2*time.Minute)
	// A bridge that got its guests' frames back would look for them out there.
	for _, port := range []string{"p0", "p1"} {
		_, err := l.Run(l.ctx, "ip", "link", "set", port, "type", "bridge_slave", "hairpin", "off")
		require.NoError(t, err)
	}
	for s, bridge := range map[*site]string{a: "br0", b: "lanbr"} {
		nic := map[*site]string{a: "nica", b: "enpb"}[s]
		require.NoError(t, s.Bridge(s.ctx, bridge, host.Port{Name: nic}))
		s.configure("[uplink.office]\ndevice = \"" + bridge + "\"\n")
	}
	beforeB := b.snapshot()
	g := newLinux(t, "g", 1, bridged(1, "br0", ""), "uplink='office' isolated='yes' hairpin='yes'")
	a.define(g.Domain)
	a.start("g")
	g.talks(l)
	require.NoError(t, a.Migrate(a.ctx, "g", "10.99.0.2"))
	require.NoError(t, b.WaitState(b.ctx, "g", libvirt.DomainRunning))
	g.talks(l)
	at := "/sys/class/net/" + b.tap("g") + "/brport/"
	require.Equal(t, "1\n1\n", b.run("", "cat", at+"isolated", at+"hairpin_mode"))
	require.Contains(t, b.run("", "ls", "/sys/class/net/lanbr/brif"), b.tap("g"))
	b.stop("g")
	b.unchanged(beforeB)
}

// libvirt runs no hook for a NIC that is plugged in; the hook, run as when libvirtd is
// restarted, sets what the live metadata says.
func TestHotPluggedBridgePort(t *testing.T) {
	ctx := deadline(t, time.Minute)
	s := newSite(ctx, t, "a", "")
	require.NoError(t, s.Bridge(ctx, "br0"))
	s.up()
	// With a slot for one NIC more, which the metadata knows already.
	d := tiny("g", "<controller type='pci' index='0' model='pcie-root'/><controller type='pci' model='pcie-root-port'/>")
	d.Metadata = metadata(1, "isolated='yes'")
	s.define(d)
	s.start("g")
	require.NoError(t, s.WriteFile(ctx, "/run/nic.xml", 0o600, []byte(bridged(1, "br0", ""))))
	s.virsh("attach-device", "--live", "g", "/run/nic.xml")
	isolated := func() string { return s.run("", "cat", "/sys/class/net/"+s.tap("g")+"/brport/isolated") }
	require.Equal(t, "0\n", isolated())
	s.run("", "sh", "-c", "virsh dumpxml g | "+hookPath+" g reconnect begin -")
	require.Equal(t, "1\n", isolated())
}
