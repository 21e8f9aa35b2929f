package hooktest

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"libvirt-direct/internal/link"
)

// SelfEntries is link.Conn.SelfEntries.
func (k *Kernel) SelfEntries(ctx context.Context, index int) ([]string, error) {
	if err := k.read(ctx, "list forwarding entries", k.Name(index)); err != nil {
		return nil, err
	}
	return slices.Clone(k.SelfMACs[index]), nil
}

// AddSelfEntry is link.Conn.AddSelfEntry.
func (k *Kernel) AddSelfEntry(ctx context.Context, index int, mac string) error {
	const op = "add forwarding entry"
	if err := unicast(mac); err != nil {
		return refused(op, k.Name(index), err)
	}
	return k.set(ctx, op, index, func(*link.Link) error {
		switch have := k.SelfMACs[index]; {
		case slices.Contains(have, mac):
			return fmt.Errorf("%w: %w", link.ErrExists, unix.EEXIST)
		case k.SelfFull:
			return fmt.Errorf("%w: %w", link.ErrTableFull, unix.ENOMEM)
		}
		k.SelfMACs[index] = append(slices.Clone(k.SelfMACs[index]), mac)
		return nil
	})
}

// RemoveSelfEntry is link.Conn.RemoveSelfEntry.
func (k *Kernel) RemoveSelfEntry(ctx context.Context, index int, mac string) error {
	const op = "remove forwarding entry"
	if err := unicast(mac); err != nil {
		return refused(op, k.Name(index), err)
	}
	return k.set(ctx, op, index, func(*link.Link) error {
		have := k.SelfMACs[index]
		if !slices.Contains(have, mac) {
			return fmt.Errorf("%w: %w", link.ErrNotFound, unix.ENOENT)
		}
		k.SelfMACs[index] = slices.DeleteFunc(slices.Clone(have), func(m string) bool { return m == mac })
		return nil
	})
}
