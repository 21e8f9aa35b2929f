package vdp

import (
	"encoding/binary"
	"time"
)

const (
	evbLen      = 9
	evbDraftLen = 13
)

// An EVBRole is the side that an EVB TLV of the 2012 edition speaks for.
type EVBRole uint8

// Roles.
const (
	RoleBridge  EVBRole = 1
	RoleStation EVBRole = 2
)

// Reflective relay as the station sees it, EVB.RRStatus.
const (
	RRDisabled uint8 = 0
	RREnabled  uint8 = 1
	RRUnknown  uint8 = 3
)

// An EVB is the value of the EVB TLV of 802.1Qbg-2012, D.2.13. Each side fills
// in its own part and echoes the other's. Exponents stand for 10 µs times two
// to their power.
type EVB struct {
	BridgeGroupID bool // bridge can use group ids
	RRCapable     bool // bridge can reflect
	RRControl     bool // bridge reflects

	StationGroupID bool // station can use group ids
	RRRequest      bool // station asks for reflective relay
	RRStatus       uint8

	Retries uint8 // R, 0..7: ECP retransmissions
	RTE     uint8 // 0..31: ECP acknowledgement timeout
	Role    EVBRole
	// ROLResource and ROLKeepalive say that the remote's value, not a
	// local one, is in use.
	ROLResource  bool
	RWD          uint8 // 0..31: how long the bridge may take to answer
	ROLKeepalive bool
	RKA          uint8 // 0..31: keepalive interval
}

var ouiEVB = [4]byte{0x00, 0x80, 0xc2, 0x0d} // OUI and subtype

// MarshalBinary returns the TLV's value, 9 octets from the OUI on.
func (e *EVB) MarshalBinary() ([]byte, error) {
	if e.RRStatus > 3 || e.Retries > 7 || e.RTE > 31 || e.RWD > 31 || e.RKA > 31 || e.Role > RoleStation {
		return nil, bad("EVB TLV", ErrRange)
	}
	return append(ouiEVB[:len(ouiEVB):len(ouiEVB)],
		bit(e.BridgeGroupID, 2)|bit(e.RRCapable, 1)|bit(e.RRControl, 0),
		bit(e.StationGroupID, 3)|bit(e.RRRequest, 2)|e.RRStatus,
		e.Retries<<5|e.RTE,
		uint8(e.Role)<<6|bit(e.ROLResource, 5)|e.RWD,
		bit(e.ROLKeepalive, 5)|e.RKA), nil
}

// UnmarshalBinary reads the TLV's value from the OUI on. Reserved bits are
// ignored, and octets past the ninth, which a later edition may add.
func (e *EVB) UnmarshalBinary(b []byte) error {
	if len(b) < evbLen {
		return bad("EVB TLV", ErrLength)
	}
	if [4]byte(b) != ouiEVB {
		return bad("EVB TLV: OUI or subtype", ErrUnsupported)
	}
	role := EVBRole(b[7] >> 6)
	if role > RoleStation {
		return badf(ErrRange, "EVB TLV: role %d", role)
	}
	*e = EVB{
		BridgeGroupID: b[4]&4 != 0, RRCapable: b[4]&2 != 0, RRControl: b[4]&1 != 0,
		StationGroupID: b[5]&8 != 0, RRRequest: b[5]&4 != 0, RRStatus: b[5] & 3,
		Retries: b[6] >> 5, RTE: b[6] & 31,
		Role: role, ROLResource: b[7]&0x20 != 0, RWD: b[7] & 31,
		ROLKeepalive: b[8]&0x20 != 0, RKA: b[8] & 31,
	}
	return nil
}

// Forwarding modes of the draft's EVB TLV.
const (
	ForwardStandard   uint8 = 0x80
	ForwardReflective uint8 = 0x40
)

// Capabilities of the draft's EVB TLV.
const (
	CapRTE uint8 = 0x04
	CapECP uint8 = 0x02
	CapVDP uint8 = 0x01
)

// An EVBDraft is the value of the EVB TLV of draft 0.2.
type EVBDraft struct {
	SupportedForwarding   uint8
	SupportedCapabilities uint8
	Forwarding            uint8 // configured
	Capabilities          uint8 // configured
	SupportedVSIs         uint16
	VSIs                  uint16 // configured
	RTE                   uint8  // exponent as in EVB; ECP of the draft does not use it
}

var ouiEVBDraft = [4]byte{0x00, 0x1b, 0x3f, 0x00} // OUI and subtype

// MarshalBinary returns the TLV's value, 13 octets from the OUI on.
func (e *EVBDraft) MarshalBinary() ([]byte, error) {
	if e.RTE > 31 {
		return nil, bad("draft EVB TLV: RTE", ErrRange)
	}
	b := append(ouiEVBDraft[:len(ouiEVBDraft):len(ouiEVBDraft)],
		e.SupportedForwarding, e.SupportedCapabilities, e.Forwarding, e.Capabilities)
	b = binary.BigEndian.AppendUint16(b, e.SupportedVSIs)
	b = binary.BigEndian.AppendUint16(b, e.VSIs)
	return append(b, e.RTE), nil
}

// UnmarshalBinary reads the TLV's value from the OUI on. Octets past the 13th are
// ignored.
func (e *EVBDraft) UnmarshalBinary(b []byte) error {
	if len(b) < evbDraftLen {
		return bad("draft EVB TLV", ErrLength)
	}
	if [4]byte(b) != ouiEVBDraft {
		return bad("draft EVB TLV: OUI or subtype", ErrUnsupported)
	}
	if b[12] > 31 {
		return badf(ErrRange, "draft EVB TLV: RTE %d", b[12])
	}
	*e = EVBDraft{
		SupportedForwarding: b[4], SupportedCapabilities: b[5], Forwarding: b[6], Capabilities: b[7],
		SupportedVSIs: binary.BigEndian.Uint16(b[8:]), VSIs: binary.BigEndian.Uint16(b[10:]), RTE: b[12],
	}
	return nil
}

// SpeaksVDP reports whether a bridge that sends this TLV offers the protocol.
func (e *EVBDraft) SpeaksVDP() bool {
	const need = CapECP | CapVDP
	return e.SupportedForwarding&(ForwardStandard|ForwardReflective) != 0 && e.SupportedCapabilities&need == need
}

func bit(b bool, n uint) uint8 {
	if b {
		return 1 << n
	}
	return 0
}

// exponent is the time that an EVB exponent stands for.
func exponent(e uint8) time.Duration { return 10 * time.Microsecond << (e & 31) }
