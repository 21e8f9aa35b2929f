package hooktest

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"libvirt-direct/internal/link"
)

// Join makes a device a port of a bridge, as `ip link` does.
func (d *Devices) Join(port, bridge string) {
	l, on, off := d.byName(port), true, false
	l.Master = d.byName(bridge).Index
	l.Port = &link.BridgePort{PortFlags: link.PortFlags{Isolated: &off, Learning: &on, Hairpin: &off, BPDUGuard: &off}}
	d.PortVLANs[l.Index] = []link.PortVLAN{{ID: 1, PVID: true, Untagged: true}}
}

// leave undoes Join.
func (d *Devices) leave(l *link.Link) {
	l.Master, l.Port = 0, nil
	delete(d.PortVLANs, l.Index)
	delete(d.PortMACs, l.Index)
}

// port runs a change of a bridge's port.
func (k *Kernel) port(ctx context.Context, op string, index int, do func(l *link.Link) error) error {
	return k.set(ctx, op, index, func(l *link.Link) error {
		if l.Master == 0 {
			return fmt.Errorf("%w: %w", link.ErrNotSupported, unix.EOPNOTSUPP)
		}
		return do(l)
	})
}

// SetPortFlags is link.Conn.SetPortFlags.
func (k *Kernel) SetPortFlags(ctx context.Context, index int, want link.PortFlags) error {
	return k.port(ctx, "set port flags", index, func(l *link.Link) error {
		port := link.BridgePort{}
		if l.Port != nil {
			port = *l.Port
		}
		have := port.PortFlags
		port.PortFlags = link.PortFlags{
			Isolated: cmp.Or(want.Isolated, have.Isolated), Learning: cmp.Or(want.Learning, have.Learning),
			Hairpin: cmp.Or(want.Hairpin, have.Hairpin), BPDUGuard: cmp.Or(want.BPDUGuard, have.BPDUGuard),
		}
		l.Port = &port
		return nil
	})
}

// SetPortVLANs is link.Conn.SetPortVLANs.
func (k *Kernel) SetPortVLANs(ctx context.Context, index int, want []link.PortVLAN) error {
	return k.port(ctx, "set port VLANs", index, func(*link.Link) error {
		k.PortVLANs[index] = slices.SortedFunc(slices.Values(want), func(a, b link.PortVLAN) int { return a.ID - b.ID })
		return nil
	})
}

// AddPortMAC is link.Conn.AddPortMAC.
func (k *Kernel) AddPortMAC(ctx context.Context, index int, mac string) error {
	const op = "add port MAC"
	if err := unicast(mac); err != nil {
		return refused(op, k.Name(index), err)
	}
	return k.port(ctx, op, index, func(l *link.Link) error {
		if slices.Contains(k.PortMACs[index], mac) {
			return nil
		}
		for other, macs := range k.PortMACs { // it is behind one port of a bridge
			if o := k.Links[other]; o != nil && o.Master == l.Master {
				k.PortMACs[other] = slices.DeleteFunc(slices.Clone(macs), func(m string) bool { return m == mac })
			}
		}
		k.PortMACs[index] = append(slices.Clone(k.PortMACs[index]), mac)
		return nil
	})
}
