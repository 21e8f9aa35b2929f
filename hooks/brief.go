package hooks

import (
	"context"
	"time"

	"libvirt-direct/hooks/step"
	"libvirt-direct/vdp"
)

// brief is the hook for a guest without settings, which is kept waiting for nobody: neither
// for a lock nor for a daemon that does not answer. What cannot be undone in that time, of
// what an earlier life has left, stays owed.
func (h *Hook) brief() *Hook {
	b := *h
	b.Journal = h.Journal.Patient(plainTime)
	answers := &budget{plainTime}
	if h.OVS != nil {
		b.OVS = func() step.Switch { return briefSwitch{h.OVS(), answers} }
	}
	b.Station = func(ctx context.Context) (step.Station, func(), error) {
		ctx, end := answers.take(ctx)
		defer end()
		st, closeStation, err := h.Station(ctx)
		return briefStation{st, answers}, closeStation, err
	}
	return &b
}

// budget is how long all daemons together may take.
type budget struct{ left time.Duration }

// take limits ctx to what is left. The returned function counts what was used.
func (b *budget) take(ctx context.Context) (limited context.Context, end func()) {
	from := time.Now()
	limited, cancel := context.WithTimeout(ctx, b.left)
	return limited, func() {
		cancel()
		b.left = max(0, b.left-time.Since(from))
	}
}

// briefSwitch undoes within a budget. A guest without settings has nothing else to ask.
type briefSwitch struct {
	step.Switch
	*budget
}

func (b briefSwitch) Detach(ctx context.Context, name, owner string) (was bool, err error) {
	ctx, end := b.take(ctx)
	defer end()
	return b.Switch.Detach(ctx, name, owner)
}

// briefStation is the same of a station.
type briefStation struct {
	step.Station
	*budget
}

func (b briefStation) DeAssociate(ctx context.Context, port string, v vdp.VSI) error {
	ctx, end := b.take(ctx)
	defer end()
	return b.Station.DeAssociate(ctx, port, v)
}
