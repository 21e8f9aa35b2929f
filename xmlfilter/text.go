package xmlfilter

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	"libvirt-direct/internal/link"
)

// How libvirt reads what stands in attributes and elements (src/util/virstring.c,
// virmacaddr.c, viruuid.c). What it refuses is refused here, and only where the NIC is one
// that concerns us: libvirt says it better.

// cSpaces are what C's strtoul passes over in front of a number.
const cSpaces = " \t\n\v\f\r"

// Number reads an unsigned number as libvirt does. With base 0 one that begins with 0x is
// hexadecimal, and one that begins with 0 octal. White space and a plus sign may stand in
// front, nothing behind.
func Number(s string, base, bits int) (uint64, bool) {
	s = strings.TrimPrefix(strings.TrimLeft(s, cSpaces), "+")
	if base == 0 {
		base = 10
		switch {
		case len(s) > 2 && (s[:2] == "0x" || s[:2] == "0X"):
			s, base = s[2:], 16
		case len(s) > 1 && s[0] == '0':
			base = 8
		}
	}
	n, err := strconv.ParseUint(s, base, bits)
	return n, err == nil
}

// CanonicalUUID returns a UUID as libvirt writes it: lower case, with hyphens, which may be
// missing or stand elsewhere. What is no UUID is only put in lower case.
func CanonicalUUID(s string) string {
	s = strings.ToLower(strings.Trim(s, cSpaces))
	hex := strings.ReplaceAll(s, "-", "")
	if len(hex) != 32 || strings.Trim(hex, "0123456789abcdef") != "" {
		return s
	}
	return strings.Join([]string{hex[:8], hex[8:12], hex[12:16], hex[16:20], hex[20:]}, "-")
}

// parseMAC reads an address as libvirt does: six octets of one or two hexadecimal digits,
// between colons.
func parseMAC(s string) (string, bool) {
	octets := strings.Split(s, ":")
	for i, o := range octets {
		v, err := strconv.ParseUint(o, 16, 8)
		if err != nil || len(o) > 2 {
			return "", false
		}
		octets[i] = fmt.Sprintf("%02x", v)
	}
	return strings.Join(octets, ":"), len(octets) == 6
}

// readMAC reads an address as people write it into settings: also with dashes or dots.
func readMAC(s string) (string, bool) {
	if mac, ok := parseMAC(s); ok {
		return mac, true
	}
	mac, err := net.ParseMAC(s)
	if err != nil || len(mac) != 6 {
		return "", false
	}
	return mac.String(), true
}

// NormalKey returns what a person calls a NIC by, a MAC or an alias, as Stray.Key and NIC have it.
func NormalKey(s string) string {
	s = strings.TrimSpace(s)
	if mac, ok := readMAC(s); ok {
		return mac
	}
	return s
}

// isUserAlias knows what libvirt keeps of a definition's aliases.
func isUserAlias(s string) bool {
	return strings.HasPrefix(s, "ua-") && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == ""
}

// pci reads <address type='pci'>.
func (n *NIC) pci(a *element) string {
	var v [4]uint64
	for i, part := range []struct {
		name string
		most uint64
	}{{"domain", 1<<32 - 1}, {"bus", 0xff}, {"slot", 0x1f}, {"function", 7}} {
		s, there := a.lookup(part.name)
		if !there {
			continue
		}
		var ok bool
		if v[i], ok = Number(s, 0, 32); !ok || v[i] > part.most {
			n.fail("address "+part.name, s)
			return ""
		}
	}
	return link.PCIAddress(uint32(v[0]), uint8(v[1]), uint8(v[2]), uint8(v[3]))
}

// number reads an unsigned decimal; an absent one is 0.
func (n *NIC) number(what string, e *element, attr string, most uint64) int {
	s, there := e.lookup(attr)
	if !there {
		return 0
	}
	v, ok := Number(s, 10, 32)
	if !ok || v > most {
		n.fail(what, s)
		return 0
	}
	return int(v)
}
