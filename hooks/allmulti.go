package hooks

import (
	"context"
	"fmt"
)

// AllMulti lets a macvtap that libvirt has made receive all multicast frames. There
// is nothing to undo: the device goes with the domain.
type AllMulti struct {
	momentary
	Device string `json:"device"`
}

func (m *AllMulti) key() string { return "allmulti " + m.Device }

func (m *AllMulti) does() string { return fmt.Sprintf("let %s receive all multicast frames", m.Device) }

func (m *AllMulti) holds() string { return m.does() }

func (*AllMulti) do(ctx context.Context, a *applier, s Step) error {
	dev, err := a.kernel.ByName(ctx, s.AllMulti.Device)
	if err != nil {
		return err
	}
	if dev.Kind != "macvtap" {
		return fmt.Errorf("%w: %s is no macvtap", ErrWrongDevice, dev.Name)
	}
	a.note("%s receives all multicast", dev.Name)
	return a.kernel.SetAllMulticast(ctx, dev.Index, true)
}
