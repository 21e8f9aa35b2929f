package hooks

import (
	"context"
	"errors"
	"fmt"

	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/ovs"
)

// strayPorts removes ports with our key whose domain is not running and in no journal:
// those that libvirt has made and, being killed, not removed, and our own after /run
// was cleared.
func (c *Collector) strayPorts(ctx context.Context) ([]string, error) {
	if c.OVS == nil {
		return nil, nil
	}
	db := c.OVS()
	defer db.Close()
	owned, err := db.List(ctx)
	if errors.Is(err, ovs.ErrUnreachable) {
		return nil, nil // most hosts have none
	}
	var done []string
	errs := []error{err}
	for _, o := range owned {
		gone, err := c.strayPort(ctx, db, o)
		switch {
		case err != nil:
			errs = append(errs, err)
		case gone && c.DryRun:
			done = append(done, fmt.Sprintf("would remove Open vSwitch port %s, whose guest is not running", o.Name))
		case gone:
			done = append(done, fmt.Sprintf("removed Open vSwitch port %s, whose guest is not running", o.Name))
		}
	}
	return done, errors.Join(errs...)
}

func (c *Collector) strayPort(ctx context.Context, db step.Switch, o ovs.Owned) (gone bool, err error) {
	if !journal.IsUUID(o.Owner) {
		if gone, err = deviceGone(ctx, c.Kernel, o); err != nil || !gone {
			return false, err
		}
	} else {
		unlock, err := c.lock(ctx, domainLock(o.Owner))
		if err != nil {
			return false, err
		}
		defer unlock()
		if j, err := c.Dir.Load(o.Owner); err != nil || j != nil {
			return false, err // the journal's turn
		}
		if alive, err := c.alive(ctx, o.Owner, ""); err != nil || alive {
			return false, step.Ignore(err, errBusy)
		}
	}
	if c.DryRun {
		return true, nil
	}
	return db.Detach(ctx, o.Name, o.Owner)
}

// deviceGone reports whether a port's device is no more. The helper's and ifup's ports
// are no domain's; their device goes with the guest.
func deviceGone(ctx context.Context, k step.Kernel, o ovs.Owned) (bool, error) {
	_, err := k.ByName(ctx, o.Name)
	if errors.Is(err, link.ErrNotFound) {
		return true, nil
	}
	return false, err
}

// SweepPorts removes the ports of guests without a domain, the helper's and ifup's,
// whose device is gone. It returns their names.
func SweepPorts(ctx context.Context, k step.Kernel, db step.Switch) ([]string, error) {
	owned, err := db.List(ctx)
	errs := []error{err}
	var removed []string
	for _, o := range owned {
		if journal.IsUUID(o.Owner) {
			continue
		}
		gone, err := deviceGone(ctx, k, o)
		if err == nil && gone {
			gone, err = db.Detach(ctx, o.Name, o.Owner)
		}
		errs = append(errs, err)
		if err == nil && gone {
			removed = append(removed, o.Name)
		}
	}
	return removed, errors.Join(errs...)
}
