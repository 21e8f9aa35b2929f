package hooks

import (
	"context"
	"errors"
	"fmt"

	"libvirt-direct/hooks/step"
	"libvirt-direct/lldpad"
	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
)

// OpenStation connects to the station that runs on this host: vdpd, or else lldpad.
// Without any the error matches step.ErrNoStation.
func OpenStation(ctx context.Context) (step.Station, func(), error) {
	c := control.NewClient("")
	_, err := c.Status(ctx)
	if err == nil {
		return vdpdStation{c.For(control.OwnerHook)}, func() {}, nil
	}
	if !errors.Is(err, control.ErrNoDaemon) {
		return nil, nil, err
	}
	l, err := lldpad.Open(ctx)
	switch {
	case errors.Is(err, lldpad.ErrStalePid):
		return nil, nil, fmt.Errorf("%w: %w", step.ErrNoStation, err)
	case errors.Is(err, lldpad.ErrNoDaemon):
		return nil, nil, step.ErrNoStation
	}
	if err != nil {
		return nil, nil, err
	}
	return lldpadStation{l}, func() { _ = l.Close() }, nil // nothing is left to be lost
}

// notYet makes an error match step.ErrNotYet if it is one of those.
func notYet(err error, those ...error) error {
	for _, e := range those {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w", step.ErrNotYet, err)
		}
	}
	return err
}

// vdpdStation is our own vdpd as a Station.
type vdpdStation struct{ *control.Client }

func (s vdpdStation) Ready(ctx context.Context, port string) error {
	return notYet(s.Client.Ready(ctx, port), vdp.ErrNoLink, vdp.ErrNoEVB)
}

func (s vdpdStation) Associate(ctx context.Context, port string, v vdp.VSI) error {
	_, err := s.Client.Associate(ctx, port, v)
	return err
}

func (s vdpdStation) DeAssociate(ctx context.Context, port string, v vdp.VSI) error {
	return step.Ignore(s.Client.DeAssociate(ctx, port, v.ID), vdp.ErrUnknownVSI)
}

// lldpadStation is lldpad as a Station.
type lldpadStation struct{ *lldpad.Client }

func (s lldpadStation) Ready(ctx context.Context, port string) error {
	r, err := s.Check(ctx, port)
	if err != nil {
		return err
	}
	var last *lldpad.OpError // the switch's answer to an earlier request: the port is ready
	if errors.As(r.Err, &last) {
		return nil
	}
	return notYet(r.Err, lldpad.ErrWaitingForSwitch, lldpad.ErrNoLink)
}

func (s lldpadStation) Associate(ctx context.Context, port string, v vdp.VSI) error {
	_, err := s.Client.Associate(ctx, port, v)
	return err
}

func (s lldpadStation) DeAssociate(ctx context.Context, port string, v vdp.VSI) error {
	return step.Ignore(s.Client.DeAssociate(ctx, port, v), vdp.ErrUnknownVSI)
}
