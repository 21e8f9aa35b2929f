package lldpad

import (
	"errors"
	"fmt"
	"io/fs"

	"libvirt-direct/vdp"
)

// Why lldpad cannot do what it is asked, to be matched with errors.Is. What
// the switch does wrong comes in package vdp's terms: a *vdp.RefusedError,
// vdp.ErrNoAnswer, vdp.ErrBridgeDeassociated.
var (
	// ErrNoDaemon: no lldpad in this network namespace, or one that ended.
	ErrNoDaemon = errors.New("lldpad does not run: systemctl start lldpad")
	// ErrStalePid: nobody listens, and the pid file by which libvirt finds
	// lldpad names a process that is gone, or another program's. It comes with
	// ErrNoDaemon.
	ErrStalePid = errors.New("/run/lldpad.pid is left over")
	// ErrNoReply: lldpad runs and did not answer in time. It has one thread,
	// which sleeps for a second whenever it notifies somebody over rtnetlink.
	ErrNoReply = errors.New("lldpad does not answer")
	// ErrImpostor: the answer came from a process that is not root's. Anybody
	// may bind lldpad's abstract address while lldpad does not run.
	ErrImpostor = errors.New("lldpad's control socket is held by a process that is not root's")
	// ErrPermission: lldpad runs, and this process may not ask it. It matches
	// fs.ErrPermission.
	ErrPermission = fmt.Errorf("lldpad may not be asked: %w", fs.ErrPermission)
	// ErrNoPort: lldpad does not know the interface. It ignores loopback,
	// VLAN, bridge and macvtap devices.
	ErrNoPort = errors.New("lldpad has no such port: it must be a physical NIC, a bond or a veth")
	// ErrPortNotConfigured: 802.1Qbg is not enabled on the port.
	ErrPortNotConfigured = errors.New("802.1Qbg is not enabled on the port in lldpad")
	// ErrNeedsReload: the port is configured, and lldpad still runs another
	// engine on it.
	ErrNeedsReload = errors.New("lldpad's configuration of the port takes effect when lldpad is reloaded")
	// ErrWaitingForSwitch: the port is configured, and the switch has not
	// sent an EVB TLV that agrees to ECP and VDP. What follows in the line
	// says where to look.
	ErrWaitingForSwitch = errors.New("no EVB TLV from the switch yet")
	// ErrNoLink: the port is down or has no carrier.
	ErrNoLink = errors.New("the port has no link")
	// ErrBusy: lldpad is still working on an earlier request for the VSI.
	ErrBusy = errors.New("lldpad is still working on an earlier request for this VSI")
	// ErrConflict: lldpad holds the VSI with other parameters.
	ErrConflict = errors.New("lldpad holds this VSI with other parameters: de-associate it first")
	// ErrRejected: lldpad, not the switch, rejects the request.
	ErrRejected = errors.New("lldpad rejects the request")
	// ErrMalformed: lldpad's answer cannot be read.
	ErrMalformed = errors.New("malformed answer of lldpad")
	// ErrRestarted: lldpad was restarted or went away, and has forgotten all
	// VSIs. Associate them again.
	ErrRestarted = errors.New("lldpad was restarted and has forgotten all VSIs")
	// ErrOverflow: events were lost because they were not taken in time.
	ErrOverflow = errors.New("events were lost")
	// ErrClosed: the client, or the source of events, was closed.
	ErrClosed = errors.New("closed")
)

// errNotRoot is lldpad's own refusal, in the initial user namespace's terms.
var errNotRoot = fmt.Errorf("%w: it takes requests from root only", ErrPermission)

// An OpError says which operation failed on which port, for which VSI.
type OpError struct {
	Op   string // "associate", "check" …
	Port string // interface name; may be empty
	VSI  vdp.ID // zero where the operation is about no VSI
	Err  error
}

func (e *OpError) Error() string {
	s := e.Op
	if e.VSI != (vdp.ID{}) {
		s += " VSI " + e.VSI.String()
	}
	if e.Port != "" {
		s += " on " + e.Port
	}
	return s + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }

// A StatusError is a status of the control socket without a name of its own
// in this package. It matches ErrRejected.
type StatusError struct{ Status uint8 }

func (e *StatusError) Error() string {
	// include/lldpad_status.h, include/qbg_vdp22_cmds.h of openlldp.
	names := map[uint8]string{
		0x01: "failed", 0x04: "invalid command", 0x05: "bad parameters", 0x06: "peer not present",
		0x07: "versions not compatible", 0x08: "not capable", 0x09: "not applicable", 0x0e: "out of memory",
	}
	if n, ok := names[e.Status]; ok {
		return fmt.Sprintf("lldpad rejects the request: %s (%02x)", n, e.Status)
	}
	return fmt.Sprintf("lldpad rejects the request: status %02x", e.Status)
}

// Is reports whether target is ErrRejected.
func (e *StatusError) Is(target error) bool { return target == ErrRejected }

// Statuses with an error of their own.
const (
	statusOK             = 0x00
	statusDeviceNotFound = 0x02
	statusAgentNotFound  = 0x03
	statusInvalid        = 0x04
	statusBadParams      = 0x05
	statusNotApplicable  = 0x09
	statusNoAccess       = 0x0a
	statusNoEVB          = 0x0d
	statusBusy           = 0x0f
)

func statusError(status uint8) error {
	switch status {
	case statusOK:
		return nil
	case statusDeviceNotFound, statusAgentNotFound:
		return ErrNoPort
	case statusNoAccess:
		return errNotRoot
	case statusNoEVB:
		return ErrPortNotConfigured
	case statusBusy:
		return ErrBusy
	}
	return &StatusError{Status: status}
}
