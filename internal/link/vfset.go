package link

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"libvirt-direct/internal/poll"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// How long a driver may take until a read shows what it has acknowledged, and how
// long undoing a half-done SetVF may take once the caller's time is up.
const (
	settleTime   = 3 * time.Second
	carrierTime  = 5 * time.Second // how long a PF's link may take to come up
	rollBackTime = 2 * time.Second
)

// VFError says which attribute of which VF could not be read or set, and whose
// driver it was.
type VFError struct {
	PF     string
	VF     int
	Driver string // "" where the kernel does not say
	Attr   string // an Attr… constant, or "" for the VF as a whole
	Value  string
	Err    error
}

func (e *VFError) Error() string {
	who := fmt.Sprintf("VF %d of %s", e.VF, e.PF)
	if e.Driver != "" {
		who += " (driver " + e.Driver + ")"
	}
	if e.Attr == "" {
		return fmt.Sprintf("%s: %v", who, e.Err)
	}
	return fmt.Sprintf("%s: set %s to %s: %v", who, e.Attr, e.Value, e.Err)
}

// Unwrap returns the cause, which matches ErrVFRefused, ErrVFIgnored, ErrNoVF or
// another of this package's errors, and the errno.
func (e *VFError) Unwrap() error { return e.Err }

// mapVFErrno is mapErrno for what drivers say.
func mapVFErrno(err error) error {
	for _, errno := range []unix.Errno{unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.EINVAL, unix.ERANGE, unix.EPERM} {
		if errors.Is(err, errno) {
			return fmt.Errorf("%w: %w", ErrVFRefused, err)
		}
	}
	return mapErrno(err)
}

// VFs returns how many VFs a PF has and what its driver says of them, by number. The
// driver may leave some out, or say nothing at all (enic). It asks for no statistics:
// with them a reply cannot hold 200 VFs, since a netlink attribute has at most 64 KiB.
func (c *Conn) VFs(ctx context.Context, pf Link) (count int, vfs []VF, err error) {
	b, err := c.withVFs(ctx, pf)
	if err == nil {
		if vfs, err = parseVFs(b); err == nil {
			count, err = parseNumVF(b)
		}
	}
	if err != nil {
		return 0, nil, &OpError{Op: "read the VFs of", Link: pf.Name, Err: mapErrno(err)}
	}
	return count, vfs, nil
}

// Spoofers returns the VFs of a PF that can send from addresses that are not theirs.
func (c *Conn) Spoofers(ctx context.Context, pf Link) ([]VF, error) {
	_, vfs, err := c.VFs(ctx, pf)
	return slices.DeleteFunc(vfs, func(vf VF) bool { return vf.Spoofs() == "" }), err
}

func (c *Conn) withVFs(ctx context.Context, pf Link) ([]byte, error) {
	req := message(unix.RTM_GETLINK, 0, pf.Index)
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(nl.RTEXT_FILTER_VF|filterSkipStats)))
	b, err := c.exchange(ctx, req)
	if err == nil && len(b) < unix.SizeofIfInfomsg {
		err = fmt.Errorf("%w: %d octets", ErrMalformed, len(b))
	}
	return b, err
}

func parseNumVF(b []byte) (n int, err error) {
	err = EachAttr(b[unix.SizeofIfInfomsg:], func(typ uint16, v []byte) error {
		var err error
		if typ == unix.IFLA_NUM_VF {
			n, err = u32(v)
		}
		return err
	})
	return n, err
}

// VF returns what a PF's driver says of one VF. Where it says nothing the settings
// are empty. A VF that is not there is an error matching ErrNoVF.
func (c *Conn) VF(ctx context.Context, pf Link, number int) (VF, error) {
	count, vfs, err := c.VFs(ctx, pf)
	if err != nil {
		return VF{}, err
	}
	for _, vf := range vfs {
		if vf.Number == number {
			return vf, nil
		}
	}
	if number < 0 || number >= count {
		return VF{}, &VFError{PF: pf.Name, VF: number, Err: fmt.Errorf("%w: it has %d", ErrNoVF, count)}
	}
	return VF{Number: number}, nil
}

// SetVF gives a VF the values that want sets, and leaves its other attributes alone.
// It writes only what the driver does not show already, one attribute after the
// other in the order of VFAttrs, since one message with several is not atomic. A
// write is repeated while the driver says EBUSY or EAGAIN, until ctx ends, and read
// again until the driver shows it, three seconds at most.
//
// An attribute in optional that the driver refuses becomes a warning. Any other
// failure undoes the attributes written before it, as far as the driver lets it, and
// is a *VFError.
func (c *Conn) SetVF(ctx context.Context, pf Link, number int, want VFSettings, optional ...string) (warnings []error, err error) {
	if err := want.Check(); err != nil {
		return nil, &VFError{PF: pf.Name, VF: number, Err: err}
	}
	before, err := c.VF(ctx, pf, number)
	if err != nil {
		return nil, err
	}
	s := vfSetter{c: c, pf: pf, number: number, now: before.VFSettings}
	for _, attr := range VFAttrs() {
		if !slices.Contains(s.now.Differ(want), attr) {
			continue
		}
		err := s.write(ctx, attr, want)
		if err == nil {
			s.written = append(s.written, attr)
			continue
		}
		if slices.Contains(optional, attr) && (errors.Is(err, ErrVFRefused) || errors.Is(err, ErrVFIgnored)) {
			warnings = append(warnings, err)
			want = want.Only(func(a string) bool { return a != attr })
			continue
		}
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollBackTime)
		defer cancel()
		return warnings, errors.Join(err, s.rollBack(undo, attr, before.VFSettings))
	}
	return warnings, nil
}

// RestoreVF gives a VF attributes back, each for itself: what the driver refuses keeps no
// other from being set, and nothing is undone. choose is told what the driver shows, and
// returns what to set. The error joins a *VFError for each attribute that could not be; a
// VF that is not there is one matching ErrNoVF.
func (c *Conn) RestoreVF(ctx context.Context, pf Link, number int, choose func(now VFSettings) VFSettings) error {
	before, err := c.VF(ctx, pf, number)
	if err != nil {
		return err
	}
	want := choose(before.VFSettings)
	if err := want.Check(); err != nil {
		return &VFError{PF: pf.Name, VF: number, Err: err}
	}
	s := vfSetter{c: c, pf: pf, number: number, now: before.VFSettings}
	var errs []error
	for _, attr := range VFAttrs() {
		if slices.Contains(s.now.Differ(want), attr) {
			errs = append(errs, s.write(ctx, attr, want))
		}
	}
	return errors.Join(errs...)
}

// vfSetter is one SetVF at work.
type vfSetter struct {
	c       *Conn
	pf      Link
	number  int
	now     VFSettings // as last read
	written []string
}

func (s *vfSetter) write(ctx context.Context, attr string, want VFSettings) error {
	value, _ := want.Value(attr)
	fail := func(err error) error {
		return &VFError{PF: s.pf.Name, VF: s.number, Driver: s.c.Driver(s.pf.Name), Attr: attr, Value: value, Err: mapVFErrno(err)}
	}
	body, err := vfAttr(s.number, attr, want, s.now)
	if err != nil {
		return fail(err)
	}
	req := message(unix.RTM_SETLINK, unix.NLM_F_ACK, s.pf.Index)
	req.AddData(vfList(body))
	err = s.c.retryBusy(ctx, req)
	if errors.Is(err, unix.EINVAL) && rated(attr) && s.carrier(ctx) {
		err = s.c.retryBusy(ctx, req)
	}
	if err != nil {
		return fail(err)
	}
	settle, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	var have string
	err = poll.Backoff(settle, time.Millisecond, 100*time.Millisecond, func() (bool, error) {
		vf, err := s.c.VF(ctx, s.pf, s.number)
		if err != nil {
			return false, err
		}
		var said bool
		s.now = vf.VFSettings
		have, said = s.now.Value(attr)
		return !said || have == value, nil
	})
	if errors.Is(err, poll.ErrGaveUp) {
		return fail(fmt.Errorf("%w: it shows %s", ErrVFIgnored, have))
	}
	return err
}

// carrier waits for the PF's link, whose speed is what drivers measure a rate against:
// until it is there they refuse any. It reports whether the link came up meanwhile.
func (s *vfSetter) carrier(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, carrierTime)
	defer cancel()
	looks, came := 0, false
	// No carrier in time is an answer, too.
	_ = poll.Until(ctx, 50*time.Millisecond, func() (bool, error) {
		looks++
		pf, err := s.c.ByIndex(ctx, s.pf.Index)
		if err != nil || !pf.Up {
			return true, nil // it will have none
		}
		came = pf.Carrier && looks > 1
		return pf.Carrier, nil
	})
	return came
}

// rollBack puts back what was written, last first, and the attribute that failed if
// it was changed all the same.
func (s *vfSetter) rollBack(ctx context.Context, failed string, before VFSettings) error {
	var errs []error
	attrs := append(slices.Clone(s.written), failed)
	slices.Reverse(attrs)
	if vf, err := s.c.VF(ctx, s.pf, s.number); err == nil {
		s.now = vf.VFSettings
	}
	for _, attr := range attrs {
		if !slices.Contains(s.now.Differ(before), attr) {
			continue
		}
		if err := s.write(ctx, attr, before); err != nil {
			errs = append(errs, fmt.Errorf("undo: %w", err))
		}
	}
	return errors.Join(errs...)
}

// vfList wraps one VF's attribute as IFLA_VFINFO_LIST { IFLA_VF_INFO { … } }.
func vfList(body *nl.RtAttr) *nl.RtAttr {
	list := nl.NewRtAttr(unix.IFLA_VFINFO_LIST|unix.NLA_F_NESTED, nil)
	list.AddRtAttr(nl.IFLA_VF_INFO|unix.NLA_F_NESTED, nil).AddChild(body)
	return list
}

// vfAttr is one attribute as the kernel takes it.
func vfAttr(number int, attr string, want, now VFSettings) (*nl.RtAttr, error) {
	for _, a := range vfTable {
		if a.Name == attr {
			return a.build(number, want, now)
		}
	}
	return nil, fmt.Errorf("unknown attribute %q", attr)
}

// rated reports whether a driver measures an attribute against the speed of its link.
func rated(attr string) bool {
	return slices.ContainsFunc(vfTable, func(a VFAttribute) bool { return a.rated && a.Name == attr })
}
