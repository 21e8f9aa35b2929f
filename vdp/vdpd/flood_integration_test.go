//go:build integration

package main_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/integration/host/hosttest"
	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
	"libvirt-direct/vdp/vdptest"
)

// floodVariable makes this program one that sends frames of a kind, as fast as
// it can, until it is killed.
const floodVariable = "VDPD_TEST_FLOOD"

// flood sends LLDPDUs with an EVB TLV, each of another switch, or ECPDUs of
// either edition, each with another number.
func flood(kind string) error {
	ifi, err := net.InterfaceByName(bridgeIf)
	if err != nil {
		return err
	}
	conn, err := packet.Listen(ifi, packet.Raw, 0, nil)
	if err != nil {
		return err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	frames := make([][]byte, 1<<16)
	for i := range frames {
		if frames[i], err = floodFrame(kind, uint16(i)); err != nil {
			return err
		}
	}
	to := &unix.SockaddrLinklayer{Ifindex: ifi.Index, Halen: 6}
	return raw.Control(func(fd uintptr) {
		for i := 0; err == nil || err == unix.ENOBUFS; i++ {
			err = unix.Sendto(int(fd), frames[i%len(frames)], 0, to)
		}
		fmt.Println(err)
	})
}

func floodFrame(kind string, n uint16) ([]byte, error) {
	src := vdp.MAC{2, 0xee, 0, 0, byte(n >> 8), byte(n)}
	f := vdp.Frame{Dst: vdp.NearestCustomerBridge, Src: src, EtherType: vdp.EtherTypeLLDP}
	if kind == "LLDP" {
		p := vdp.LLDPDU{
			Chassis: append([]byte{4}, src[:]...), Port: append([]byte{3}, src[:]...), TTL: 120,
			EVB: &vdp.EVB{Role: vdp.RoleBridge, RRCapable: true, Retries: 3, RTE: 8, RWD: 20, RKA: 20},
		}
		var err error
		if f.Payload, err = p.MarshalBinary(); err != nil {
			return nil, err
		}
		return f.MarshalBinary()
	}
	// From the switch's own address: it is looked at as far as any can be.
	f.Src = vdp.MAC{0x02, 0xbb, 0, 0, 0, 1}
	f.EtherType, f.Payload = vdp.EtherTypeECP, binary.BigEndian.AppendUint16([]byte{0x10, 0x01}, n)
	if n%2 == 1 {
		f.EtherType, f.Dst = vdp.EtherTypeECPDraft, vdp.NearestBridge
	}
	return f.MarshalBinary()
}

// Whatever comes in at whatever rate, who asks vdpd is answered within 50 ms at the 99th
// percentile. Other tests run at the same time: the best of some rounds counts.
func TestAnswersUnderFlood(t *testing.T) {
	const limit = 50 * time.Millisecond
	h := newHost(t)
	h.responder(vdptest.Config{Edition: vdp.Edition2012})
	p := h.quietVdpd()
	switchReady(h, p)
	c := control.NewClient(h.controlPath())
	hosttest.Eventually(h, 20*time.Second, "EVB both ways", func() bool { return c.Ready(t.Context(), stationIf) == nil })
	for i := range 10 {
		_, err := c.Associate(t.Context(), stationIf, testVSI(i))
		require.NoError(t, err)
	}
	received := func() uint64 { u := h.uplink(); return u.Received.LLDP + u.Received.ECP }
	for _, kind := range []string{"LLDP", "ECP"} {
		idle, resident := askOften(t, c, 200), rss(t, p.cmd.Process.Pid)
		exe, err := os.Executable()
		require.NoError(t, err)
		h.env = []string{floodVariable + "=" + kind}
		flood := h.start(h.b, exe)
		before := received()
		hosttest.Eventually(h, 20*time.Second, "a flood", func() bool { return received() > before+10000 })
		rounds := hosttest.Rounds(1000, 20000)
		for left := 3; ; left-- {
			before, start := received(), time.Now()
			took := askOften(t, c, rounds)
			rate := float64(received()-before) / time.Since(start).Seconds()
			t.Logf("%s at %.0f frames/s: status in %v (idle: %v), 99th percentile %v, longest %v; %d KiB resident (%d)", kind, rate,
				took[rounds/2], idle[100], took[rounds*99/100], took[rounds-1], rss(t, p.cmd.Process.Pid), resident)
			if took[rounds*99/100] < limit {
				break
			}
			require.Positive(t, left, "too slow")
		}
		require.Empty(t, flood.output(), "it goes on")
		flood.signal(unix.SIGKILL)
	}
	require.Less(t, strings.Count(p.output(), "\n"), 200, "its log does not grow with the frames")
}

// askOften asks for the status again and again, and returns how long that took, in order.
func askOften(t *testing.T, c *control.Client, rounds int) []time.Duration {
	var took []time.Duration
	for range rounds {
		start := time.Now()
		_, err := c.Status(t.Context())
		require.NoError(t, err)
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	return took
}
