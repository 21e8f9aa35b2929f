package hooks

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"libvirt-direct/internal/link"
	"libvirt-direct/internal/ovs"
	"libvirt-direct/internal/state"
)

// DomainStatus is what we hold for one domain, as the journal says, beside what the
// kernel says.
type DomainStatus struct {
	Name  string    `json:"name"`
	UUID  string    `json:"uuid"`
	Since time.Time `json:"since"`
	Held  []Held    `json:"held"`
	Error string    `json:"error,omitempty"` // the journal cannot be trusted
}

// Held is one step of a domain's journal and what became of it.
type Held struct {
	Step
	Phase state.Phase `json:"phase"`
	// What is the device as it is, nil when it is gone.
	Device *link.Link `json:"device,omitempty"`
	// Difference says how the device is not as the journal has it, "" when it is.
	Difference string `json:"difference,omitempty"`
}

// Status reads all journals and looks up each thing they hold; Open vSwitch's ports only
// if it is given the switch. It takes no locks: a start at work can be seen half-way.
func Status(ctx context.Context, k Kernel, sw Switch, dir *state.Dir) ([]DomainStatus, error) {
	uuids, err := dir.Domains()
	if err != nil {
		return nil, err
	}
	all := []DomainStatus{}
	ports := sync.OnceValues(func() ([]ovs.Owned, error) { return sw.List(ctx) })
	for _, uuid := range uuids {
		j, steps, err := readSteps(dir, uuid)
		if errors.Is(err, state.ErrCorrupt) || errors.Is(err, state.ErrNewer) {
			all = append(all, DomainStatus{UUID: uuid, Held: []Held{}, Error: err.Error()})
			continue
		}
		if err != nil {
			return nil, err
		}
		if j == nil { // it ended just now
			continue
		}
		s := DomainStatus{Name: j.Name, UUID: uuid, Since: j.Since, Held: []Held{}}
		for i, step := range steps {
			h := Held{Step: step, Phase: j.Entries[i].Phase}
			if step.OVSPort != nil && sw != nil {
				h.compareOVS(ports())
			} else if err := h.compare(ctx, k); err != nil {
				return nil, err
			}
			s.Held = append(s.Held, h)
		}
		all = append(all, s)
	}
	return all, nil
}

func (h *Held) compare(ctx context.Context, k Kernel) error {
	var index int
	switch {
	case h.VF != nil:
		return h.compareVF(ctx, k)
	case h.Port != nil:
		return nil // the switch's to say
	case h.VSI != nil:
		return nil // the station's to show
	case h.OVSPort != nil:
		return nil // Open vSwitch's to show
	case h.Tap != nil:
		index = h.Tap.Index
	case h.VLAN != nil:
		index = h.VLAN.Index
	case h.AltName != nil:
		index = h.AltName.Index
	case h.Macvtap != nil:
		index = h.Macvtap.Index
	}
	l, err := k.ByIndex(ctx, index)
	if errors.Is(err, link.ErrNotFound) {
		h.Difference = "gone"
		return nil
	}
	if err != nil {
		return err
	}
	h.Device = &l
	differs := func(what string, want, have any) {
		if h.Difference == "" && want != have {
			h.Difference = fmt.Sprintf("%s is %v, not %v", what, have, want)
		}
	}
	switch {
	case h.VLAN != nil:
		differs("name", h.VLAN.Name, l.Name)
		differs("VLAN", h.VLAN.ID, l.VLANID)
		differs("up", true, l.Up)
	case h.AltName != nil:
		differs("called "+h.AltName.Name, true, l.Called(h.AltName.Name))
	case h.Tap != nil:
		differs("name", h.Tap.Name, l.Name)
		differs("up", true, l.Up)
	case h.Macvtap != nil:
		differs("name", h.Macvtap.Name, l.Name)
		differs("MAC", h.Macvtap.MAC, l.MAC)
		differs("mode", h.Macvtap.Mode, l.Mode)
		differs("allmulticast", h.Macvtap.AllMulti, l.AllMulti)
		differs("up", true, l.Up)
	}
	if h.Phase == state.Intended && h.Difference == "" {
		h.Difference = "the hook was stopped while it was made"
	}
	return nil
}
