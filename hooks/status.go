package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"

	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/ovs"
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
	step.Step
	// Observed is what the host shows of it.
	step.Observed
}

// MarshalJSON writes the step as a journal has it, and beside that "phase", and where there
// is one the "device" as it is and the "difference".
func (h Held) MarshalJSON() ([]byte, error) {
	of, err := json.Marshal(h.Step)
	if err != nil {
		return nil, err
	}
	seen, err := json.Marshal(struct {
		Phase      journal.Phase `json:"phase"`
		Device     *link.Link    `json:"device,omitempty"`
		Difference string        `json:"difference,omitempty"`
	}{h.Phase, h.Device, h.Difference})
	if err != nil {
		return nil, err
	}
	return slices.Concat(of[:len(of)-1], []byte(","), seen[1:]), nil
}

// Status reads all journals and looks up each thing they hold; Open vSwitch's ports only
// if it is given the switch. It takes no locks: a start at work can be seen half-way.
func Status(ctx context.Context, k step.Kernel, sw step.Switch, dir *journal.Dir) ([]DomainStatus, error) {
	uuids, err := dir.Domains()
	if err != nil {
		return nil, err
	}
	all := []DomainStatus{}
	var ports func() ([]ovs.Owned, error)
	if sw != nil {
		ports = sync.OnceValues(func() ([]ovs.Owned, error) { return sw.List(ctx) })
	}
	for _, uuid := range uuids {
		j, steps, err := readSteps(dir, uuid)
		if errors.Is(err, journal.ErrCorrupt) || errors.Is(err, journal.ErrNewer) {
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
		for i, of := range steps {
			h := Held{of, step.Observed{Phase: j.Entries[i].Phase, Ports: ports}}
			if err := of.Observe(ctx, k, &h.Observed); err != nil {
				return nil, err
			}
			s.Held = append(s.Held, h)
		}
		all = append(all, s)
	}
	return all, nil
}
