package vdp

import "encoding/binary"

// An ECPDU is one unit of the Edge Control Protocol: 802.1Qbg-2012 clause 43
// and the draft's ECP under the OUI-extended EtherType.
type ECPDU struct {
	Edition  Edition
	Ack      bool   // an acknowledgement; otherwise a request
	Subtype  uint16 // Edition2012 only, 10 bits: ECPSubtypeVDP or another; 0 in the draft
	Sequence uint16
	Payload  []byte // upper layer TLVs; empty in an acknowledgement
}

const (
	ecpVersion        = 1
	ecpHeaderLen      = 4
	ecpDraftHeaderLen = 9
)

// ECPSubtypeVDP is the ECP subtype of VDP in the 2012 edition.
const ECPSubtypeVDP = 1

var ouiDraft = [3]byte{0x00, 0x1b, 0x3f}

// MarshalBinary returns the Ethernet payload.
func (p *ECPDU) MarshalBinary() ([]byte, error) {
	switch p.Edition {
	case Edition2012:
		if p.Subtype >= 1<<10 {
			return nil, badf(ErrRange, "ECPDU: subtype %d", p.Subtype)
		}
		h := uint16(ecpVersion)<<12 | p.Subtype
		if p.Ack {
			h |= 1 << 10
		}
		b := make([]byte, 0, ecpHeaderLen+len(p.Payload))
		b = binary.BigEndian.AppendUint16(b, h)
		b = binary.BigEndian.AppendUint16(b, p.Sequence)
		return append(b, p.Payload...), nil
	case EditionDraft:
		if p.Subtype != 0 {
			return nil, badf(ErrRange, "draft ECPDU: subtype %d", p.Subtype)
		}
		b := make([]byte, 0, ecpDraftHeaderLen+len(p.Payload))
		b = append(b, ouiDraft[:]...)
		b = append(b, 0, 0, 0, 0)
		if p.Ack {
			b[6] = 1
		}
		b = binary.BigEndian.AppendUint16(b, p.Sequence)
		return append(b, p.Payload...), nil
	}
	return nil, bad("ECPDU: edition", ErrUnsupported)
}

// UnmarshalECPDU reads the payload of an Ethernet frame of the given edition.
// The result's Payload aliases b and may end in padding; that of an
// acknowledgement is dropped.
func UnmarshalECPDU(ed Edition, b []byte) (*ECPDU, error) {
	p := &ECPDU{Edition: ed}
	switch ed {
	case Edition2012:
		if len(b) < ecpHeaderLen {
			return nil, bad("ECPDU", ErrTruncated)
		}
		h := binary.BigEndian.Uint16(b)
		if v := h >> 12; v != ecpVersion {
			return nil, badf(ErrUnsupported, "ECPDU: version %d", v)
		}
		op := h >> 10 & 3
		if op > 1 {
			return nil, badf(ErrUnsupported, "ECPDU: operation %d", op)
		}
		p.Ack, p.Subtype = op == 1, h&0x3ff
		p.Sequence, p.Payload = binary.BigEndian.Uint16(b[2:]), b[ecpHeaderLen:]
	case EditionDraft:
		if len(b) < ecpDraftHeaderLen {
			return nil, bad("draft ECPDU", ErrTruncated)
		}
		if [3]byte(b) != ouiDraft || b[3] != 0 || b[4] != 0 || b[5] != 0 {
			return nil, bad("draft ECPDU: OUI or subtype", ErrUnsupported)
		}
		if b[6] > 1 {
			return nil, badf(ErrUnsupported, "draft ECPDU: mode %d", b[6])
		}
		p.Ack, p.Sequence, p.Payload = b[6] == 1, binary.BigEndian.Uint16(b[7:]), b[ecpDraftHeaderLen:]
	default:
		return nil, bad("ECPDU: edition", ErrUnsupported)
	}
	if p.Ack {
		p.Payload = nil
	}
	return p, nil
}
