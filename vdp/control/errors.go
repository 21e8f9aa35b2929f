package control

import (
	"errors"
	"fmt"
	"io/fs"

	"libvirt-direct/vdp"
)

// Why vdpd cannot be asked or refuses, beside the errors of package vdp and
// *vdp.RefusedError; to be matched with errors.Is.
var (
	// ErrNoDaemon: nobody listens at the socket.
	ErrNoDaemon = errors.New("vdpd does not run: systemctl start vdpd")
	// ErrPermission matches fs.ErrPermission.
	ErrPermission = fmt.Errorf("vdpd takes requests from root and its control_group: %w", fs.ErrPermission)
	// ErrBadRequest: a request that is not as the package comment says.
	ErrBadRequest = errors.New("bad request")
	// ErrUnknownUplink: vdpd has no such uplink in its configuration.
	ErrUnknownUplink = errors.New("not an uplink of vdpd: add it to vdpd.toml")
	// ErrNoInterface: the uplink's interface does not exist, or did not when
	// it was last needed.
	ErrNoInterface = errors.New("no such interface")
	// ErrBond: several slaves of a bond are in use at a time, and the switch ports
	// behind them are several.
	ErrBond = errors.New("a bond that uses several slaves at once: set mode active-backup, or use the slaves without the bond as uplinks")
	// ErrTimeout: the switch's answer did not come in time; the request
	// goes on.
	ErrTimeout = errors.New("no result in time; vdpd goes on trying")
	// ErrOverflow: a subscriber did not take its events, or there are too
	// many connections.
	ErrOverflow = errors.New("too many events or connections waiting")
	// ErrMalformed: vdpd's answer cannot be read.
	ErrMalformed = errors.New("malformed answer of vdpd")
)

// codes name the errors on the wire.
var codes = []struct {
	code string
	err  error
}{
	{"permission", ErrPermission}, {"bad-request", ErrBadRequest}, {"unknown-uplink", ErrUnknownUplink},
	{"no-interface", ErrNoInterface}, {"bond", ErrBond}, {"timeout", ErrTimeout}, {"overflow", ErrOverflow},
	{"unknown-vsi", vdp.ErrUnknownVSI}, {"too-many", vdp.ErrTooMany}, {"downgrade", vdp.ErrDowngrade},
	{"no-link", vdp.ErrNoLink}, {"no-evb", vdp.ErrNoEVB}, {"no-answer", vdp.ErrNoAnswer},
	{"deassociated", vdp.ErrBridgeDeassociated}, {"edition-changed", vdp.ErrEditionChanged},
	{"filter-mismatch", vdp.ErrFilterMismatch}, {"no-groups", vdp.ErrNoGroups},
	{"invalid", vdp.ErrRange}, {"invalid", vdp.ErrLength},
}

const (
	codeRefused = "refused"
	codeOther   = "failed"
)

// An Error is an error on the wire. It wraps what its code stands for.
type Error struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	// Of code "refused": the octet of the switch's answer, and how to read it.
	Edition string     `json:"edition,omitempty"`
	Status  vdp.Status `json:"status,omitempty"`
}

func (e *Error) Error() string { return e.Message }

// Unwrap returns the error that the code stands for, nil for other codes.
func (e *Error) Unwrap() error {
	if e.Code == codeRefused {
		ed, err := vdp.ParseEdition(e.Edition)
		if err != nil {
			return nil
		}
		return &vdp.RefusedError{Edition: ed, Status: e.Status}
	}
	for _, c := range codes {
		if c.code == e.Code {
			return c.err
		}
	}
	return nil
}

// NewError returns the wire's form of an error, nil for nil.
func NewError(err error) *Error {
	if err == nil {
		return nil
	}
	e := &Error{Code: codeOther, Message: err.Error()}
	var refused *vdp.RefusedError
	if errors.As(err, &refused) {
		e.Code, e.Edition, e.Status = codeRefused, refused.Edition.String(), refused.Status
		return e
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			e.Code = c.code
			break
		}
	}
	return e
}

// An OpError says which operation failed, on which uplink, for which VSI.
type OpError struct {
	Op     string
	Uplink string // may be empty
	VSI    vdp.ID // zero where the operation is about no VSI
	Err    error
}

func (e *OpError) Error() string {
	s := e.Op
	if e.VSI != (vdp.ID{}) {
		s += " VSI " + e.VSI.String()
	}
	if e.Uplink != "" {
		s += " on " + e.Uplink
	}
	return s + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }
