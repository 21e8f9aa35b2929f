//go:build integration

package sriov

import (
	"context"
	"net"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
	"libvirt-direct/vdp/vdptest"
)

// A VF's frames to LLDP's group reach the PF within the card. From the VF's own address they
// change nothing. With spoof check off it can be anybody: a switch of its own, and the one that
// is there, whose leave it takes. check and vsi uplinks name such a VF. (This igb is
// QEMU's, which lets any address out with spoof check on, too. Cards do not.)
func TestVFSpeaksAsTheSwitch(t *testing.T) {
	installHook(t, "qemu", configuration)
	vfs(t, "eth0", 2)
	ld := program("libvirt-direct")
	sh(t, "%s vf set eth0 1 spoofchk=off", ld)
	_, netdev := device(t, "eth0", 1)
	sh(t, "ip link set %s up", netdev)
	require.Eventually(t, func() bool { return sh(t, "cat /sys/class/net/%s/carrier", netdev) == "1" }, time.Minute, 20*time.Millisecond)
	ifi, err := net.InterfaceByName(netdev)
	require.NoError(t, err)
	conn, err := packet.Listen(ifi, packet.Raw, unix.ETH_P_LLDP, nil)
	require.NoError(t, err)
	defer conn.Close()
	send := func(frame []byte, source vdp.MAC) {
		t.Helper()
		copy(frame[6:], source[:])
		_, err := conn.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]})
		require.NoError(t, err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	// It knows of no switch from before.
	vdpd := exec.Command(program("vdpd"), "-uplink", "eth0", "-debug", "-state", filepath.Join(t.TempDir(), "state.json"))
	vdpd.Stdout, vdpd.Stderr = t.Output(), t.Output()
	require.NoError(t, vdpd.Start())
	t.Cleanup(func() { vdpd.Process.Signal(unix.SIGTERM); vdpd.Wait() })
	status := func() control.Uplink {
		if all, err := control.NewClient("").Status(ctx); err == nil {
			return all[0]
		}
		return control.Uplink{}
	}
	// neighbor waits until the switch is the one with an address, or there is none.
	neighbor := func(want string) {
		t.Helper()
		require.Eventually(t, func() bool {
			source := ""
			if s := status().Switch; s != nil {
				source = s.Source
			}
			return source == want
		}, time.Minute, 20*time.Millisecond, "the switch is not %q", want)
	}
	require.Eventually(t, func() bool { return status().Link }, time.Minute, 20*time.Millisecond)
	// What was under way when vdpd began does not count for 1 s.
	require.Eventually(t, func() bool { return time.Since(status().LinkSince) > 2*time.Second }, time.Minute, 20*time.Millisecond)

	own, random := vdp.MAC(ifi.HardwareAddr), vdp.MAC{2, 0xee, 5: 1}
	mine := vdptest.NewBridge(vdptest.Config{MAC: own, Edition: vdp.Edition2012})
	forged := vdptest.NewBridge(vdptest.Config{MAC: random, Edition: vdp.Edition2012})
	send(mine.Tick(time.Now())[0], own)
	send(forged.Tick(time.Now())[0], random)
	neighbor(random.String())
	require.Empty(t, status().Others, "what came first was from the VF's own address")
	const line = "VF 1 of eth0 can speak as the switch: spoof check is off"
	require.Contains(t, sh(t, "%s vsi uplinks", ld), "  spoofing   "+line+"\n")
	require.Contains(t, sh(t, "%s check || true", ld), line)
	send(forged.Goodbye(), random)
	neighbor("")

	switchMAC := vdp.MAC{2, 0xbb, 5: 1}
	serveBridge(t, "eth1")
	neighbor(switchMAC.String())
	events, err := control.NewClient("").Subscribe(ctx)
	require.NoError(t, err)
	defer events.Close()
	copied := vdptest.NewBridge(vdptest.Config{MAC: switchMAC, Edition: vdp.Edition2012})
	send(copied.Goodbye(), own)
	send(forged.Tick(time.Now().Add(time.Minute))[0], random)
	e, err := events.Next()
	require.NoError(t, err)
	require.Equal(t, [2]string{"conflict", random.String()}, [2]string{e.Type, e.Source}, "the leave of the switch's, from the VF's own address, is none")
	send(copied.Goodbye(), switchMAC)
	e, err = events.Next()
	require.NoError(t, err)
	require.Equal(t, "neighbor-lost", e.Type)
	neighbor(random.String()) // it waited
}
