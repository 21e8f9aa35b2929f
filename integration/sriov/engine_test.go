//go:build integration

package sriov

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/internal/link"
)

func ptr[T any](v T) *T { return &v }

// soft is testnic's PF without hardware, up, and a connection to the kernel.
func soft(t *testing.T, parameters string) (context.Context, *link.Conn, link.Link) {
	t.Helper()
	loadTestnic(t, parameters)
	sh(t, "ip link set testnic0 up")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	c, err := link.Open()
	require.NoError(t, err)
	t.Cleanup(c.Close)
	pf, err := c.ByName(ctx, "testnic0")
	require.NoError(t, err)
	return ctx, c, pf
}

// shown is what iproute2 shows of a VF: a second opinion.
func shown(t testing.TB, pf string, vf int) map[string]any {
	t.Helper()
	var links []struct {
		VFs []map[string]any `json:"vfinfo_list"`
	}
	require.NoError(t, json.Unmarshal([]byte(sh(t, "ip -d -j link show %s", pf)), &links))
	for _, v := range links[0].VFs {
		if int(v["vf"].(float64)) == vf {
			return v
		}
	}
	return nil
}

var all = link.VFSettings{
	MAC: ptr("52:54:00:11:22:33"), VLAN: &link.VFVLAN{ID: 42, QoS: 3, Proto: link.Dot1AD}, Trust: ptr(true), SpoofChk: ptr(false),
	MinRate: ptr(10), MaxRate: ptr(100), LinkState: ptr(link.LinkEnable), QueryRSS: ptr(true),
}

// 128 VFs: the reply of the kernel is larger than the 32 KiB that netlink programs
// usually read, and every attribute of a VF far down in it is set, read and restored.
func TestEveryAttributeOf128VFs(t *testing.T) {
	ctx, c, pf := soft(t, "soft_vfs=128")
	before := sh(t, "ip -d -j link show testnic0")
	count, vfs, err := c.VFs(ctx, pf)
	require.NoError(t, err)
	require.Equal(t, 128, count)
	require.Len(t, vfs, 128)
	old := vfs[127].VFSettings

	start := time.Now()
	warnings, err := c.SetVF(ctx, pf, 127, all)
	took := time.Since(start)
	require.NoError(t, err)
	require.Empty(t, warnings)
	vf, err := c.VF(ctx, pf, 127)
	require.NoError(t, err)
	require.Empty(t, vf.Differ(all))
	require.Equal(t, "7", counted(t, "writes"), "both rates are one write")
	iproute := shown(t, "testnic0", 127)
	t.Logf("iproute2 shows %v", iproute)
	require.Equal(t, "52:54:00:11:22:33", iproute["address"])
	require.Equal(t, "enable", iproute["link_state"])
	require.Equal(t, true, iproute["trust"])

	_, err = c.SetVF(ctx, pf, 127, all)
	require.NoError(t, err)
	require.Equal(t, "7", counted(t, "writes"), "what is there already is not written")

	start = time.Now()
	const reads = 50
	for range reads {
		_, err := c.VF(ctx, pf, 127)
		require.NoError(t, err)
	}
	read := time.Since(start) / reads
	start = time.Now()
	for range reads {
		_, err := c.ByName(ctx, "testnic0")
		require.NoError(t, err)
	}
	t.Logf("128 VFs: 7 writes with reading back %v, one read %v, a look-up without VFs %v", took, read, time.Since(start)/reads)

	_, err = c.SetVF(ctx, pf, 127, old)
	require.NoError(t, err)
	require.JSONEq(t, before, sh(t, "ip -d -j link show testnic0"))
}

func TestRepliesOf256VFs(t *testing.T) {
	ctx, c, pf := soft(t, "soft_vfs=256")
	count, vfs, err := c.VFs(ctx, pf)
	if err != nil { // the kernel cannot put them into one attribute of 64 KiB
		require.ErrorIs(t, err, unix.EMSGSIZE)
		t.Log(err)
		return
	}
	require.Equal(t, 256, count)
	require.Len(t, vfs, 256)
	_, err = c.SetVF(ctx, pf, 255, link.VFSettings{Trust: ptr(true)})
	require.NoError(t, err)
}

func TestRefusalNamesDriverAndAttributeAndIsRolledBack(t *testing.T) {
	ctx, c, pf := soft(t, "soft_vfs=4 refuse=state")
	before := sh(t, "ip -d -j link show testnic0")
	_, err := c.SetVF(ctx, pf, 2, all)
	require.ErrorIs(t, err, link.ErrVFRefused)
	require.ErrorIs(t, err, unix.EOPNOTSUPP)
	require.Contains(t, err.Error(), "VF 2 of testnic0 (driver testnic): set linkstate to enable: refused by the driver")
	require.JSONEq(t, before, sh(t, "ip -d -j link show testnic0"), "nothing of it stays")

	warnings, err := c.SetVF(ctx, pf, 2, all, link.AttrLinkState)
	require.NoError(t, err)
	require.Len(t, warnings, 1)
	require.ErrorIs(t, warnings[0], link.ErrVFRefused)
	vf, err := c.VF(ctx, pf, 2)
	require.NoError(t, err)
	require.Equal(t, []string{link.AttrLinkState}, vf.Differ(all))
}

func TestBusyDriverIsAskedAgain(t *testing.T) {
	ctx, c, pf := soft(t, "soft_vfs=4 busy=5")
	_, err := c.SetVF(ctx, pf, 0, all)
	require.NoError(t, err)
	answer(t, "busy", 1<<30)
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err = c.SetVF(short, pf, 0, link.VFSettings{Trust: ptr(false)})
	require.ErrorIs(t, err, unix.EBUSY)
	require.ErrorIs(t, err, link.ErrBusy)
	require.Less(t, time.Since(start), time.Second)
}

func TestAsynchronousDriverIsWaitedFor(t *testing.T) {
	ctx, c, pf := soft(t, "soft_vfs=4 lag_ms=150")
	_, err := c.SetVF(ctx, pf, 1, link.VFSettings{MAC: all.MAC, Trust: all.Trust})
	require.NoError(t, err)
	vf, err := c.VF(ctx, pf, 1)
	require.NoError(t, err)
	require.Equal(t, *all.MAC, *vf.MAC)
	answer(t, "lag_ms", 0)
	answer(t, "ignore", "vlan")
	_, err = c.SetVF(ctx, pf, 1, link.VFSettings{SpoofChk: ptr(false), VLAN: all.VLAN})
	require.ErrorIs(t, err, link.ErrVFIgnored)
	vf, err = c.VF(ctx, pf, 1)
	require.NoError(t, err)
	require.True(t, *vf.SpoofChk, "put back")
}

// The driver says nothing of VF 1: the others keep their numbers, and it can be set.
func TestHoleInTheList(t *testing.T) {
	ctx, c, pf := soft(t, "soft_vfs=4 hole=1")
	count, vfs, err := c.VFs(ctx, pf)
	require.NoError(t, err)
	require.Equal(t, 4, count)
	require.Equal(t, []int{0, 2, 3}, []int{vfs[0].Number, vfs[1].Number, vfs[2].Number})
	_, err = c.SetVF(ctx, pf, 1, link.VFSettings{Trust: ptr(true)})
	require.NoError(t, err)
	answer(t, "hole", -1)
	vf, err := c.VF(ctx, pf, 1)
	require.NoError(t, err)
	require.True(t, *vf.Trust)
	_, err = c.SetVF(ctx, pf, 4, link.VFSettings{Trust: ptr(true)})
	require.ErrorIs(t, err, link.ErrNoVF)
}

func TestUnreportedIsNotOff(t *testing.T) {
	ctx, c, pf := soft(t, "soft_vfs=1 refuse=trust,spoofchk,rss")
	vf, err := c.VF(ctx, pf, 0)
	require.NoError(t, err)
	require.Nil(t, vf.Trust)
	require.Nil(t, vf.SpoofChk)
	require.Nil(t, vf.QueryRSS)
	require.NotNil(t, vf.MAC)
}

func TestRatesNeedThePFUp(t *testing.T) {
	ctx, c, pf := soft(t, "soft_vfs=1")
	sh(t, "ip link set testnic0 down")
	_, err := c.SetVF(ctx, pf, 0, link.VFSettings{MaxRate: ptr(100)})
	require.ErrorIs(t, err, link.ErrVFRefused)
	require.NoError(t, c.SetUp(ctx, pf.Index, true))
	_, err = c.SetVF(ctx, pf, 0, link.VFSettings{MaxRate: ptr(100)})
	require.NoError(t, err)
	_, err = c.SetVF(ctx, pf, 0, link.VFSettings{MinRate: ptr(10)})
	require.NoError(t, err)
	vf, err := c.VF(ctx, pf, 0)
	require.NoError(t, err)
	require.Equal(t, 100, *vf.MaxRate, "the other rate stays")
}

// igb is what most people have; what it refuses is known.
func TestIGB(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := link.Open()
	require.NoError(t, err)
	defer c.Close()
	vfs(t, "eth0", 2)
	pf, err := c.ByName(ctx, "eth0")
	require.NoError(t, err)
	before := sh(t, "ip -d -j link show eth0")
	old, err := c.VF(ctx, pf, 1)
	require.NoError(t, err)

	can := link.VFSettings{
		MAC: ptr("52:54:00:11:22:33"), VLAN: &link.VFVLAN{ID: 42, QoS: 3, Proto: link.Dot1Q},
		Trust: ptr(true), SpoofChk: ptr(false), MaxRate: ptr(100),
	}
	_, err = c.SetVF(ctx, pf, 1, can)
	require.NoError(t, err)
	vf, err := c.VF(ctx, pf, 1)
	require.NoError(t, err)
	require.Empty(t, vf.Differ(can))

	for _, cannot := range []link.VFSettings{
		{VLAN: &link.VFVLAN{ID: 42, Proto: link.Dot1AD}}, {LinkState: ptr(link.LinkEnable)}, {QueryRSS: ptr(true)}, {MinRate: ptr(10)},
	} {
		_, err := c.SetVF(ctx, pf, 1, cannot)
		require.ErrorIs(t, err, link.ErrVFRefused)
		require.Contains(t, err.Error(), "(driver igb)")
		t.Log(err)
	}
	_, err = c.SetVF(ctx, pf, 1, old.VFSettings)
	require.NoError(t, err)
	require.JSONEq(t, before, sh(t, "ip -d -j link show eth0"))

	uses, err := c.VFUses(ctx, "eth0")
	require.NoError(t, err)
	require.Len(t, uses, 2)
	require.Equal(t, "igbvf", uses[1].Driver)
	place, err := c.VFOf(ctx, uses[1].Netdev)
	require.NoError(t, err)
	require.Equal(t, uses[1].VFPlace, place)
	place, err = c.VFAt(ctx, place.Device)
	require.NoError(t, err)
	found, err := c.PF(ctx, place)
	require.NoError(t, err)
	require.Equal(t, "eth0", found.Name)
}

// vfs gives a PF so many VFs with their drivers bound, and takes them away with the
// test.
func vfs(t *testing.T, pf string, n int) {
	t.Helper()
	sh(t, "modprobe igbvf && ip link set %s up && echo %d >/sys/class/net/%s/device/sriov_numvfs", pf, n, pf)
	t.Cleanup(func() { sh(t, "echo 0 >/sys/class/net/%s/device/sriov_numvfs", pf) })
	require.Eventually(t, func() bool {
		out, _ := tryShell("ls -d /sys/class/net/%s/device/virtfn*/net/* | wc -l", pf)
		return out == string(rune('0'+n))
	}, 10*time.Second, 20*time.Millisecond, "the VFs' driver has made their network devices")
	// Or the PF would not look at the end as it did in the beginning.
	require.Eventually(t, func() bool {
		out, _ := tryShell("cat /sys/class/net/%s/carrier", pf)
		return out == "1"
	}, 10*time.Second, 20*time.Millisecond, "the PF has a link")
}
