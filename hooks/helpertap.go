package hooks

import (
	"context"
	"errors"

	"libvirt-direct/internal/link"
)

// helperTaps removes TAP devices that a user has of the helper, made persistent and left.
// The helper removes them too, with the next one that it makes; nobody else does.
func (c *Collector) helperTaps(ctx context.Context) (done []string, err error) {
	if c.Taps == nil {
		return nil, nil
	}
	taps, err := c.Taps(ctx)
	errs := []error{err}
	for _, d := range taps {
		if !d.Abandoned() {
			continue
		}
		if c.DryRun {
			done = append(done, "would remove TAP device "+d.Name+", which a user of the helper made persistent and left")
			continue
		}
		err := c.Kernel.Delete(ctx, d.Index)
		if errors.Is(err, link.ErrNotFound) {
			continue
		}
		if err == nil {
			done = append(done, "removed TAP device "+d.Name+", which a user of the helper made persistent and left")
		}
		errs = append(errs, err)
	}
	return done, errors.Join(errs...)
}
