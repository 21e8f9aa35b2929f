package vdp

import (
	"errors"
	"fmt"
)

// Causes of a [FormatError], to be matched with errors.Is.
var (
	// ErrTruncated: the input ends before a field or TLV does.
	ErrTruncated = errors.New("truncated")
	// ErrLength: a length contradicts what it describes, or a value is too
	// large for the field, TLV or frame that must hold it.
	ErrLength = errors.New("wrong length")
	// ErrOrder: a mandatory TLV is missing, repeated or out of place.
	ErrOrder = errors.New("TLV missing, repeated or out of order")
	// ErrRange: a field has a value that its edition does not allow.
	ErrRange = errors.New("value out of range")
	// ErrUnsupported: well formed as far as can be seen, but of an edition,
	// version, OUI or subtype that this package does not speak.
	ErrUnsupported = errors.New("not supported")
)

// Why a [Station] refuses a frame or a command, or reports a VSI as failed or
// lost; to be matched with errors.Is.
var (
	// ErrNotForUs: the frame is our own, or not to the group address of its
	// protocol.
	ErrNotForUs = errors.New("frame is not for this station")
	// ErrEcho: this host has sent the frame.
	ErrEcho = errors.New("frame was sent by this host")
	// ErrDeaf: this host may have sent the frame. See Station.Opened and Missed.
	ErrDeaf = errors.New("frame may have been sent by this host: not all that left the uplink was seen")
	// ErrForeign: an LLDPDU or ECPDU of somebody who is not the switch.
	ErrForeign = errors.New("frame is not the switch's: if it is, name its address under neighbor in vdpd.toml")
	// ErrConflict: an LLDPDU with an EVB TLV of another agent than the switch.
	ErrConflict = errors.New("a second neighbor offers EVB")
	// ErrStray: an answer or de-associate for a VSI that is not known, or
	// that no request is waiting for. Bridges send them after a restart of
	// either side, and lldpad after each de-associate.
	ErrStray = errors.New("stray VDP message")
	// ErrUnknownVSI: no VSI with that id.
	ErrUnknownVSI = errors.New("unknown VSI")
	// ErrTooMany: the station already has Config.MaxVSIs.
	ErrTooMany = errors.New("too many VSIs")
	// ErrDowngrade: an associated VSI was asked to pre-associate.
	ErrDowngrade = errors.New("VSI is associated: de-associate it before pre-associating")
	// ErrNoLink: the uplink is down.
	ErrNoLink = errors.New("uplink is down")
	// ErrNoEVB: the switch has not sent an EVB TLV with ECP and VDP. Why, the
	// station cannot tell.
	ErrNoEVB = errors.New("no EVB TLV from the switch")
	// ErrNoAnswer: the switch did not answer in time.
	ErrNoAnswer = errors.New("the switch does not answer VDP requests")
	// ErrBridgeDeassociated: the switch de-associated the VSI by itself.
	ErrBridgeDeassociated = errors.New("de-associated by the switch")
	// ErrEditionChanged: the switch now speaks the other edition.
	ErrEditionChanged = errors.New("the switch changed its 802.1Qbg edition")
	// ErrNoGroups: a VSI has group ids, and not both sides use them.
	ErrNoGroups = errors.New("switch and vdpd.toml (group_ids) have not agreed on group ids")
	// ErrFilterMismatch: the answer's filter is not the requested one.
	ErrFilterMismatch = errors.New("the switch answered with another filter")
)

// A FormatError says which part of which frame or value is bad.
type FormatError struct {
	What string // such as "ECPDU" or "VDP TLV: filter"
	Err  error  // one of the causes above
}

func (e *FormatError) Error() string { return fmt.Sprintf("%s: %v", e.What, e.Err) }

// Unwrap returns the cause.
func (e *FormatError) Unwrap() error { return e.Err }

func bad(what string, cause error) error { return &FormatError{What: what, Err: cause} }

func badf(cause error, format string, args ...any) error {
	return &FormatError{What: fmt.Sprintf(format, args...), Err: cause}
}

// A RefusedError is the switch's negative answer to a request.
type RefusedError struct {
	Edition Edition
	Status  Status
}

func (e *RefusedError) Error() string {
	s := "refused by the switch: " + e.Status.reason(e.Edition)
	if e.Edition == Edition2012 && e.Status&StatusHard != 0 {
		s += " (permanent)"
	}
	return s
}
