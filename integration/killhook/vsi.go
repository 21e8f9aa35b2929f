//go:build integration || vm

package main

import (
	"context"

	"libvirt-direct/hooks"
	"libvirt-direct/hooks/step"
	"libvirt-direct/vdp"
)

func (k *crashPoint) openStation(ctx context.Context) (step.Station, func(), error) {
	s, end, err := hooks.OpenStation(ctx)
	if err != nil {
		return nil, nil, err
	}
	return station{s, k}, end, nil
}

// A station is the host's, with crash points.
type station struct {
	step.Station
	k *crashPoint
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
