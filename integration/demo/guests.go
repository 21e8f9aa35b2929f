package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"libvirt-direct/integration/guest"
	"libvirt-direct/integration/host"
)

// A linux is a small Linux guest that pings the peer.
type linux struct {
	name, mac, addr string
	also            string // another guest that it pings
}

var (
	bridgeGuest = &linux{name: "bridge", mac: "52:54:00:77:00:11", addr: "10.77.0.11"}
	vepaGuest   = &linux{name: "vepa", mac: "52:54:00:77:00:12", addr: "10.77.0.12", also: bridgeGuest.addr}
	passGuest   = &linux{name: "passthrough", mac: "52:54:00:77:00:13", addr: "10.77.0.13"}
)

// domain is the guest with one NIC and, optionally, settings of ours.
func (g *linux) domain(b *testbed, img *guest.Image, nic, words string) (host.Domain, error) {
	mac, err := net.ParseMAC(g.mac)
	if err != nil {
		return host.Domain{}, err
	}
	nics := []guest.NIC{{MAC: mac, Addr: netip.MustParsePrefix(g.addr + "/24"), Peer: peerAddr.Addr()}}
	if g.also != "" {
		nics = append(nics, guest.NIC{MAC: mac, Peer: netip.MustParseAddr(g.also)})
	}
	return host.Domain{
		Name: g.name, MemoryMiB: 128, SerialLog: g.console(b),
		Kernel: img.KernelPath, Initrd: img.InitrdPath, Cmdline: guest.Cmdline{NICs: nics}.String(),
		Interfaces: []string{nic}, Metadata: words,
	}, nil
}

func (g *linux) console(b *testbed) string { return filepath.Join(b.dir, g.name+".console") }

// guestTime bounds the wait for a guest to talk; on most machines it takes seconds.
const guestTime = 4 * time.Minute

// define writes the guest's XML, shows what matters of it, and gives it to virsh.
func (b *testbed) define(ctx context.Context, g *linux, img *guest.Image, nic, words string) error {
	d, err := g.domain(b, img, nic, words)
	if err != nil {
		return err
	}
	if err := b.file(d, nic, words); err != nil {
		return err
	}
	return b.typed(ctx, "virsh define --validate "+g.name+".xml")
}

func (b *testbed) start(ctx context.Context, g *linux) error {
	return b.typed(ctx, "virsh start "+g.name)
}

// showGuests is the scene of three guests on untagged networks.
func (b *testbed) showGuests(ctx context.Context, img *guest.Image) error {
	if err := b.showBridge(ctx, img); err != nil {
		return err
	}
	if err := b.showVEPA(ctx, img); err != nil {
		return err
	}
	if err := b.showPassthrough(ctx, img); err != nil {
		return err
	}
	if err := b.showTalk(ctx); err != nil {
		return err
	}
	b.step("virsh destroy, and nothing is left")
	return b.destroyed(ctx, bridgeGuest.name, vepaGuest.name, passGuest.name)
}

func (b *testbed) showBridge(ctx context.Context, img *guest.Image) error {
	b.step("A NIC on an uplink's name: the domain runs on any host that has the network lan")
	err := b.define(ctx, bridgeGuest, img, host.DirectNIC(bridgeGuest.mac, "lan", "bridge"), "")
	if err != nil {
		return err
	}
	if err := b.start(ctx, bridgeGuest); err != nil {
		return err
	}
	if err := b.excerpt(ctx, "ip link show lan", "mtu 1500", "altname lan"); err != nil {
		return err
	}
	if err := b.expect(ctx, lanNIC, host.Link{"altnames": "lan"}); err != nil {
		return err
	}
	if err := b.expect(ctx, "macvtap0", host.Link{"parent": lanNIC, "mode": "bridge", "mac": bridgeGuest.mac}); err != nil {
		return err
	}
	b.ok("libvirt found its <source dev='lan'>, for the hook gave %s that name before, at prepare", lanNIC)
	return nil
}

func (b *testbed) showVEPA(ctx context.Context, img *guest.Image) error {
	b.step("A NIC that the hook owns: its device is the hook's, from prepare to release")
	words := fmt.Sprintf("    <ld:nics xmlns:ld='urn:libvirt-direct:1'>\n"+
		"      <ld:nic mac='%s' uplink='lan' own='hook'/>\n    </ld:nics>", vepaGuest.mac)
	err := b.define(ctx, vepaGuest, img, host.DirectNIC(vepaGuest.mac, "lan", "vepa"), words)
	if err != nil {
		return err
	}
	if err := b.typed(ctx, "libvirt-direct rewrite --domain vepa"); err != nil {
		return err
	}
	if err := b.start(ctx, vepaGuest); err != nil {
		return err
	}
	target, err := b.targetOf(ctx, vepaGuest)
	if err != nil {
		return err
	}
	if err := b.excerpt(ctx, "ip -d link show "+target, "mtu 1500", "macvtap mode vepa", "alias libvirt-direct"); err != nil {
		return err
	}
	if err := b.expect(ctx, target, host.Link{"parent": lanNIC, "mode": "vepa", "mac": vepaGuest.mac, "up": "true"}); err != nil {
		return err
	}
	b.ok("the guest runs on a macvtap that the hook has made, and whose alias says so")
	return nil
}

func (b *testbed) showPassthrough(ctx context.Context, img *guest.Image) error {
	b.step("A NIC for one guest alone")
	nic := host.DirectNIC(passGuest.mac, "storage", "passthrough")
	if err := b.define(ctx, passGuest, img, nic, ""); err != nil {
		return err
	}
	if err := b.start(ctx, passGuest); err != nil {
		return err
	}
	if err := b.excerpt(ctx, "ip link show storage", "mtu 1500", "link/ether "+passGuest.mac, "altname storage"); err != nil {
		return err
	}
	if err := b.expect(ctx, storageNIC, host.Link{"mac": passGuest.mac, "altnames": "storage"}); err != nil {
		return err
	}
	b.ok("in this mode the host's NIC has the guest's MAC as long as the guest runs")
	return nil
}

// targetOf is the name of a guest's only device on the host.
func (b *testbed) targetOf(ctx context.Context, g *linux) (string, error) {
	out, err := b.shell(ctx, "virsh --quiet domiflist "+g.name)
	if err != nil {
		return "", err
	}
	fields := bytes.Fields([]byte(out))
	if len(fields) == 0 {
		return "", fmt.Errorf("virsh domiflist %s shows no device", g.name)
	}
	return string(fields[0]), nil
}

// showTalk lets every guest and the peer ping each other.
func (b *testbed) showTalk(ctx context.Context) error {
	b.step("The guests, small Linuxes that have booted meanwhile, talk to the peer")
	wire, err := b.sw.Capture(ctx, lanPort)
	if err != nil {
		return err
	}
	defer wire.Close()
	for _, g := range []*linux{bridgeGuest, vepaGuest, passGuest} {
		if err := b.hears(ctx, g, peerAddr.Addr().String()); err != nil {
			return err
		}
		if err := b.pings(ctx, g); err != nil {
			return err
		}
	}
	b.say("In vepa mode what guests on one NIC say to each other goes by way of the switch:")
	if err := b.hears(ctx, vepaGuest, bridgeGuest.addr); err != nil {
		return err
	}
	if err := reflected(ctx, wire); err != nil {
		return err
	}
	b.ok("the switch saw that ping twice: out of the port of %s, and back into it", lanNIC)
	return nil
}

// pings lets the peer ping a guest.
func (b *testbed) pings(ctx context.Context, g *linux) error {
	line := "busybox ping -c 2 -W 5 " + g.addr
	b.screen.typed("peer", line)
	out, err := b.peer.Run(ctx, "sh", "-c", line)
	for l := range strings.Lines(out) {
		if strings.Contains(l, "bytes from") {
			b.output(l)
		}
	}
	if err != nil {
		return fmt.Errorf("the peer does not reach the guest %s: %w", g.name, err)
	}
	return nil
}

// hears waits until a guest says that it has an answer.
func (b *testbed) hears(ctx context.Context, g *linux, from string) error {
	ctx, cancel := context.WithTimeout(ctx, guestTime)
	defer cancel()
	console := guest.Console{Path: g.console(b)}
	e, err := console.Wait(ctx, "ping "+from+" ok")
	if err != nil {
		return fmt.Errorf("the guest %s does not reach %s: %w", g.name, from, err)
	}
	b.ok("the guest %s, up for %.1f s, says: %s", g.name, e.Uptime.Seconds(), e.Text)
	return nil
}

// reflected waits until an echo request of the vepa guest to the bridge guest has
// passed a port twice.
func reflected(ctx context.Context, wire *host.Capture) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	passed := map[string]int{}
	_, err := wire.Wait(ctx, func(frame []byte) bool {
		if !echoRequest(frame, vepaGuest.addr, bridgeGuest.addr) {
			return false
		}
		passed[string(frame)]++
		return passed[string(frame)] == 2
	})
	if err != nil {
		return fmt.Errorf("the switch did not reflect the ping of the guest vepa: %w", err)
	}
	return nil
}

// echoRequest tells whether an untagged frame is an ICMP echo request (RFC 791,
// RFC 792) from one address to another.
func echoRequest(frame []byte, from, to string) bool {
	const ethernet, ip = 14, 20
	if len(frame) < ethernet+ip+1 || binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_IP {
		return false
	}
	p := frame[ethernet:]
	return p[0] == 0x45 && p[9] == unix.IPPROTO_ICMP && p[ip] == 8 &&
		netip.AddrFrom4([4]byte(p[12:16])).String() == from && netip.AddrFrom4([4]byte(p[16:20])).String() == to
}
