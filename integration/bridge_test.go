//go:build integration

package integration

import (
	"fmt"
	"testing"
	"time"

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
