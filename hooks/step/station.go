package step

import (
	"context"
	"errors"
	"time"

	"libvirt-direct/internal/poll"
	"libvirt-direct/vdp"
)

// Station associates VSIs with the switch: the host's vdpd or lldpad.
type Station interface {
	// Ready returns nil when the switch has agreed to EVB on a port, and otherwise
	// why it has not. It does not wait; the error matches ErrNotYet where waiting
	// can help.
	Ready(ctx context.Context, port string) error
	// Associate waits for the switch's answer.
	Associate(ctx context.Context, port string, v vdp.VSI) error
	// DeAssociate is no error for a VSI that the station does not have.
	DeAssociate(ctx context.Context, port string, v vdp.VSI) error
}

// evbPoll is how often a station is asked whether the switch has agreed by now.
const evbPoll = 100 * time.Millisecond

// awaitEVB returns the station once the switch has agreed to EVB on a port.
func (h Host) awaitEVB(ctx context.Context, port string) (Station, error) {
	st, err := h.Station(ctx)
	if err != nil {
		return nil, err
	}
	notYet := error(nil)
	err = poll.Until(ctx, evbPoll, func() (bool, error) {
		notYet = st.Ready(ctx, port)
		if errors.Is(notYet, ErrNotYet) {
			return false, nil
		}
		return true, notYet
	})
	if errors.Is(err, poll.ErrGaveUp) {
		return nil, notYet
	}
	return st, err
}
