package vdp

import "encoding/binary"

const (
	tlvEnd            = 0
	tlvOrganisational = 127
	maxTLVLen         = 511
)

// appendTLV appends a TLV of LLDP's form, which VDP shares: 7 bits of type, 9
// bits of length.
func appendTLV(b []byte, typ uint8, value []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(typ)<<9|uint16(len(value)))
	return append(b, value...)
}

// eachTLV calls f for each TLV of b until the End TLV, or the end of b where
// there is none: lldpad sends no End TLV in VDP. What follows the End TLV is
// padding and is not looked at.
func eachTLV(what string, b []byte, f func(typ uint8, value []byte) error) error {
	for len(b) > 0 {
		if len(b) == 1 {
			if b[0] == 0 {
				return nil // one octet of padding
			}
			return bad(what, ErrTruncated)
		}
		h := binary.BigEndian.Uint16(b)
		typ, n := uint8(h>>9), int(h&maxTLVLen)
		if typ == tlvEnd {
			if n != 0 {
				return bad(what+": End TLV", ErrLength)
			}
			return nil
		}
		b = b[2:]
		if n > len(b) {
			return badf(ErrTruncated, "%s: TLV of type %d", what, typ)
		}
		if err := f(typ, b[:n:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
