//go:build integration

package main_test

import (
	"bytes"
	"encoding/binary"
	"net"
	"os/exec"
	"slices"
	"strings"
	"sync"
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

var (
	hostMAC   = vdp.MAC{0x02, 0xaa, 5: 1}
	switchMAC = vdp.MAC{0x02, 0xbb, 5: 1}
	randomMAC = vdp.MAC{0x02, 0x5e, 1, 2, 3, 4}
)

// A reflector is who sends back what comes to the switch's end of the wire.
type reflector struct {
	name   string
	bridge []string // options of a Linux bridge with hairpin mode on; none for a program
	// groups says which group addresses it reflects beside the host's own address.
	groups []vdp.MAC
	untags bool // takes a priority tag off
}

var groups = []vdp.MAC{vdp.NearestCustomerBridge, vdp.NearestNonTPMRBridge, vdp.NearestBridge}

var reflectors = []reflector{
	{"bridge without STP", []string{"stp_state", "0", "group_fwd_mask", "0x4008"}, groups, false},
	// It takes the frames to NearestCustomerBridge for itself.
	{"bridge with STP", []string{"stp_state", "1", "forward_delay", "200", "group_fwd_mask", "0x4008"}, groups[1:], false},
	// As a bridge that knows VLANs does with the tag.
	{"untagged", nil, groups, true},
}

func (h *host) reflect(r reflector, f *vdptest.Forger) {
	h.Helper()
	if r.bridge == nil {
		h.sendBack(f)
		return
	}
	h.sh(append([]string{"ip", "-n", h.b, "link", "add", "br0", "type", "bridge"}, r.bridge...)...)
	h.sh("ip", "-n", h.b, "link", "set", "br0", "up")
	h.sh("ip", "-n", h.b, "link", "set", bridgeIf, "master", "br0")
	h.sh("ip", "-n", h.b, "link", "set", bridgeIf, "type", "bridge_slave", "hairpin", "on")
	hosttest.Eventually(h, 20*time.Second, "forwarding", func() bool {
		return strings.Contains(h.sh("ip", "-n", h.b, "-d", "link", "show", bridgeIf), "state forwarding")
	})
}

// sendBack reflects forgeries: the socket is shown them without a tag.
func (h *host) sendBack(f *vdptest.Forger) {
	h.Helper()
	c, _ := h.listen(h.b, bridgeIf)
	require.NoError(h, c.SetPromiscuous(true))
	go func() {
		b := make([]byte, 2048)
		for {
			n, _, err := c.ReadFrom(b)
			if err == nil && f.Made(b[:n]) {
				_, err = c.WriteTo(b[:n], &packet.Addr{HardwareAddr: net.HardwareAddr(b[:6])})
			}
			if err != nil {
				return // the test ends
			}
		}
	}()
}

// A guest has a macvtap on the uplink, in a namespace of its own.
type guest struct {
	h    *host
	mac  vdp.MAC
	tap  *packet.Conn
	wire *packet.Conn // the uplink's own view of what comes
}

func (h *host) listen(ns, ifname string) (c *packet.Conn, mac vdp.MAC) {
	h.Helper()
	var err error
	h.in(ns, func() {
		var ifi *net.Interface
		if c, ifi, err = hosttest.Arriving(ifname); err == nil {
			mac = vdp.MAC(ifi.HardwareAddr)
		}
	})
	require.NoError(h, err)
	h.Cleanup(func() { c.Close() })
	return c, mac
}

// guestNamespace makes a namespace that takes the guest's devices in.
func (h *host) guestNamespace() string { return h.namespace("vdpg") }

// namespace makes one more of the host's.
func (h *host) namespace(prefix string) string {
	h.Helper()
	ns := strings.Replace(h.a, "vdpa", prefix, 1)
	h.sh("ip", "netns", "add", ns)
	h.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns).Run() })
	return ns
}

// guest starts one; stop ends it.
func (h *host) guest(ns, mode string) (g *guest, stop func()) {
	h.Helper()
	h.sh("ip", "-n", h.a, "link", "add", "link", stationIf, "name", "mv0", "type", "macvtap", "mode", mode)
	h.sh("ip", "-n", h.a, "link", "set", "mv0", "netns", ns)
	h.sh("ip", "-n", ns, "link", "set", "mv0", "up")
	g = &guest{h: h}
	g.tap, g.mac = h.listen(ns, "mv0")
	g.wire, _ = h.listen(h.a, stationIf)
	return g, func() {
		g.tap.Close()
		g.wire.Close()
		h.sh("ip", "-n", ns, "link", "del", "mv0")
	}
}

func (g *guest) send(frame []byte) {
	g.h.Helper()
	_, err := g.tap.WriteTo(frame, &packet.Addr{HardwareAddr: net.HardwareAddr(frame[:6])})
	require.NoError(g.h, err)
}

// comesBack waits until the uplink receives a frame.
func (g *guest) comesBack(frame []byte) {
	g.h.Helper()
	require.NoError(g.h, g.wire.SetReadDeadline(time.Now().Add(5*time.Second)))
	b := make([]byte, 2048)
	for {
		n, _, err := g.wire.ReadFrom(b)
		require.NoError(g.h, err, "%x does not come back", frame)
		if bytes.HasPrefix(b[:n], frame) {
			return
		}
	}
}

// priorityTagged puts a tag with priority 7 and no VLAN into a frame.
func priorityTagged(frame []byte) []byte {
	return slices.Concat(frame[:12], []byte{0x81, 0x00, 0xe0, 0x00}, frame[12:])
}

// played counts forgeries.
type played struct {
	sent, back int
	lldp       int // LLDPDUs that vdpd looks at
	echoes     int // what it has to know for one
}

// play sends every forgery in every shape.
func (g *guest) play(f *vdptest.Forger, r reflector, v vdp.VSI) (n played) {
	g.h.Helper()
	for _, dst := range append([]vdp.MAC{hostMAC}, groups...) {
		reflected := dst == hostMAC || slices.Contains(r.groups, dst)
		for _, src := range []vdp.MAC{g.mac, randomMAC, switchMAC, hostMAC} {
			for _, tagged := range []bool{false, true} {
				for _, forged := range f.Forgeries(dst, src, v) {
					frame := forged.Frame
					if tagged {
						frame = priorityTagged(frame)
					}
					g.send(frame)
					n.sent++
					if !reflected {
						continue
					}
					g.comesBack(forged.Frame) // a socket is shown the tag apart
					n.back++
					if dst == hostMAC || tagged && !r.untags {
						continue
					}
					if vdp.EtherTypeLLDP == binary.BigEndian.Uint16(forged.Frame[12:]) {
						n.lldp++
					}
					if src != hostMAC { // that is known for its own
						n.echoes++
					}
				}
			}
		}
	}
	return n
}

// events collects the types of the events that vdpd publishes.
type events struct {
	mu  sync.Mutex
	all []string
}

func (h *host) events() *events {
	h.Helper()
	s, err := control.NewClient(h.controlPath()).Subscribe(h.Context())
	require.NoError(h, err)
	h.Cleanup(func() { s.Close() })
	e := &events{}
	go func() {
		for {
			ev, err := s.Next()
			if err != nil {
				return
			}
			e.mu.Lock()
			e.all = append(e.all, ev.Type)
			e.mu.Unlock()
		}
	}()
	return e
}

// types are without repetitions in a row.
func (e *events) types() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Compact(slices.Clone(e.all))
}

// hearing waits until vdpd listens to what comes: not at once, for what was under way
// when it opened its sockets it has not seen leave.
func (h *host) hearing() {
	h.Helper()
	hosttest.Eventually(h, 10*time.Second, "vdpd's LLDPDU", func() bool { return h.uplink().Sent.LLDP > 0 })
}

// ready waits until the switch takes requests.
func (h *host) ready() {
	h.Helper()
	hosttest.Eventually(h, 10*time.Second, "vdpd's answer to the switch", func() bool { return h.uplink().Error == nil })
}

// are waits for events, of each type one or more.
func (e *events) are(h *host, want ...string) {
	h.Helper()
	hosttest.Eventually(h, 5*time.Second, "events", func() bool { return len(e.types()) >= len(want) })
	require.Equal(h, want, e.types())
}

// A guest plays the switch, and a bridge reflects what it sends: before the switch has
// said anything, and while VSIs are associated.
func TestGuestPlaysTheSwitch(t *testing.T) {
	for _, r := range reflectors {
		for _, ed := range []vdp.Edition{vdp.Edition2012, vdp.EditionDraft} {
			t.Run(r.name+"/"+ed.String(), func(t *testing.T) {
				h := newHost(t)
				f := &vdptest.Forger{Own: randomMAC, Switch: switchMAC}
				h.reflect(r, f)
				br := h.responderHearing(vdptest.Config{Edition: ed, NoEVB: true}, f.Unheard)
				p := h.vdpd()
				ns := h.guestNamespace()
				events := h.events()
				all := []vdp.VSI{testVSI(1), testVSI(2), testVSI(3)}
				total, met, held := 0, 0, 0
				rounds := func(when string) {
					for _, mode := range []string{"vepa", "bridge", "private", "passthru"} {
						before, said := hosttest.Unmoved(h, h.uplink()), events.types()
						g, stop := h.guest(ns, mode)
						n := g.play(f, r, all[0])
						require.NotZero(t, n.back)
						total, met = total+n.sent, met+n.echoes
						hosttest.Eventually(h, 10*time.Second, "echoes", func() bool { return h.uplink().Echoes >= uint64(met) })
						require.Equal(t, uint64(met), h.uplink().Echoes)
						require.Equal(t, before, hosttest.Unmoved(h, h.uplink()), "%s, %s", when, mode)
						require.Equal(t, said, events.types(), "%s, %s", when, mode)
						stop()
						t.Logf("%s, %s: %d sent, %d came back, %d of them known as echoes", when, mode, n.sent, n.back, n.echoes)
					}
				}
				h.hearing()
				rounds("before the switch")
				require.Nil(t, h.uplink().Switch)

				require.NoError(t, br.Do(func(b *vdptest.Bridge) [][]byte { b.NoEVB = false; b.Restart(); return b.Tick(time.Now()) }))
				switchReady(h, p)
				h.ready()
				for _, v := range all {
					_, err := control.NewClient(h.controlPath()).Associate(t.Context(), stationIf, v)
					require.NoError(t, err)
				}
				events.are(h, "neighbor", "established")
				rounds("while associated")
				require.NoError(t, br.Do(func(b *vdptest.Bridge) [][]byte { held = b.Len(); return nil }))
				require.Equal(t, len(all), held)
				require.Equal(t, len(all), h.uplink().Established)
				require.Equal(t, switchMAC.String(), h.uplink().Switch.Source)
				t.Logf("%d forgeries, %d echoes", total, met)
			})
		}
	}
}

// A guest sends more than vdpd can read. It hears nobody for 5 s then, rather than the
// guest, and the switch again afterwards.
func TestGuestFloods(t *testing.T) {
	h := newHost(t)
	f := &vdptest.Forger{Own: randomMAC, Switch: switchMAC}
	h.reflect(reflectors[0], f)
	br := h.responderHearing(vdptest.Config{Edition: vdp.Edition2012, NoEVB: true}, f.Unheard)
	p := h.vdpd()
	g, stop := h.guest(h.guestNamespace(), "vepa")
	defer stop()
	events := h.events()

	h.hearing()
	require.NoError(t, p.cmd.Process.Signal(unix.SIGSTOP))
	const flood = 20_000
	for i := range flood {
		frame := f.Forgeries(vdp.NearestCustomerBridge, randomMAC, testVSI(1))[0].Frame
		frame[len(frame)-1] = byte(i) // no two are alike
		frame = append(frame, byte(i>>8), 1)
		g.send(frame)
	}
	require.NoError(t, p.cmd.Process.Signal(unix.SIGCONT))
	begin := time.Now()
	last := f.Forgeries(vdp.NearestCustomerBridge, randomMAC, testVSI(1))[0].Frame
	g.send(last)

	say := func() {
		require.NoError(t, br.Do(func(b *vdptest.Bridge) [][]byte { b.NoEVB = false; b.Restart(); return b.Tick(time.Now()) }))
	}
	hosttest.Eventually(h, 15*time.Second, "the switch", func() bool {
		say()
		return h.uplink().Switch != nil
	})
	deaf := time.Since(begin)
	t.Logf("%d frames; deaf for %v; %d arrived and did not count", flood, deaf.Round(time.Millisecond), strings.Count(p.output(), vdp.ErrDeaf.Error()))
	require.Greater(t, deaf, 4*time.Second, "it does not know what it has missed")
	require.Equal(t, switchMAC.String(), h.uplink().Switch.Source)
	events.are(h, "neighbor")
	g.send(f.Forgeries(vdp.NearestCustomerBridge, switchMAC, testVSI(1))[2].Frame)
	h.ready()
	_, err := control.NewClient(h.controlPath()).Associate(t.Context(), stationIf, testVSI(1))
	require.NoError(t, err)
	events.are(h, "neighbor", "established")
}
