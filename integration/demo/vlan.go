package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"libvirt-direct/integration/host"
	"libvirt-direct/integration/vm"
)

const (
	vlanID  = 100
	vlanMAC = "52:54:00:77:00:14"
	vlanDev = lanNIC + ".100"
	peerDev = peerNIC + ".100"
)

// showVLAN is the scene of a guest on a VLAN sub-interface that nobody has made.
func (b *testbed) showVLAN(ctx context.Context) error {
	dhcp, err := b.peer.StartDHCP(ctx, host.DHCPConfig{
		Interface: peerDev, Address: netip.MustParsePrefix("10.78.0.1/24"),
		First: netip.MustParseAddr("10.78.0.50"), Last: netip.MustParseAddr("10.78.0.99"),
	})
	if err != nil {
		return err
	}
	wire, err := b.peer.Capture(ctx, peerNIC)
	if err != nil {
		return err
	}
	b.say("The peer hands out leases on its VLAN %d. The guest has no disk: its NIC's firmware asks for one.", vlanID)
	nic := host.DirectNIC(vlanMAC, vlanDev, "bridge", "<boot order='1'/>")
	if err := b.file(host.Domain{Name: "vlan", Interfaces: []string{nic}}, nic); err != nil {
		return err
	}
	if err := b.typed(ctx, "virsh define --validate vlan.xml"); err != nil {
		return err
	}
	if err := b.typed(ctx, "virsh start vlan"); err != nil {
		return err
	}
	if err := b.excerpt(ctx, "ip -d link show "+vlanDev, "mtu 1500", "vlan protocol 802.1Q id 100", "alias libvirt-direct"); err != nil {
		return err
	}
	if err := b.expect(ctx, vlanDev, host.Link{"kind": "vlan", "parent": lanNIC, "up": "true"}); err != nil {
		return err
	}
	if err := b.leased(ctx, dhcp, wire); err != nil {
		return err
	}
	if err := b.destroyed(ctx, "vlan"); err != nil {
		return err
	}
	b.ok("%s is gone with its last guest", vlanDev)
	return nil
}

// leased waits for the guest's lease, and for the tagged frames by which it got it.
func (b *testbed) leased(ctx context.Context, dhcp *host.DHCPServer, wire *host.Capture) error {
	ctx, cancel := context.WithTimeout(ctx, guestTime)
	defer cancel()
	mac, err := net.ParseMAC(vlanMAC)
	if err != nil {
		return err
	}
	lease, err := dhcp.WaitLease(ctx, mac)
	if err != nil {
		return err
	}
	b.ok("the guest has the lease %s from the peer", lease.Addr)
	frame, err := wire.Wait(ctx, func(f []byte) bool { return from(f, mac) })
	if err != nil {
		return err
	}
	b.say("the first of its frames on the wire:")
	b.output(describe(frame))
	for _, f := range wire.Frames() {
		if vid, tagged := vlanOf(f); from(f, mac) && (!tagged || vid != vlanID) {
			return fmt.Errorf("a frame of the guest is not in VLAN %d: %s", vlanID, describe(f))
		}
	}
	b.ok("every frame of the guest was tagged with VLAN %d, and the guest knows nothing of it", vlanID)
	return nil
}

func from(frame []byte, mac net.HardwareAddr) bool {
	return len(frame) >= 14 && bytes.Equal(frame[6:12], mac)
}

// vlanOf returns the VLAN identifier of a frame's outer tag (IEEE 802.1Q).
func vlanOf(frame []byte) (int, bool) {
	if len(frame) < 18 || binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_8021Q {
		return 0, false
	}
	return int(binary.BigEndian.Uint16(frame[14:]) & 0xfff), true
}

func describe(frame []byte) string {
	text := fmt.Sprintf("%s > %s, ", net.HardwareAddr(frame[6:12]), net.HardwareAddr(frame[:6]))
	vid, tagged := vlanOf(frame)
	if !tagged {
		return text + fmt.Sprintf("untagged, EtherType %#04x, %d octets", binary.BigEndian.Uint16(frame[12:]), len(frame))
	}
	return text + fmt.Sprintf("802.1Q VLAN %d, EtherType %#04x, %d octets", vid, binary.BigEndian.Uint16(frame[16:]), len(frame))
}

// A machine plays the VLAN scene, by this same program, where the running kernel
// cannot: on Debian's own, emulated.
type machine struct {
	gate *gate
	done chan struct{}
	err  error // valid when done is closed
}

// startMachine lets the scene begin; it takes longer than all the others.
func startMachine(ctx context.Context, out *screen, cache, programs string) (*machine, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	m := vm.Default()
	m.Cache, m.Log, m.NIC, m.Timeout = cache, io.Discard, "none", timeLimit
	for _, name := range []string{"TMPDIR", "NO_COLOR"} {
		if value, ok := os.LookupEnv(name); ok {
			m.Env = append(m.Env, name+"="+value)
		}
	}
	p := &machine{gate: &gate{w: out.w}, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		status, err := m.Run(ctx, p.gate, self, fmt.Sprintf("-colour=%t", out.colour), "-programs", programs, "-scene", "vlan")
		if failed, ok := errors.AsType[*vm.Error](err); ok {
			err = fmt.Errorf("%w; its console ends with:\n%s", err, strings.TrimSpace(failed.Console))
		}
		if err == nil && status != 0 {
			err = fmt.Errorf("the VLAN scene in the test machine ended with status %d", status)
		}
		p.err = err
	}()
	return p, nil
}

// show shows the scene, what has happened and what still happens.
func (p *machine) show() error {
	if err := p.gate.open(); err != nil {
		return err
	}
	return p.wait()
}

// wait returns when the machine has ended.
func (p *machine) wait() error {
	<-p.done
	return p.err
}

// A gate keeps what is written to it until it is opened.
type gate struct {
	w io.Writer

	mu     sync.Mutex
	kept   bytes.Buffer
	opened bool
}

func (g *gate) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opened {
		return g.w.Write(b)
	}
	return g.kept.Write(b)
}

func (g *gate) open() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.opened = true
	_, err := g.kept.WriteTo(g.w)
	return err
}

// showVLANAlone shows the scene in the test machine.
func showVLANAlone(ctx context.Context, out *screen, dir, programs string) error {
	silent := *out
	silent.w = io.Discard
	b, err := newTestbed(ctx, &silent, dir, programs)
	if err != nil {
		return err
	}
	defer b.close()
	if !b.vlans {
		return errors.New("the test machine's kernel has no VLAN devices (8021q)")
	}
	b.screen = out
	out.say("On %s the host demo, the switch and the peer were made anew in %.0f s.", kernelRelease(), time.Since(out.begin).Seconds())
	if err := b.showVLAN(ctx); err != nil {
		return err
	}
	return b.close()
}

func kernelRelease() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "Linux"
	}
	return "Linux " + unix.ByteSliceToString(u.Release[:])
}
