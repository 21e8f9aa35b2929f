package host

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// DHCPConfig says what a DHCP server of a Peer hands out.
type DHCPConfig struct {
	// Interface is the NIC to serve; Address is put on it.
	Interface string
	Address   netip.Prefix
	// First and Last are the ends of the range of leases.
	First, Last netip.Addr
	// Args are more arguments of dnsmasq, such as --enable-tftp.
	Args []string
}

// A Lease is an address that a DHCP server gave to a client.
type Lease struct {
	MAC  net.HardwareAddr
	Addr netip.Addr
}

// A DHCPServer is a dnsmasq inside a Peer.
type DHCPServer struct {
	name  string
	lines *stream[string]
	proc  *process
}

// Close ends the server.
func (s *DHCPServer) Close() error { return s.proc.Close() }

// StartDHCP starts dnsmasq as a DHCP server and returns when it listens. It
// ends by its Close or with the Peer; the context bounds the start only.
func (p *Peer) StartDHCP(ctx context.Context, cfg DHCPConfig) (*DHCPServer, error) {
	if err := p.SetAddress(ctx, cfg.Interface, cfg.Address.String()); err != nil {
		return nil, err
	}
	args := append([]string{
		"--conf-file=/dev/null", "--keep-in-foreground", "--log-facility=-", "--log-dhcp", "--user=root", "--group=root",
		"--port=0", "--bind-interfaces", "--interface=" + cfg.Interface, "--pid-file=",
		"--no-ping", "--dhcp-authoritative", "--leasefile-ro",
		fmt.Sprintf("--dhcp-range=%s,%s", cfg.First, cfg.Last),
	}, cfg.Args...)
	// dnsmasq logs to standard error.
	cmd := p.Command(context.WithoutCancel(ctx), "sh", append([]string{"-c", `exec "$@" 2>&1`, "sh", "dnsmasq"}, args...)...)
	s := &DHCPServer{name: p.opts.Name, lines: newStream[string]()}
	var err error
	if s.proc, err = startProcess(cmd, readLines(s.lines)); err != nil {
		return nil, fmt.Errorf("%s: start dnsmasq: %w", p.opts.Name, err)
	}
	_, err = s.lines.wait(ctx, func(line string) bool { return strings.Contains(line, "DHCP, IP range") })
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("%s: dnsmasq did not come up: %w: %s", p.opts.Name, err, strings.Join(s.lines.all(), "; "))
	}
	return s, nil
}

// WaitLease waits until a client has a lease, and returns the first one since
// the start of the server.
func (s *DHCPServer) WaitLease(ctx context.Context, mac net.HardwareAddr) (Lease, error) {
	var lease Lease
	_, err := s.lines.wait(ctx, func(line string) bool {
		l, ok := parseLease(line)
		if ok && bytes.Equal(l.MAC, mac) {
			lease = l
			return true
		}
		return false
	})
	if err != nil {
		return Lease{}, fmt.Errorf("%s: no lease for %s: %w", s.name, mac, err)
	}
	return lease, nil
}

// Log is what dnsmasq has printed so far.
func (s *DHCPServer) Log() []string { return s.lines.all() }

// parseLease reads dnsmasq's "… DHCPACK(nic) ADDRESS MAC [HOST]".
func parseLease(line string) (Lease, bool) {
	_, rest, ok := strings.Cut(line, "DHCPACK(")
	if !ok {
		return Lease{}, false
	}
	_, rest, _ = strings.Cut(rest, ")")
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return Lease{}, false
	}
	addr, err := netip.ParseAddr(fields[0])
	if err != nil {
		return Lease{}, false
	}
	mac, err := net.ParseMAC(fields[1])
	if err != nil {
		return Lease{}, false
	}
	return Lease{MAC: mac, Addr: addr}, true
}
