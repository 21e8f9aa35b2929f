package daemon

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"libvirt-direct/internal/link"
	"libvirt-direct/vdp"
)

// errOwnVF: a virtual function of the uplink's has sent the frame. The card's own switch brings
// it to the PF, where it looks like the wire's.
var errOwnVF = errors.New("frame was sent by a virtual function of the uplink")

// ownVFs knows the addresses of an uplink's virtual functions. A VF that is not held to its
// address can use others: `check` tells of those.
type ownVFs struct {
	read func() ([]vdp.MAC, error) // nil without an interface
	at   time.Time
	macs []vdp.MAC
}

// vfAge is how old the addresses may be. A VF whose PF has given it none can change its own at
// any time; reading them for each frame of a flood would take too long.
const vfAge = time.Second

// sent reports whether a VF has sent a frame that has arrived. Addresses that cannot be read
// are as before.
func (o *ownVFs) sent(now time.Time, frame []byte) bool {
	if o.read == nil || len(frame) < 12 {
		return false
	}
	if o.at.IsZero() || now.Sub(o.at) >= vfAge {
		o.at = now
		if macs, err := o.read(); err == nil {
			o.macs = macs
		}
	}
	return slices.Contains(o.macs, vdp.MAC(frame[6:12]))
}

// vfAddresses reads the addresses of a device's VFs, and of those of a bond's ports.
func vfAddresses(device string) (macs []vdp.MAC, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), vfAge)
	defer cancel()
	c, err := link.Open()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	devices := []string{device}
	lowers, _ := filepath.Glob(filepath.Join("/sys/class/net", device, "lower_*"))
	for _, l := range lowers {
		devices = append(devices, strings.TrimPrefix(filepath.Base(l), "lower_"))
	}
	for _, d := range devices {
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
