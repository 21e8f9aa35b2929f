package step

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

func (*AllMulti) Type() string { return "allmulti" }

func (m *AllMulti) Key() string { return "allmulti " + m.Device }

func (m *AllMulti) Does() string { return fmt.Sprintf("let %s receive all multicast frames", m.Device) }

func (m *AllMulti) Holds() string { return m.Does() }

func (m *AllMulti) Do(ctx context.Context, e *Env) error {
	dev, err := e.Kernel.ByName(ctx, m.Device)
	if err != nil {
		return err
	}
	if dev.Kind != "macvtap" {
		return fmt.Errorf("%w: %s is no macvtap", ErrWrongDevice, dev.Name)
	}
	e.Event("%s receives all multicast", dev.Name)
	return e.Kernel.SetAllMulticast(ctx, dev.Index, true)
}
