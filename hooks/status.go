package hooks

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

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
	Step
	Phase journal.Phase `json:"phase"`
	// What is the device as it is, nil when it is gone.
	Device *link.Link `json:"device,omitempty"`
	// Difference says how the device is not as the journal has it, "" when it is.
	Difference string `json:"difference,omitempty"`

	// ports are Open vSwitch's, if it is to be asked.
	ports func() (owned []ovs.Owned, asked bool, err error)
}

// Status reads all journals and looks up each thing they hold; Open vSwitch's ports only
// if it is given the switch. It takes no locks: a start at work can be seen half-way.
func Status(ctx context.Context, k Kernel, sw Switch, dir *journal.Dir) ([]DomainStatus, error) {
	uuids, err := dir.Domains()
	if err != nil {
		return nil, err
	}
	all := []DomainStatus{}
	list := sync.OnceValues(func() ([]ovs.Owned, error) { return sw.List(ctx) })
	ports := func() (owned []ovs.Owned, asked bool, err error) {
		if sw == nil {
			return nil, false, nil
		}
		owned, err = list()
		return owned, true, err
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
		for i, step := range steps {
			h := Held{Step: step, Phase: j.Entries[i].Phase, ports: ports}
			if err := step.kind().compare(ctx, k, &h); err != nil {
				return nil, err
			}
			s.Held = append(s.Held, h)
		}
		all = append(all, s)
	}
	return all, nil
}

// halfMade is the difference of what an operation was making when it was killed.
const halfMade = "the hook was stopped while it was made"

// differ notes that something is not as it should be.
type differ func(what string, want, have any)

// compareDevice looks a device up and lets f compare it.
func (h *Held) compareDevice(ctx context.Context, k Kernel, index int, f func(l link.Link, differs differ)) error {
	l, err := k.ByIndex(ctx, index)
	if errors.Is(err, link.ErrNotFound) {
		h.Difference = "gone"
		return nil
	}
	if err != nil {
		return err
	}
	h.Device = &l
	f(l, func(what string, want, have any) {
		if h.Difference == "" && want != have {
			h.Difference = fmt.Sprintf("%s is %v, not %v", what, have, want)
		}
	})
	if h.Phase == journal.Intended && h.Difference == "" {
		h.Difference = halfMade
	}
	return nil
}
