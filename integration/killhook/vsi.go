//go:build integration || vm

package main

import (
	"context"

	"libvirt-direct/hooks"
	"libvirt-direct/hooks/step"
	"libvirt-direct/vdp"
)

func (k *mortal) openStation(ctx context.Context) (step.Station, func(), error) {
	s, end, err := hooks.OpenStation(ctx)
	if err != nil {
		return nil, nil, err
	}
	return station{s, k}, end, nil
}

// station is the host's, with points to die at.
type station struct {
	step.Station
	k *mortal
}

func (s station) change(do func() error) error {
	s.k.tick()
	err := do()
	s.k.changed = true
	s.k.tick()
	return err
}

func (s station) Associate(ctx context.Context, port string, v vdp.VSI) error {
	return s.change(func() error { return s.Station.Associate(ctx, port, v) })
}

func (s station) DeAssociate(ctx context.Context, port string, v vdp.VSI) error {
	return s.change(func() error { return s.Station.DeAssociate(ctx, port, v) })
}
