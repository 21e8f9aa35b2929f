package vdp

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// An Edition is one of the two protocols called 802.1Qbg.
type Edition uint8

// Editions. EditionAuto, as configuration, is "the one the switch speaks".
const (
	EditionAuto  Edition = iota
	EditionDraft         // 802.1Qbg draft 0.2
	Edition2012          // IEEE 802.1Qbg-2012
)

func (e Edition) String() string {
	switch e {
	case EditionAuto:
		return "auto"
	case EditionDraft:
		return "draft"
	case Edition2012:
		return "2012"
	}
	return fmt.Sprintf("edition %d", uint8(e))
}

// ParseEdition reads what String writes for the three editions.
func ParseEdition(s string) (Edition, error) {
	for e := EditionAuto; e <= Edition2012; e++ {
		if s == e.String() {
			return e, nil
		}
	}
	return 0, badf(ErrRange, "edition %q is none of auto, draft, 2012", s)
}

// A Mode is what a VDP TLV asks for. The values are the 2012 TLV types; the
// draft's are one less.
type Mode uint8

// Modes; the zero Mode is none of them.
const (
	PreAssociate   Mode = 1 // check, reserve nothing
	PreAssociateRR Mode = 2 // check and reserve resources
	Associate      Mode = 3
	DeAssociate    Mode = 4
)

func (m Mode) String() string {
	switch m {
	case 0:
		return "none"
	case PreAssociate:
		return "preassociate"
	case PreAssociateRR:
		return "preassociate-rr"
	case Associate:
		return "associate"
	case DeAssociate:
		return "deassociate"
	}
	return fmt.Sprintf("mode %d", uint8(m))
}

// ParseMode reads what String writes for the four modes.
func ParseMode(s string) (Mode, error) {
	for m := PreAssociate; m <= DeAssociate; m++ {
		if s == m.String() {
			return m, nil
		}
	}
	return 0, badf(ErrRange, "mode %q", s)
}

// A Status is the status or response octet of a VDP TLV as it is on the wire.
// In requests of the 2012 edition bits 4 and 5 are migration hints.
type Status uint8

// Bits of the octet in answers of the 2012 edition (802.1Qbg-2012 41.2.3).
// The low four bits are the reason; the draft has nothing but a reason.
const (
	StatusHard Status = 0x10 // the request fails again if it is repeated
	StatusKeep Status = 0x20 // the VSI stays in the state it had before
	StatusAck  Status = 0x40 // set in every answer

	statusReason Status = 0x0f
)

// Reasons of both editions. From 3 on they differ.
const (
	ReasonSuccess       Status = 0
	ReasonInvalidFormat Status = 1
	ReasonNoResources   Status = 2

	ReasonNoManager     Status = 3 // 2012: no contact with the VSI manager
	ReasonOther         Status = 4 // 2012
	ReasonInvalidFilter Status = 5 // 2012: invalid VID, GroupID or MAC

	ReasonDraftUnusedVTID       Status = 3 // draft: unknown VSI type
	ReasonDraftVTIDViolation    Status = 4
	ReasonDraftVersionViolation Status = 5
	ReasonDraftOutOfSync        Status = 6
)

// Reason returns the low four bits.
func (s Status) Reason() Status { return s & statusReason }

func (s Status) reason(ed Edition) string {
	names := [...]string{"success", "invalid format", "insufficient resources",
		"unable to contact the VSI manager", "other failure", "invalid VID, group or MAC address"}
	if ed == EditionDraft {
		names = [...]string{"success", "invalid format", "insufficient resources",
			"unused VSI type id", "VSI type id violation", "VSI type version violation"}
		if s.Reason() == ReasonDraftOutOfSync {
			return "out of sync"
		}
	}
	if r := int(s.Reason()); r < len(names) {
		return names[r]
	}
	return fmt.Sprintf("reason %d", s.Reason())
}

// An IDFormat says how the 16 octets of a VSI id are to be read.
type IDFormat uint8

// Formats of the 2012 edition. The draft has UUIDs only.
const (
	IDIPv4  IDFormat = 1
	IDIPv6  IDFormat = 2
	IDMAC   IDFormat = 3
	IDLocal IDFormat = 4
	IDUUID  IDFormat = 5
)

// An ID names a VSI: libvirt's instanceid, normally.
type ID struct {
	Format IDFormat
	Octets [16]byte
}

// UUID returns the ID of the UUID with these octets.
func UUID(u [16]byte) ID { return ID{Format: IDUUID, Octets: u} }

// ParseUUID reads 32 hexadecimal digits with or without the usual dashes.
func ParseUUID(s string) (ID, error) {
	h := s
	if len(s) == 36 && s[8] == '-' && s[13] == '-' && s[18] == '-' && s[23] == '-' {
		h = strings.ReplaceAll(s, "-", "")
	}
	id := ID{Format: IDUUID}
	if len(h) != 32 {
		return ID{}, badf(ErrRange, "UUID %q", s)
	}
	if _, err := hex.Decode(id.Octets[:], []byte(h)); err != nil {
		return ID{}, badf(ErrRange, "UUID %q", s)
	}
	return id, nil
}

func (id ID) String() string {
	var b [36]byte
	o := id.Octets[:]
	hex.Encode(b[:], o[:4])
	hex.Encode(b[9:], o[4:6])
	hex.Encode(b[14:], o[6:8])
	hex.Encode(b[19:], o[8:10])
	hex.Encode(b[24:], o[10:])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	s := string(b[:])
	if id.Format != IDUUID {
		return fmt.Sprintf("%d:%s", id.Format, s)
	}
	return s
}

func (id ID) compare(o ID) int {
	return cmp.Or(cmp.Compare(id.Format, o.Format), bytes.Compare(id.Octets[:], o.Octets[:]))
}

// A ManagerID is the VSI manager id: 16 octets in the 2012 edition, of which
// the draft knows the first.
type ManagerID [16]byte

// A FilterFormat says which fields of a VSI's filters count.
type FilterFormat uint8

// Filter formats of the 2012 edition. The draft is spoken with MAC/VID only.
const (
	FilterVID         FilterFormat = 1
	FilterMACVID      FilterFormat = 2
	FilterGroupVID    FilterFormat = 3
	FilterGroupMACVID FilterFormat = 4
)

// size is the length of one entry in octets, 0 for an unknown format.
func (f FilterFormat) size() int {
	switch f {
	case FilterVID:
		return 2
	case FilterMACVID:
		return 8
	case FilterGroupVID:
		return 6
	case FilterGroupMACVID:
		return 12
	}
	return 0
}

func (f FilterFormat) hasMAC() bool   { return f == FilterMACVID || f == FilterGroupMACVID }
func (f FilterFormat) hasGroup() bool { return f == FilterGroupVID || f == FilterGroupMACVID }

// A Filter says which of the frames on the uplink are the VSI's.
// Fields that the VSI's FilterFormat leaves out are zero.
type Filter struct {
	Group uint32
	MAC   MAC
	VID   uint16 // 1..4094, or 0: the bridge chooses
	// PCPValid is the PS bit: PCP is significant. Edition2012 only.
	PCPValid bool
	PCP      uint8 // 0..7; ignored without PCPValid
}

const (
	maxTypeID   = 1<<24 - 1
	reservedVID = 4095
)

// A VSI is a virtual station interface as VDP describes it.
type VSI struct {
	ID           ID
	Manager      ManagerID
	TypeID       uint32 // 24 bits
	TypeVersion  uint8
	FilterFormat FilterFormat
	Filters      []Filter // at least one
}

// MaxFilters returns how many filters of a format fit into one TLV, 0 where
// the edition does not know the format.
func MaxFilters(ed Edition, f FilterFormat) int {
	switch {
	case f.size() == 0:
		return 0
	case ed == EditionDraft && f != FilterMACVID:
		return 0
	case ed == EditionDraft:
		return (maxTLVLen - draftTLVFixedLen) / f.size()
	}
	return (maxTLVLen - vsiTLVFixedLen) / f.size()
}

// Validate reports whether the VSI can be expressed in an edition; with
// EditionAuto, in the 2012 edition, which can express whatever the draft can.
// The error is a *FormatError.
func (v *VSI) Validate(ed Edition) error {
	if v.TypeID > maxTypeID {
		return badf(ErrRange, "VSI %v: type id %#x has more than 24 bits", v.ID, v.TypeID)
	}
	if v.ID.Format < IDIPv4 || v.ID.Format > IDUUID {
		return badf(ErrRange, "VSI %v: id format", v.ID)
	}
	if ed == EditionDraft {
		if v.ID.Format != IDUUID {
			return badf(ErrRange, "VSI %v: the draft knows UUIDs only", v.ID)
		}
		if v.Manager != (ManagerID{v.Manager[0]}) {
			return badf(ErrRange, "VSI %v: the draft's manager id has one octet", v.ID)
		}
	}
	switch n := MaxFilters(ed, v.FilterFormat); {
	case n == 0:
		return badf(ErrRange, "VSI %v: filter format %d", v.ID, v.FilterFormat)
	case len(v.Filters) == 0 || len(v.Filters) > n:
		return badf(ErrLength, "VSI %v: %d filters, want 1 to %d", v.ID, len(v.Filters), n)
	}
	for _, f := range v.Filters {
		switch {
		case f.VID >= reservedVID:
			return badf(ErrRange, "VSI %v: VID %d", v.ID, f.VID)
		case f.PCP > 7, ed == EditionDraft && (f.PCPValid || f.PCP != 0):
			return badf(ErrRange, "VSI %v: PCP %d", v.ID, f.PCP)
		case !v.FilterFormat.hasMAC() && f.MAC != MAC{}, !v.FilterFormat.hasGroup() && f.Group != 0:
			return badf(ErrRange, "VSI %v: filter has fields that its format leaves out", v.ID)
		}
	}
	return nil
}

// Equal reports whether two VSIs are the same in every field.
func (v *VSI) Equal(w *VSI) bool { return v.sameType(w) && slices.Equal(v.Filters, w.Filters) }

// sameType compares everything but the filters, which is how an answer is
// matched with its request.
func (v *VSI) sameType(w *VSI) bool {
	return v.ID == w.ID && v.Manager == w.Manager && v.TypeID == w.TypeID &&
		v.TypeVersion == w.TypeVersion && v.FilterFormat == w.FilterFormat
}

func (v VSI) clone() VSI {
	v.Filters = slices.Clone(v.Filters)
	return v
}
