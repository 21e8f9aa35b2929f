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
	"libvirt-direct/integration/host/hosttest"
)

// bridged is an <interface type='bridge'> without network boot.
func bridged(n int, bridge string, more string) string {
	return fmt.Sprintf("<interface type='bridge'><mac address='%s'/><source bridge='%s'/><model type='virtio'/>%s<rom enabled='no'/></interface>", mac(n), bridge, more)
}

// Two guests on isolated ports of a bridge reach its uplink, and not each other; until
// the flags are taken away, and again when libvirtd comes back.
func TestIsolatedBridgePorts(t *testing.T) {
	ctx := hosttest.Deadline(t, 3*time.Minute)
	h := newFixture(ctx, t, "a", "[profile.tenant]\nisolated = true\nlocked = true\nflood = false\nbpduguard = true\n")
	l := newLAN(ctx, t, plug{h, "nica"})
	require.NoError(t, h.Bridge(ctx, "br0", host.Port{Name: "nica"}))
	h.MustStartLibvirtd()
	before := h.MustSnapshot()
	a := newLinux(t, "a", 1, bridged(1, "br0", ""), "profile='tenant'", addr(2))
	// The second one by a network of libvirt's that names the bridge.
	h.network("lan", "<network><name>lan</name><forward mode='bridge'/><bridge name='br0'/></network>")
	b := newLinux(t, "b", 2, networked(2, "lan"), "profile='tenant'")
	h.MustDefine(a.Domain)
	h.MustDefine(b.Domain)

	_, err := h.Virsh(ctx, "start", "a")
	require.ErrorContains(t, err, `domain "a", NIC `+mac(1)+": the bridge is not set up for it: br0 runs no spanning tree, so that a guard on its ports sees no BPDU; run: ip link set br0 type bridge stp_state 1, or leave bpduguard out")
	h.RequireUnchanged(before)
	h.MustRun("ip", "link", "set", "br0", "type", "bridge", "stp_state", "1", "forward_delay", "200")
	// Its own BPDUs must not come back, or it blocks its uplink.
	_, err = l.Run(ctx, "ip", "link", "set", "p0", "type", "bridge_slave", "hairpin", "off")
	require.NoError(t, err)

	h.start("a")
	h.start("b")
	taps := []string{h.tap("a"), h.tap("b")}
	flags := func(tap string) string {
		at := "/sys/class/net/" + tap + "/brport/"
		return h.MustRun("cat", at+"isolated", at+"learning", at+"bpdu_guard", at+"hairpin_mode", at+"unicast_flood")
	}
	for i, tap := range taps {
		require.Equal(t, "1\n0\n1\n0\n0\n", flags(tap))
		require.Contains(t, h.MustRun("bridge", "fdb", "show", "brport", tap), mac(i+1)+" sticky master br0 static")
		require.Contains(t, h.MustRun("bridge", "-d", "link", "show", "dev", tap), "locked on")
	}
	a.talks(l)
	b.talks(l)
	a.reports(l, "ping "+addr(2)+" lost")

	for _, tap := range taps {
		h.MustRun("sh", "-c", "echo 0 >/sys/class/net/"+tap+"/brport/isolated")
	}
	a.reports(l, "ping "+addr(2)+" ok")
	require.NoError(t, h.KillLibvirtd(ctx, unix.SIGTERM))
	h.MustStartLibvirtd()
	// The hook runs for each guest after libvirtd answers.
	for _, tap := range taps {
		require.Eventually(t, func() bool { return flags(tap) == "1\n0\n1\n0\n0\n" }, time.Minute, 50*time.Millisecond)
	}
	a.reports(l, "ping "+addr(2)+" lost")
	a.talks(l)
	h.stop("a")
	h.stop("b")
	h.RequireUnchanged(before)
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
	for h, bridge := range map[*fixture]string{a: "br0", b: "lanbr"} {
		nic := map[*fixture]string{a: "nica", b: "enpb"}[h]
		require.NoError(t, h.Bridge(h.Ctx, bridge, host.Port{Name: nic}))
		h.Configure("[uplink.office]\ndevice = \"" + bridge + "\"\n")
	}
	beforeB := b.MustSnapshot()
	g := newLinux(t, "g", 1, bridged(1, "br0", ""), "uplink='office' isolated='yes' hairpin='yes'")
	a.MustDefine(g.Domain)
	a.start("g")
	g.talks(l)
	require.NoError(t, a.Migrate(a.Ctx, "g", "10.99.0.2"))
	require.NoError(t, b.WaitState(b.Ctx, "g", libvirt.DomainRunning))
	g.talks(l)
	at := "/sys/class/net/" + b.tap("g") + "/brport/"
	require.Equal(t, "1\n1\n", b.MustRun("cat", at+"isolated", at+"hairpin_mode"))
	require.Contains(t, b.MustRun("ls", "/sys/class/net/lanbr/brif"), b.tap("g"))
	b.stop("g")
	b.RequireUnchanged(beforeB)
}

// libvirt runs no hook for a NIC that is plugged in; the hook, run as when libvirtd is
// restarted, sets what the live metadata says.
func TestHotPluggedBridgePort(t *testing.T) {
	ctx := hosttest.Deadline(t, time.Minute)
	h := newFixture(ctx, t, "a", "")
	require.NoError(t, h.Bridge(ctx, "br0"))
	h.MustStartLibvirtd()
	// With a slot for one NIC more, which the metadata knows already.
	d := tiny("g", "<controller type='pci' index='0' model='pcie-root'/><controller type='pci' model='pcie-root-port'/>")
	d.Metadata = metadata(1, "isolated='yes'")
	h.MustDefine(d)
	h.start("g")
	h.MustWrite("/run/nic.xml", 0o600, bridged(1, "br0", ""))
	h.MustVirsh("attach-device", "--live", "g", "/run/nic.xml")
	isolated := func() string { return h.MustRun("cat", "/sys/class/net/"+h.tap("g")+"/brport/isolated") }
	require.Equal(t, "0\n", isolated())
	h.MustRun("sh", "-c", "virsh dumpxml g | "+hookPath+" g reconnect begin -")
	require.Equal(t, "1\n", isolated())
}
