package vdp

import (
	"encoding/binary"
	"slices"
)

// An LLDPDU is as much of an IEEE 802.1AB frame as EVB needs. Other TLVs are
// checked for form and dropped.
type LLDPDU struct {
	Chassis []byte // chassis id: subtype and 1 to 255 octets
	Port    []byte // port id: likewise
	TTL     uint16 // seconds; 0 says goodbye
	EVB     *EVB
	Draft   *EVBDraft
}

const (
	tlvChassis = 1
	tlvPort    = 2
	tlvTTL     = 3
)

// MarshalBinary returns the Ethernet payload.
func (p *LLDPDU) MarshalBinary() ([]byte, error) {
	if !validLLDPID(p.Chassis) || !validLLDPID(p.Port) {
		return nil, bad("LLDPDU: chassis or port id", ErrLength)
	}
	b := appendTLV(nil, tlvChassis, p.Chassis)
	b = appendTLV(b, tlvPort, p.Port)
	b = appendTLV(b, tlvTTL, binary.BigEndian.AppendUint16(nil, p.TTL))
	if p.EVB != nil {
		v, err := p.EVB.MarshalBinary()
		if err != nil {
			return nil, err
		}
		b = appendTLV(b, tlvOrganisational, v)
	}
	if p.Draft != nil {
		v, err := p.Draft.MarshalBinary()
		if err != nil {
			return nil, err
		}
		b = appendTLV(b, tlvOrganisational, v)
	}
	return append(b, 0, 0), nil
}

// UnmarshalBinary reads the payload of an Ethernet frame. The fields do not
// alias b. Chassis id, port id and TTL must come first and once each; octets of
// the TTL TLV past the second are ignored, as 802.1AB asks. An EVB TLV that is
// not understood is passed over like a foreign one; of several the first counts.
func (p *LLDPDU) UnmarshalBinary(b []byte) error {
	var d LLDPDU
	i := uint8(0)
	err := eachTLV("LLDPDU", b, func(typ uint8, v []byte) error {
		i = min(i+1, tlvTTL+1)
		if want := i; want <= tlvTTL && typ != want || want > tlvTTL && typ <= tlvTTL {
			return badf(ErrOrder, "LLDPDU: TLV type %d", typ)
		}
		switch typ {
		case tlvChassis, tlvPort:
			if !validLLDPID(v) {
				return bad("LLDPDU: chassis or port id", ErrLength)
			}
			if typ == tlvChassis {
				d.Chassis = slices.Clone(v)
			} else {
				d.Port = slices.Clone(v)
			}
		case tlvTTL:
			if len(v) < 2 {
				return bad("LLDPDU: TTL", ErrLength)
			}
			d.TTL = binary.BigEndian.Uint16(v)
		case tlvOrganisational:
			d.organisational(v)
		}
		return nil
	})
	if err == nil && i < tlvTTL {
		err = bad("LLDPDU", ErrTruncated)
	}
	if err != nil {
		return err
	}
	*p = d
	return nil
}

func (p *LLDPDU) organisational(v []byte) {
	var (
		evb   EVB
		draft EVBDraft
	)
	switch {
	case p.EVB == nil && evb.UnmarshalBinary(v) == nil:
		p.EVB = &evb
	case p.Draft == nil && draft.UnmarshalBinary(v) == nil:
		p.Draft = &draft
	}
}

func validLLDPID(b []byte) bool { return len(b) >= 2 && len(b) <= 256 }
