package hooks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
)

// ClaimStatus is one claim of a domain's journal, with what the host shows of it.
type ClaimStatus struct {
	Resource string        `json:"resource"`
	UUID     string        `json:"uuid"`
	Name     string        `json:"name,omitempty"`
	NIC      string        `json:"nic,omitempty"`
	Gen      int           `json:"generation,omitempty"`
	Phase    journal.Phase `json:"phase,omitempty"`
	// Holds: no other claim is above it. A shared one always holds.
	Holds bool `json:"holds"`
	// Stale: its guest was started, and the kernel shows no use.
	Stale    bool   `json:"stale,omitempty"`
	Reserved bool   `json:"reserved,omitempty"` // for a start that is about to follow
	Evidence string `json:"evidence,omitempty"` // what the kernel shows of a use
	// Error says why it could not be undone yet, or that the journal cannot be read.
	Error string `json:"error,omitempty"`
}

// AllClaims lists every claim, by resource. It takes no locks.
func AllClaims(ctx context.Context, k step.Kernel, rec Records) ([]ClaimStatus, error) {
	uuids, err := rec.Journal.Domains()
	if err != nil {
		return nil, err
	}
	s := surveyor{Records: rec, kernel: k}
	all := []ClaimStatus{}
	for _, u := range uuids {
		j, steps, err := readSteps(rec.Journal, u)
		if err != nil {
			all = append(all, ClaimStatus{UUID: u, Error: err.Error()})
			continue
		}
		if j == nil { // it ended just now
			continue
		}
		for i, e := range j.Entries {
			c := ClaimStatus{
				Resource: e.Resource, UUID: u, Name: j.Name, NIC: steps[i].NIC, Gen: e.Gen, Phase: e.Phase,
				Holds: true, Reserved: e.Expires != 0, Error: e.Error,
			}
			if !e.Shared {
				claims, err := claimsTo(rec.Journal, e.Resource)
				if err != nil {
					return nil, err
				}
				c.Holds = !claims.Beaten(u, e.Gen)
			}
			if vf, is := steps[i].Kind.(step.OnVF); is {
				dev, err := s.at(ctx, vf.Place())
				if step.Ignore(err, link.ErrNotFound) != nil {
					return nil, err
				}
				c.Evidence, c.Stale = dev.Used, j.Started && dev.Used == ""
			}
			all = append(all, c)
		}
	}
	slices.SortStableFunc(all, func(a, b ClaimStatus) int { return strings.Compare(a.Resource, b.Resource) })
	return all, nil
}

// ErrNoJournal: there is no journal of that domain.
var ErrNoJournal = errors.New("nothing is held for that domain")

// Forget removes a domain's journal, readable or not, and with it all its claims. It
// undoes nothing, and returns what is not put back now.
func Forget(ctx context.Context, dir *journal.Dir, uuid string) (lost []string, err error) {
	if err := dir.Make(); err != nil {
		return nil, err
	}
	unlock, err := dir.Lock(ctx, domainLock(uuid))
	if err != nil {
		return nil, err
	}
	defer unlock()
	_, steps, err := readSteps(dir, uuid)
	switch {
	case errors.Is(err, journal.ErrCorrupt), errors.Is(err, journal.ErrNewer), errors.Is(err, journal.ErrRead):
		lost = []string{fmt.Sprintf("what it was cannot be read: %v", err)}
	case err != nil:
		return nil, err
	case len(steps) == 0:
		return nil, fmt.Errorf("%w: %s", ErrNoJournal, uuid)
	}
	for _, s := range slices.Backward(steps) {
		if text := s.Undoes(); text != "" {
			lost = append(lost, text)
		}
	}
	return lost, dir.Forget(uuid)
}
