//go:build integration || vm

package main

import (
	"context"

	"libvirt-direct/internal/link"
)

// SetVF sets one attribute after the other, with crash points between them: that is what
// the kernel sees of it.
func (k *crashPoint) SetVF(ctx context.Context, pf link.Link, number int, want link.VFSettings, optional ...string) (warnings []error, err error) {
	for _, attr := range link.VFAttrs() {
		if _, set := want.Value(attr); !set {
			continue
		}
		err := k.change(func() error {
			w, err := k.Kernel.SetVF(ctx, pf, number, want.Only(func(a string) bool { return a == attr }), optional...)
			warnings = append(warnings, w...)
			return err
		})
		if err != nil {
			return warnings, err
		}
	}
	return warnings, nil
}

func (k *crashPoint) AssociatePort(ctx context.Context, dev link.Link, request link.PortRequest, p link.Port) error {
	return k.change(func() error { return k.Kernel.AssociatePort(ctx, dev, request, p) })
}

func (k *crashPoint) DisassociatePort(ctx context.Context, dev link.Link, vf int) error {
	return k.change(func() error { return k.Kernel.DisassociatePort(ctx, dev, vf) })
}
