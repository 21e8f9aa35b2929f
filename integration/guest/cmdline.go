package guest

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// A NIC tells the guest what to do with one network card.
type NIC struct {
	// MAC is the card's hardware address, by which the guest finds it, also
	// when the card is plugged in or comes back later.
	MAC net.HardwareAddr
	// VLAN is the 802.1Q VLAN identifier, 1 to 4094, of the VLAN device that
	// the guest puts its addresses on; 0 puts them on the card itself.
	VLAN int
	// DHCP asks for the IPv4 address, and the default route, in Addr's place.
	DHCP bool
	// Addr and Addr6 are the card's IPv4 and IPv6 address, each optional.
	Addr, Addr6 netip.Prefix
	// Peer and Peer6 are pinged about twice a second, each optional.
	Peer, Peer6 netip.Addr
}

// A Cmdline is the kernel command line of a guest.
type Cmdline struct {
	NICs []NIC
	// Extra holds further kernel parameters.
	Extra []string
}

// parameters make the kernel quick to boot under TCG, quiet, and end QEMU
// rather than hang when it panics. A guest for tests has nothing to be
// protected from, and is quicker without address randomization. On a busy host the
// emulated timer can look broken to the kernel, which panics then: it is not to check.
var parameters = [...]string{
	"console=ttyS0", "quiet", "panic=-1", "nokaslr", "mitigations=off", "no_timer_check",
	"net.ifnames=0", "tsc=reliable", "random.trust_cpu=on", "cryptomgr.notests=1",
}

// String returns the kernel command line. Each NIC is a parameter
//
//	guest.nic=MAC,VLAN,ADDRESS/LENGTH,PEER,ADDRESS6/LENGTH,PEER6
//
// with nothing in the place of what is not set, and "dhcp" for ADDRESS with DHCP. x86 kernels cut a command line
// at 2047 octets, which is a dozen NICs.
func (c Cmdline) String() string {
	words := append([]string(nil), parameters[:]...)
	for _, n := range c.NICs {
		if n.VLAN != 0 {
			words = append(words, "guest.vlans")
			break
		}
	}
	for _, n := range c.NICs {
		address := prefix(n.Addr)
		if n.DHCP {
			address = "dhcp"
		}
		words = append(words, fmt.Sprintf("guest.nic=%s,%d,%s,%s,%s,%s",
			n.MAC, n.VLAN, address, addr(n.Peer), prefix(n.Addr6), addr(n.Peer6)))
	}
	return strings.Join(append(words, c.Extra...), " ")
}

func prefix(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.String()
}

func addr(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
