package link

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// PCIAddress is a PCI function's name on the bus, "0000:03:00.0". A domain has 32 bits: cards
// behind a host bridge that firmware does not number, as Intel's VMD, have "10000:01:00.0".
func PCIAddress(domain uint32, bus, slot, function uint8) string {
	return fmt.Sprintf("%04x:%02x:%02x.%x", domain, bus, slot, function)
}

var pciAddress = regexp.MustCompile(`^([0-9a-f]{4,8}):([0-9a-f]{2}:[01][0-9a-f]\.[0-7])$`)

// ParsePCIAddress returns a PCI function's name as the kernel writes it, and whether the text
// is one at all: in upper case, or with more leading zeros than the kernel's, it is.
func ParsePCIAddress(text string) (address string, ok bool) {
	m := pciAddress.FindStringSubmatch(strings.ToLower(text))
	if m == nil {
		return "", false
	}
	domain, err := strconv.ParseUint(m[1], 16, 32)
	return fmt.Sprintf("%04x:%s", domain, m[2]), err == nil
}
