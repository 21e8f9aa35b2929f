package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"libvirt-direct/internal/link"
	"libvirt-direct/vdp"
)

// errOwnVF: a virtual function of the uplink's has sent the frame. The card's own switch brings
// it to the PF, where it looks like the wire's.
var errOwnVF = errors.New("frame was sent by a virtual function of the uplink")

// ownVFs knows the addresses of an uplink's virtual functions. A VF that is not held to its
// address can use others: `check` tells of those. It belongs to the goroutine that reads the
// uplink's frames, which may wait for the kernel.
type ownVFs struct {
	read    func() ([]vdp.MAC, error)
	log     *slog.Logger
	at      time.Time
	macs    []vdp.MAC
	failing bool
}

// vfAge is how old the addresses may be. A VF whose PF has given it none can change its own at
// any time; reading them for each frame of a flood would take too long.
const vfAge = time.Second

// addresses returns them. What cannot be read is as before.
func (o *ownVFs) addresses(now time.Time) []vdp.MAC {
	if o.at.IsZero() || now.Sub(o.at) >= vfAge {
		o.at = now
		macs, err := o.read()
		if err == nil {
			o.macs = macs
		} else if !o.failing {
			o.log.Warn("addresses of virtual functions not read: what one sends may pass for the switch's", "err", err)
		}
		o.failing = err != nil
	}
	return o.macs
}

// vfAddresses reads the addresses of an interface's VFs, and of those of a bond's ports.
func vfAddresses(ifindex int) (macs []vdp.MAC, err error) {
	port, err := net.InterfaceByIndex(ifindex) // it may have been renamed
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), vfAge)
	defer cancel()
	c, err := link.Open()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	for _, d := range link.WithLowers("/sys", port.Name) {
		l, err := c.ByName(ctx, d)
		if err != nil {
			return nil, err
		}
		of, err := addressesOf(ctx, c, l)
		if err != nil {
			return nil, err
		}
		macs = append(macs, of...)
	}
	return macs, nil
}

// addressesOf reads the addresses of one device's VFs.
func addressesOf(ctx context.Context, c *link.Conn, l link.Link) (macs []vdp.MAC, err error) {
	_, vfs, err := c.VFs(ctx, l)
	for _, vf := range vfs {
		if vf.MAC == nil {
			continue // the driver does not say
		}
		if m, err := net.ParseMAC(*vf.MAC); err == nil && len(m) == len(vdp.MAC{}) && vdp.MAC(m) != (vdp.MAC{}) {
			macs = append(macs, vdp.MAC(m))
		}
	}
	return macs, err
}
