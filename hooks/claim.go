package hooks

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"libvirt-direct/internal/journal"
)

// claimsLock is held from the look at who has what to the writing of a claim. It is the
// last of the locks: the domain's, one resource's, this.
const claimsLock = "claims"

// reservationTime is how long what migrate or restore has chosen is kept for the start
// that follows at once, if it follows.
const reservationTime = 2 * time.Minute

// withClaims runs f under the claims lock.
func (a *applier) withClaims(ctx context.Context, f func() error) error {
	unlock, err := a.dir.Lock(ctx, claimsLock)
	if err != nil {
		return err
	}
	defer unlock()
	return f()
}

// claim writes, in one change of the journal, that the domain has what the steps are
// about, before anything is done for them. It is called under the claims lock, with
// steps that were planned from what was seen under it.
//
// What a stale claim stands on is taken over with that claim's debt: what the VF was
// before stays owed, as an entry that is intended, and is put back before anything is set. With end not
// zero the claims are reservations.
func (a *applier) claim(steps []Step, end time.Duration) error {
	for _, s := range steps {
		resource, shared := s.resource()
		if resource == "" {
			continue
		}
		if i := a.index(s.key()); i >= 0 && a.dir.Expired(a.journal.Entries[i]) {
			a.forget(s.key()) // somebody else can have had it since
		}
		if i := a.index(s.key()); i >= 0 {
			e := &a.journal.Entries[i]
			if e.Phase != journal.Planned || e.Expires == 0 {
				continue // the guest's already, or left by its last life: doing it again finds it
			}
			if err := a.encode(s, e); err != nil {
				return err
			}
			e.Expires = end
			a.steps[i] = s
			a.claimed = append(a.claimed, s.key())
			continue
		}
		e := journal.Entry{Resource: resource, Shared: shared, Phase: journal.Planned, Expires: end}
		if !shared {
			claims, err := claimsTo(a.dir, resource)
			if err != nil {
				return err
			}
			e.Gen = claims.Highest() + 1
			if holder, held := claims.Holder(a.journal.UUID); held {
				if s, e.Phase, err = s.takeOver(holder); err != nil {
					return &NICError{Domain: a.journal.Name, NIC: "NIC " + s.NIC, Err: err}
				}
				if e.Phase != journal.Planned && end != 0 {
					continue // a debt is not reserved: the start will find it as it is
				}
			}
		}
		if err := a.encode(s, &e); err != nil {
			return err
		}
		a.steps, a.journal.Entries = append(a.steps, s), append(a.journal.Entries, e)
		a.claimed = append(a.claimed, s.key())
	}
	if len(a.journal.Entries) == 0 && a.journal.Version == 0 {
		return nil // there was no journal, and nothing asks for one
	}
	return a.dir.Save(a.journal)
}

func (a *applier) encode(s Step, e *journal.Entry) (err error) {
	e.Step, err = json.Marshal(s)
	return err
}

// takeOver is the entry of who takes a resource from a holder whose claim is stale.
func (s Step) takeOver(holder journal.Claim) (Step, journal.Phase, error) {
	if k, ok := s.kind().(heirKind); ok {
		return k.takeOver(s, holder)
	}
	return s, journal.Planned, nil
}

// dropReservations forgets what was reserved and is not planned now, and reservations
// that have ended.
func (a *applier) dropReservations(planned []Step) {
	for i := len(a.steps) - 1; i >= 0; i-- {
		key := a.steps[i].key()
		if a.journal.Entries[i].Expires != 0 && !slices.ContainsFunc(planned, func(s Step) bool { return s.key() == key }) {
			a.forget(key)
		}
	}
}
