package link

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"libvirt-direct/internal/poll"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Errors of 802.1Qbh port profiles.
var (
	// ErrPortRefused: the switch, or the driver for it, refused the association.
	ErrPortRefused = errors.New("port profile refused")
	// ErrPortSilent: the switch has not decided within the deadline.
	ErrPortSilent = errors.New("the switch has not answered")
)

// SelfPort stands in place of a VF's number for the device's own port
// (PORT_SELF_VF).
const SelfPort = -1

// PortRequest is what is asked of the switch (enum port_request in
// include/uapi/linux/if_link.h).
type PortRequest uint8

// The requests that 802.1Qbh has. PREASSOCIATE (0) is of 802.1Qbg alone.
const (
	PortPreassociateRR PortRequest = 1
	PortAssociate      PortRequest = 2
	PortDisassociate   PortRequest = 3
)

func (r PortRequest) String() string {
	switch r {
	case PortPreassociateRR:
		return "pre-associate"
	case PortAssociate:
		return "associate"
	case PortDisassociate:
		return "disassociate"
	}
	return fmt.Sprintf("request %d", uint8(r))
}

// PortResponse is how far a request has come (PORT_VDP_RESPONSE_… and
// PORT_PROFILE_RESPONSE_… of include/uapi/linux/if_link.h).
type PortResponse uint16

// The responses that end a wait well, and the one that goes on with it.
const (
	PortVDPSuccess PortResponse = 0
	PortSuccess    PortResponse = 0x100
	PortInProgress PortResponse = 0x101
)

func (r PortResponse) String() string {
	switch r {
	case PortVDPSuccess, PortSuccess:
		return "success"
	case PortInProgress:
		return "in progress"
	case 1:
		return "the switch found the request's format invalid"
	case 2, 0x104:
		return "the switch lacks resources for the profile"
	case 3:
		return "the VTID is unused"
	case 4:
		return "the VTID is violated"
	case 5:
		return "the VTID's version is violated"
	case 6:
		return "switch and station are out of sync"
	case 0x102:
		return "the switch does not know the profile, or not for this port"
	case 0x103:
		return "the port is not in a state for this request"
	case 0x105:
		return "error in the switch"
	}
	return fmt.Sprintf("response %#x", uint16(r))
}

// portProfileMax is PORT_PROFILE_MAX: the profile's name with its closing NUL.
const portProfileMax = 40

// Port is a port profile request.
type Port struct {
	VF      int    // the VF's number, or SelfPort
	Profile string // at most 39 octets; none for PortDisassociate
	// Instance is the guest's UUID, Host the hypervisor's; a Host of zeros is this
	// machine's.
	Instance, Host [16]byte
	// MAC is the guest's, which the switch must know before the association; only
	// for a VF. "" leaves the VF's alone.
	MAC string
}

// PortStatus is what the driver says of a port.
type PortStatus struct {
	VF       int
	Profile  string
	Instance [16]byte
	Request  PortRequest
	Response PortResponse
	Answered bool // it has a response
}

// PortError says whose port profile could not be set.
type PortError struct {
	Device   string
	VF       int // SelfPort for the device's own port
	Driver   string
	Request  PortRequest
	Profile  string
	Response PortResponse // with ErrPortRefused by the switch; 0 otherwise
	Err      error
}

func (e *PortError) Error() string {
	who := e.Device
	if e.VF != SelfPort {
		who = fmt.Sprintf("VF %d of %s", e.VF, e.Device)
	}
	if e.Driver != "" {
		who += " (driver " + e.Driver + ")"
	}
	what := e.Request.String()
	if e.Profile != "" {
		what += fmt.Sprintf(" with port profile %q", e.Profile)
	}
	return fmt.Sprintf("%s %s: %v", who, what, e.Err)
}

// Unwrap returns the cause: ErrPortRefused, ErrPortSilent, an errno.
func (e *PortError) Unwrap() error { return e.Err }

// portAttr is the request as the kernel takes it: IFLA_VF_PORTS { IFLA_VF_PORT { … } },
// or IFLA_PORT_SELF { … }.
//
// The profile is padded with NULs to PORT_PROFILE_MAX: enic demands exactly that length
// since 2024 (Linux commit "enic: Validate length of nl attributes in
// enic_set_vf_port", in stable kernels too), and refuses a name that just ends in its
// NUL, which is what libvirt sends.
func portAttr(request PortRequest, p Port) (*nl.RtAttr, error) {
	if len(p.Profile) >= portProfileMax || strings.ContainsRune(p.Profile, 0) || p.Profile == "" && request != PortDisassociate {
		return nil, fmt.Errorf("profile %q: want 1 to %d octets", p.Profile, portProfileMax-1)
	}
	outer := nl.NewRtAttr(unix.IFLA_PORT_SELF|unix.NLA_F_NESTED, nil)
	body := outer
	if p.VF != SelfPort {
		outer = nl.NewRtAttr(unix.IFLA_VF_PORTS|unix.NLA_F_NESTED, nil)
		body = outer.AddRtAttr(unix.IFLA_VF_PORT|unix.NLA_F_NESTED, nil)
		body.AddRtAttr(unix.IFLA_PORT_VF, nl.Uint32Attr(uint32(p.VF)))
	}
	body.AddRtAttr(unix.IFLA_PORT_REQUEST, []byte{byte(request)})
	if request != PortDisassociate {
		padded := make([]byte, portProfileMax)
		copy(padded, p.Profile)
		body.AddRtAttr(unix.IFLA_PORT_PROFILE, padded)
		body.AddRtAttr(unix.IFLA_PORT_INSTANCE_UUID, p.Instance[:])
		body.AddRtAttr(unix.IFLA_PORT_HOST_UUID, p.Host[:])
	}
	return outer, nil
}

// portMessage is the whole RTM_SETLINK. The guest's MAC travels in it, before the
// port: rtnetlink goes by that order.
func portMessage(index int, request PortRequest, p Port) (*nl.NetlinkRequest, error) {
	port, err := portAttr(request, p)
	if err != nil {
		return nil, err
	}
	req := message(unix.RTM_SETLINK, unix.NLM_F_ACK, index)
	if p.MAC != "" && p.VF != SelfPort && request != PortDisassociate {
		mac, err := vfAttr(p.VF, AttrMAC, VFSettings{MAC: &p.MAC}, VFSettings{})
		if err != nil {
			return nil, err
		}
		req.AddData(vfList(mac))
	}
	req.AddData(port)
	return req, nil
}

// AssociatePort asks the switch for a port profile and waits until it has answered,
// or ctx ends. request is PortAssociate or PortPreassociateRR. After any failure it
// sends a PortDisassociate, since the request may still be at work in the switch. The
// error is a *PortError.
func (c *Conn) AssociatePort(ctx context.Context, dev Link, request PortRequest, p Port) error {
	fail := func(err error) *PortError {
		return &PortError{Device: dev.Name, VF: p.VF, Driver: c.Driver(dev.Name), Request: request, Profile: p.Profile, Err: err}
	}
	if p.Host == [16]byte{} {
		p.Host = sys.hostUUID("/etc/machine-id")
	}
	req, err := portMessage(dev.Index, request, p)
	if err != nil {
		return fail(err)
	}
	if err = c.retryBusy(ctx, req); err == nil {
		var last PortResponse
		if last, err = c.awaitPort(ctx, dev, p); err == nil {
			return nil
		}
		failure := fail(err)
		failure.Response = last
		err = failure
	} else {
		err = fail(mapPortErrno(err))
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollBackTime)
	defer cancel()
	if undoErr := c.DisassociatePort(undo, dev, p.VF); undoErr != nil && !errors.Is(undoErr, ErrPortRefused) {
		return errors.Join(err, undoErr)
	}
	return err
}

// hostUUID returns the machine's UUID as its firmware has it, which is also libvirt's
// host UUID unless that is configured, or else its machine ID (machine-id(5)).
func (s sysfs) hostUUID(machineID string) (uuid [16]byte) {
	for _, file := range []string{filepath.Join(string(s), "class/dmi/id/product_uuid"), machineID} {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		b, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(text)), "-", ""))
		if err == nil && len(b) == len(uuid) {
			copy(uuid[:], b)
			return uuid
		}
	}
	return uuid
}

// DisassociatePort gives a port up. The kernel has the driver's answer at once; no
// driver reports on one later.
func (c *Conn) DisassociatePort(ctx context.Context, dev Link, vf int) error {
	p := Port{VF: vf}
	req, err := portMessage(dev.Index, PortDisassociate, p)
	if err == nil {
		err = c.retryBusy(ctx, req)
	}
	if err != nil {
		return &PortError{Device: dev.Name, VF: vf, Driver: c.Driver(dev.Name), Request: PortDisassociate, Err: mapPortErrno(err)}
	}
	return nil
}

func mapPortErrno(err error) error {
	for _, errno := range []unix.Errno{unix.EOPNOTSUPP, unix.EINVAL} {
		if errors.Is(err, errno) {
			return fmt.Errorf("%w by the driver: %w", ErrPortRefused, err)
		}
	}
	return mapErrno(err)
}

// awaitPort reads the port until the switch has decided.
func (c *Conn) awaitPort(ctx context.Context, dev Link, p Port) (PortResponse, error) {
	var s PortStatus
	err := poll.Backoff(ctx, 5*time.Millisecond, 125*time.Millisecond, func() (done bool, err error) {
		s, err = c.Port(ctx, dev, p.VF)
		switch {
		case errors.Is(err, errNoPort): // the driver has nothing to say yet
			return false, nil
		case err != nil:
			return false, err
		case s.Instance != p.Instance || !s.Answered: // still about the port's last guest
			return false, nil
		case s.Response == PortSuccess || s.Response == PortVDPSuccess:
			return true, nil
		case s.Response != PortInProgress:
			return false, fmt.Errorf("%w: %s (%#x)", ErrPortRefused, s.Response, uint16(s.Response))
		}
		return false, nil
	})
	if errors.Is(err, poll.ErrGaveUp) {
		err = fmt.Errorf("%w: %w", ErrPortSilent, context.DeadlineExceeded)
	}
	return s.Response, err
}

// errNoPort: the driver reports nothing of a port.
var errNoPort = errors.New("the driver reports no port profile")

// Port reads what a driver says of a VF's port, or of its own.
func (c *Conn) Port(ctx context.Context, dev Link, vf int) (PortStatus, error) {
	b, err := c.withVFs(ctx, dev)
	var ports []PortStatus
	if err == nil {
		ports, err = parsePorts(b)
	}
	if err != nil {
		return PortStatus{}, &OpError{Op: "read the port profile of", Link: dev.Name, Err: mapErrno(err)}
	}
	for _, p := range ports {
		if p.VF == vf {
			return p, nil
		}
	}
	return PortStatus{}, &OpError{Op: "read the port profile of", Link: dev.Name, Err: errNoPort}
}

// parsePorts reads IFLA_VF_PORTS and IFLA_PORT_SELF of an RTM_NEWLINK payload.
func parsePorts(b []byte) ([]PortStatus, error) {
	if len(b) < unix.SizeofIfInfomsg {
		return nil, fmt.Errorf("%w: %d octets", ErrMalformed, len(b))
	}
	var ports []PortStatus
	add := func(v []byte) error {
		p, err := parsePort(v)
		if err == nil {
			ports = append(ports, p)
		}
		return err
	}
	err := EachAttr(b[unix.SizeofIfInfomsg:], func(typ uint16, v []byte) error {
		switch typ {
		case unix.IFLA_PORT_SELF:
			return add(v)
		case unix.IFLA_VF_PORTS:
			return EachAttr(v, func(typ uint16, v []byte) error {
				if typ != unix.IFLA_VF_PORT {
					return nil
				}
				return add(v)
			})
		}
		return nil
	})
	return ports, err
}

func parsePort(b []byte) (PortStatus, error) {
	p := PortStatus{VF: SelfPort}
	err := EachAttr(b, func(typ uint16, v []byte) error {
		var err error
		switch typ {
		case unix.IFLA_PORT_VF:
			p.VF, err = u32(v)
		case unix.IFLA_PORT_PROFILE:
			p.Profile = cstring(v)
		case unix.IFLA_PORT_INSTANCE_UUID:
			if len(v) != len(p.Instance) {
				return fmt.Errorf("%w: UUID of %d octets", ErrMalformed, len(v))
			}
			copy(p.Instance[:], v)
		case unix.IFLA_PORT_REQUEST: // u8 on the way in, u16 on the way out
			if len(v) == 0 {
				return fmt.Errorf("%w: empty port request", ErrMalformed)
			}
			if len(v) >= 2 {
				p.Request = PortRequest(binary.NativeEndian.Uint16(v))
			} else {
				p.Request = PortRequest(v[0])
			}
		case unix.IFLA_PORT_RESPONSE:
			if len(v) != 2 {
				return fmt.Errorf("%w: port response of %d octets", ErrMalformed, len(v))
			}
			p.Response, p.Answered = PortResponse(binary.NativeEndian.Uint16(v)), true
		}
		return err
	})
	return p, err
}
