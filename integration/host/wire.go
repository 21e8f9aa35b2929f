package host

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// Wire connects a and b by a veth pair, one end in each, both up. The ends get
// random interface indexes far from what the kernel counts.
func Wire(ctx context.Context, a *Peer, nameA string, b *Peer, nameB string) error {
	err := a.ip(ctx, fmt.Sprintf("link add name %s index %d type veth peer name %s index %d netns %d\nlink set %s up\n",
		nameA, randomIndex(), nameB, randomIndex(), b.pid, nameA))
	if err != nil {
		return err
	}
	return b.ip(ctx, fmt.Sprintf("link set %s up\n", nameB))
}

func randomIndex() int { return indexMax + rand.IntN(1<<30) }

// A Port is a NIC of a Peer that joins a bridge.
type Port struct {
	Name string
	// Hairpin lets a frame leave by the port that it came in by: what VEPA
	// asks of a switch (IEEE 802.1Qbg, reflective relay).
	Hairpin bool
}

// Bridge makes p a switch: a Linux bridge over the ports, forwarding at once.
func (p *Peer) Bridge(ctx context.Context, name string, ports ...Port) error {
	var batch strings.Builder
	fmt.Fprintf(&batch, "link add name %s type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n", name)
	for _, port := range ports {
		hairpin := "off"
		if port.Hairpin {
			hairpin = "on"
		}
		fmt.Fprintf(&batch, "link set %s master %s\nlink set %s type bridge_slave hairpin %s\n", port.Name, name, port.Name, hairpin)
	}
	fmt.Fprintf(&batch, "link set %s up\n", name)
	return p.ip(ctx, batch.String())
}

// ip runs commands of ip(8) in the network namespace only: a PID names another
// namespace as the caller numbers processes.
func (p *Peer) ip(ctx context.Context, batch string) error {
	cmd := p.nsenter(ctx, []string{"--net"}, "ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(batch)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: ip -batch: %w: %s", p.opts.Name, err, bytes.TrimSpace(out))
	}
	return nil
}

// SetAddress adds an address such as "10.55.0.1/24" to a NIC.
func (p *Peer) SetAddress(ctx context.Context, nic, prefix string) error {
	return p.ip(ctx, "addr add "+prefix+" dev "+strconv.Quote(nic)+"\n")
}
