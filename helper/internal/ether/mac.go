// Package ether holds the 48-bit MAC address: its one text form, and the address derived for a user.
package ether

import "errors"

// ErrMAC is a text that is not a MAC address, or an address no guest may have.
var ErrMAC = errors.New("not a unicast MAC address of the form 52:54:00:aa:bb:cc")

// MAC is an Ethernet address in transmission order.
type MAC [6]byte

const hexDigits = "0123456789abcdef"

// ParseMAC reads six pairs of hexadecimal digits separated by colons. Group addresses (IEEE 802-2014 §8.2: the least
// significant bit of the first octet) and the null address are refused, since no interface may own them.
func ParseMAC(s string) (MAC, error) {
	var m MAC
	n, err := ParseOctets(s, m[:])
	if err != nil || n != len(m) || m[0]&1 != 0 || m == (MAC{}) {
		return MAC{}, ErrMAC
	}
	return m, nil
}

// ParseOctets reads pairs of hexadecimal digits separated by colons into dst and returns how many there were.
func ParseOctets(s string, dst []byte) (int, error) {
	n := 0
	for len(s) >= 2 && n < len(dst) {
		hi, lo := nibble(s[0]), nibble(s[1])
		if hi < 0 || lo < 0 {
			return 0, ErrMAC
		}
		dst[n] = byte(hi<<4 | lo)
		n++
		s = s[2:]
		if s == "" {
			return n, nil
		}
		if s[0] != ':' {
			return 0, ErrMAC
		}
		s = s[1:]
	}
	return 0, ErrMAC
}

func nibble(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// String is the lower-case colon form.
func (m MAC) String() string {
	b := make([]byte, 0, 17)
	for i, o := range m {
		if i > 0 {
			b = append(b, ':')
		}
		b = append(b, hexDigits[o>>4], hexDigits[o&15])
	}
	return string(b)
}

// Derive is the address that belongs to one user's slot of a profile on one machine: the octet 0x52 (locally
// administered, unicast), then the 40 low bits of h, most significant octet first, where h is the 64-bit FNV-1a hash of
//
//	machine NUL profile NUL uid (decimal) NUL slot (decimal)
//
// after h ^= h>>32, h *= 0x9e3779b97f4a7c15, h ^= h>>32. The text machine is that of /etc/machine-id without its newline.
// The address is stable over reboots and differs between machines, so that users may write it down.
func Derive(machine, profile, uid, slot string) MAC {
	h := uint64(14695981039346656037)
	for i, part := range [...]string{machine, profile, uid, slot} {
		if i > 0 {
			h *= 1099511628211 // the separating NUL: XOR with zero, then multiply
		}
		for j := 0; j < len(part); j++ {
			h = (h ^ uint64(part[j])) * 1099511628211
		}
	}
	h ^= h >> 32
	h *= 0x9e3779b97f4a7c15
	h ^= h >> 32
	return MAC{0x52, byte(h >> 32), byte(h >> 24), byte(h >> 16), byte(h >> 8), byte(h)}
}
