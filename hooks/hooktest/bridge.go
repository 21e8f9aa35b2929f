package hooktest

import (
	"context"
	"fmt"
	"reflect"
	"slices"

	"golang.org/x/sys/unix"

	"libvirt-direct/internal/link"
)

// Join makes a device a port of a bridge, as `ip link` does.
func (d *Devices) Join(port, bridge string) {
	l := d.byName(port)
	l.Master = d.byName(bridge).Index
	l.Port = &link.BridgePort{PortFlags: newPort()}
	d.PortVLANs[l.Index] = []link.PortVLAN{{ID: 1, PVID: true, Untagged: true}}
}

// newPort are the flags of a new port, and those that the kernel knows.
func newPort() link.PortFlags {
	on, off := true, false
	return link.PortFlags{
		Isolated: &off, Learning: &on, Hairpin: &off, BPDUGuard: &off,
		Flood: &on, MulticastFlood: &on, NeighSuppress: &off, Locked: &off,
	}
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
		if l.Port == nil {
			return fmt.Errorf("%w: %w", link.ErrNotSupported, unix.EOPNOTSUPP)
		}
		return do(l)
	})
}

// SetPortFlags is link.Conn.SetPortFlags. A flag that the port does not have is one that
// this kernel does not know: the others are set all the same.
func (k *Kernel) SetPortFlags(ctx context.Context, index int, want link.PortFlags) error {
	return k.port(ctx, "set port flags", index, func(l *link.Link) error {
		port := *l.Port
		have, wanted := reflect.ValueOf(&port.PortFlags).Elem(), reflect.ValueOf(want)
		for i := range have.NumField() {
			if !have.Field(i).IsNil() && !wanted.Field(i).IsNil() {
				have.Field(i).Set(wanted.Field(i))
			}
		}
		l.Port = &port
		if name := port.Differ(want); name != "" {
			return fmt.Errorf("%s: %w", name, link.ErrNotSupported)
		}
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
