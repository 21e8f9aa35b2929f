package vdp

import (
	"encoding/binary"
	"net"
)

// A MAC is a 48-bit Ethernet address.
type MAC [6]byte

// String returns the address in lower-case colon form.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// Group addresses of IEEE 802.1Q table 8-1.
var (
	// NearestCustomerBridge receives LLDP with the EVB TLV, and ECP of the
	// 2012 edition.
	NearestCustomerBridge = MAC{0x01, 0x80, 0xc2, 0x00, 0x00, 0x00}
	// NearestNonTPMRBridge is accepted for LLDP, never sent to.
	NearestNonTPMRBridge = MAC{0x01, 0x80, 0xc2, 0x00, 0x00, 0x03}
	// NearestBridge receives ECP of the draft, and LLDP of most switches.
	NearestBridge = MAC{0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e}
)

// EtherTypes of the protocols spoken here.
const (
	EtherTypeLLDP     uint16 = 0x88cc
	EtherTypeECP      uint16 = 0x8940 // 2012 edition
	EtherTypeECPDraft uint16 = 0x88b7 // OUI-extended EtherType

	etherType8021Q  = 0x8100
	etherType8021AD = 0x88a8
)

const (
	etherHeaderLen = 14
	minFrameLen    = 60
	maxFrameLen    = 1514 // without FCS; lldpad's buffers hold no more
)

// A Frame is an untagged Ethernet II frame.
type Frame struct {
	Dst, Src  MAC
	EtherType uint16
	Payload   []byte
}

// MarshalBinary returns the frame without FCS, zero-padded to 60 octets.
// A frame longer than 1514 octets is an error.
func (f *Frame) MarshalBinary() ([]byte, error) {
	n := etherHeaderLen + len(f.Payload)
	if n > maxFrameLen {
		return nil, badf(ErrLength, "Ethernet frame of %d octets", n)
	}
	b := make([]byte, 0, max(n, minFrameLen))
	b = append(b, f.Dst[:]...)
	b = append(b, f.Src[:]...)
	b = binary.BigEndian.AppendUint16(b, f.EtherType)
	b = append(b, f.Payload...)
	return b[:cap(b)], nil
}

// UnmarshalBinary reads a frame. Payload aliases b and may end in padding;
// a frame shorter than 60 octets is accepted, because virtual links do not
// pad.
func (f *Frame) UnmarshalBinary(b []byte) error {
	if len(b) < etherHeaderLen {
		return bad("Ethernet frame", ErrTruncated)
	}
	f.Dst, f.Src = MAC(b[0:6]), MAC(b[6:12])
	f.EtherType = binary.BigEndian.Uint16(b[12:14])
	f.Payload = b[14:]
	return nil
}
