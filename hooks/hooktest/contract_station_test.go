package hooktest

import (
	"errors"
	"testing"

	"libvirt-direct/hooks/step"
	"libvirt-direct/vdp"
)

// errNotYet stands for the hook's.
var errNotYet = errors.New("not yet")

// fakeStation is a StationHost without a station.
type fakeStation struct{ s *Station }

func (h fakeStation) Station() step.Station { return h.s }

func (h fakeStation) Port() string { return "eth0" }

func (h fakeStation) NotYet() error { return errNotYet }

func (h fakeStation) Refuse() { h.s.Refuse = &vdp.RefusedError{Edition: vdp.Edition2012, Status: 1} }

func (h fakeStation) Silence() { h.s.Waiting = 1 }

func (h fakeStation) Held(id vdp.ID) bool { _, held := h.s.VSIs.Held["eth0 "+id.String()]; return held }

func TestStation(t *testing.T) {
	StationContract().Run(t, func(*testing.T) StationHost {
		s := NewStation()
		s.NotYet, s.Ports = errNotYet, []string{"eth0"}
		return fakeStation{s}
	})
}
