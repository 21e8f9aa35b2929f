package vdp

import "encoding/binary"

const (
	tlvManager       = 5
	vsiTLVFixedLen   = 25 // 2012: up to the first filter
	draftTLVFixedLen = 30

	vdpSubtypeDraft  = 2
	draftMaxMode     = 3
	draftMaxResponse = 6
)

// A Message is one VDP TLV: a request or an answer about one VSI.
type Message struct {
	Mode   Mode
	Status Status
	VSI    VSI
}

// Answer reports whether m answers a request. The draft does not tell an
// answer from a request, so there it is true for all but a plain
// de-associate, which may be either.
func (m *Message) Answer(ed Edition) bool {
	if ed == Edition2012 {
		return m.Status&StatusAck != 0
	}
	return m.Mode != DeAssociate || m.Status != 0
}

// MarshalMessages returns the payload of an ECPDU: the messages in order and
// an End TLV. In the 2012 edition, where the payload has one manager id, all
// messages must share it.
func MarshalMessages(ed Edition, msgs []Message) ([]byte, error) {
	var b []byte
	for i := range msgs {
		m := &msgs[i]
		if err := m.validate(ed); err != nil {
			return nil, err
		}
		if ed == Edition2012 {
			if i == 0 {
				b = appendTLV(b, tlvManager, m.VSI.Manager[:])
			} else if m.VSI.Manager != msgs[0].VSI.Manager {
				return nil, bad("VDP: several VSI managers in one ECPDU", ErrOrder)
			}
			b = appendTLV(b, uint8(m.Mode), m.appendValue(nil))
		} else {
			b = appendTLV(b, tlvOrganisational, m.appendDraftValue(nil))
		}
	}
	return append(b, 0, 0), nil
}

func (m *Message) validate(ed Edition) error {
	if m.Mode < PreAssociate || m.Mode > DeAssociate {
		return badf(ErrRange, "VDP TLV: %v", m.Mode)
	}
	switch ed {
	case Edition2012:
	case EditionDraft:
		if m.Status > draftMaxResponse {
			return badf(ErrRange, "VDP TLV: response %d", m.Status)
		}
	default:
		return bad("VDP TLV: edition", ErrUnsupported)
	}
	return m.VSI.Validate(ed)
}

// wireLen is the length of the TLV in octets, header included.
func (m *Message) wireLen(ed Edition) int {
	n := 2 + vsiTLVFixedLen
	if ed == EditionDraft {
		n = 2 + draftTLVFixedLen
	}
	return n + len(m.VSI.Filters)*m.VSI.FilterFormat.size()
}

func (m *Message) appendValue(b []byte) []byte {
	v := &m.VSI
	b = append(b, byte(m.Status), byte(v.TypeID>>16), byte(v.TypeID>>8), byte(v.TypeID), v.TypeVersion, byte(v.ID.Format))
	b = append(b, v.ID.Octets[:]...)
	return appendFilters(b, v)
}

func (m *Message) appendDraftValue(b []byte) []byte {
	v := &m.VSI
	b = append(b, ouiDraft[:]...)
	b = append(b, vdpSubtypeDraft, byte(m.Mode-1), byte(m.Status), v.Manager[0],
		byte(v.TypeID>>16), byte(v.TypeID>>8), byte(v.TypeID), v.TypeVersion)
	b = append(b, v.ID.Octets[:]...)
	return appendFilters(b, v)
}

// appendFilters appends format, count and entries, the same in both editions
// because the draft's MAC/VID is format 2 as well.
func appendFilters(b []byte, v *VSI) []byte {
	b = append(b, byte(v.FilterFormat))
	b = binary.BigEndian.AppendUint16(b, uint16(len(v.Filters)))
	for _, f := range v.Filters {
		if v.FilterFormat.hasGroup() {
			b = binary.BigEndian.AppendUint32(b, f.Group)
		}
		if v.FilterFormat.hasMAC() {
			b = append(b, f.MAC[:]...)
		}
		vid := f.VID | uint16(f.PCP)<<12
		if f.PCPValid {
			vid |= 1 << 15
		}
		b = binary.BigEndian.AppendUint16(b, vid)
	}
	return b
}

// UnmarshalMessages reads the payload of an ECPDU. A payload without any VDP
// TLV, as lldpad sends at its start, is valid and gives none; TLVs of other
// organisations and types that the edition does not know are passed over; a
// malformed VDP TLV rejects the whole payload.
func UnmarshalMessages(ed Edition, b []byte) ([]Message, error) {
	switch ed {
	case Edition2012:
		return unmarshal2012(b)
	case EditionDraft:
		return unmarshalDraft(b)
	}
	return nil, bad("VDP: edition", ErrUnsupported)
}

func unmarshal2012(b []byte) ([]Message, error) {
	var (
		msgs    []Message
		manager *ManagerID
	)
	err := eachTLV("VDP", b, func(typ uint8, v []byte) error {
		switch {
		case typ == tlvManager:
			if manager != nil {
				return bad("VDP: VSI manager TLV", ErrOrder)
			}
			if len(v) != len(manager) {
				return bad("VDP: VSI manager TLV", ErrLength)
			}
			id := ManagerID(v)
			manager = &id
			return nil
		case typ > uint8(DeAssociate):
			return nil
		case manager == nil:
			return bad("VDP: VSI TLV before the VSI manager TLV", ErrOrder)
		case len(v) < vsiTLVFixedLen:
			return bad("VDP: VSI TLV", ErrLength)
		}
		m := Message{Mode: Mode(typ), Status: Status(v[0])}
		m.VSI = VSI{
			ID:          ID{Format: IDFormat(v[5]), Octets: [16]byte(v[6:22])},
			Manager:     *manager,
			TypeID:      uint32(v[1])<<16 | uint32(v[2])<<8 | uint32(v[3]),
			TypeVersion: v[4],
		}
		if err := m.VSI.readFilters(v[22:]); err != nil {
			return err
		}
		msgs = append(msgs, m)
		return m.validate(Edition2012)
	})
	if err != nil {
		return nil, err
	}
	return msgs, nil
}

func unmarshalDraft(b []byte) ([]Message, error) {
	var msgs []Message
	err := eachTLV("VDP", b, func(typ uint8, v []byte) error {
		if typ != tlvOrganisational || len(v) < 4 || [3]byte(v) != ouiDraft || v[3] != vdpSubtypeDraft {
			return nil
		}
		if len(v) < draftTLVFixedLen {
			return bad("VDP TLV", ErrLength)
		}
		if v[4] > draftMaxMode {
			return badf(ErrRange, "VDP TLV: mode %d", v[4])
		}
		m := Message{Mode: Mode(v[4] + 1), Status: Status(v[5])}
		m.VSI = VSI{
			ID:          UUID([16]byte(v[11:27])),
			Manager:     ManagerID{v[6]},
			TypeID:      uint32(v[7])<<16 | uint32(v[8])<<8 | uint32(v[9]),
			TypeVersion: v[10],
		}
		if err := m.VSI.readFilters(v[27:]); err != nil {
			return err
		}
		msgs = append(msgs, m)
		return m.validate(EditionDraft)
	})
	if err != nil {
		return nil, err
	}
	return msgs, nil
}

func (v *VSI) readFilters(b []byte) error {
	v.FilterFormat = FilterFormat(b[0])
	size, n := v.FilterFormat.size(), int(binary.BigEndian.Uint16(b[1:]))
	b = b[3:]
	if size == 0 {
		return badf(ErrUnsupported, "VDP TLV: filter format %d", v.FilterFormat)
	}
	if n*size != len(b) {
		return badf(ErrLength, "VDP TLV: %d filters in %d octets", n, len(b))
	}
	v.Filters = make([]Filter, n)
	for i := range v.Filters {
		f := &v.Filters[i]
		if v.FilterFormat.hasGroup() {
			f.Group, b = binary.BigEndian.Uint32(b), b[4:]
		}
		if v.FilterFormat.hasMAC() {
			f.MAC, b = MAC(b), b[6:]
		}
		vid := binary.BigEndian.Uint16(b)
		f.VID, f.PCP, f.PCPValid = vid&0xfff, uint8(vid>>12&7), vid>>15 != 0
		b = b[2:]
	}
	return nil
}
