package hooktest

import (
	"context"
	"fmt"
	"slices"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
)

// VSIs are a station's, as the switch knows them.
type VSIs struct {
	// Absent is the error of a station that does not run, nil for one that does.
	Absent error
	// Ports are the station's. With nil it has each that it is asked for.
	Ports []string
	// Waiting is how often the switch is not ready yet, and NotYet the error that says so.
	Waiting int
	NotYet  error
	// Refuse is the switch's answer to an association, nil for yes.
	Refuse error
	// Held are the associated VSIs by port and ID, "eth0 09b11c53-…".
	Held map[string]vdp.VSI
}

// Station is a connection to VSIs, as vdpd's or lldpad's client is one to a station.
type Station struct {
	*VSIs
	Gate Gate
}

// NewStation is a station that runs.
func NewStation() *Station { return &Station{VSIs: &VSIs{Held: map[string]vdp.VSI{}}} }

// With is another connection to the same station.
func (s *Station) With(g Gate) *Station { return &Station{VSIs: s.VSIs, Gate: g} }

func (s *Station) at(p Point) error {
	if s.Gate == nil {
		return nil
	}
	return s.Gate(p)
}

func (s *Station) has(port string) error {
	if s.Ports != nil && !slices.Contains(s.Ports, port) {
		return fmt.Errorf("%w: %s", control.ErrUnknownUplink, port)
	}
	return nil
}

// Ready says whether the switch has agreed to EVB.
func (s *Station) Ready(_ context.Context, port string) error {
	if err := s.at(Point{Op: "ask for EVB", What: port}); err != nil {
		return err
	}
	if err := s.has(port); err != nil {
		return err
	}
	if s.Waiting > 0 {
		s.Waiting--
		return s.NotYet
	}
	return nil
}

func (s *Station) change(op, port string, do func() error) error {
	if err := s.at(Point{Op: op, What: port, Change: true}); err != nil {
		return err
	}
	err := do()
	_ = s.at(Point{Op: op, What: port, Change: true, After: true})
	return err
}

// Associate asks the switch for a VSI.
func (s *Station) Associate(_ context.Context, port string, v vdp.VSI) error {
	return s.change("associate VSI", port, func() error {
		if err := s.has(port); err != nil {
			return err
		}
		if s.Refuse != nil {
			return s.Refuse
		}
		s.Held[port+" "+v.ID.String()] = v
		return nil
	})
}

// DeAssociate takes it back; one that is not there is no error.
func (s *Station) DeAssociate(_ context.Context, port string, v vdp.VSI) error {
	return s.change("de-associate VSI", port, func() error {
		delete(s.Held, port+" "+v.ID.String())
		return nil
	})
}
