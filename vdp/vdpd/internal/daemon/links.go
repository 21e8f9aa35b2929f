package daemon

import (
	"context"
	"net"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"libvirt-direct/vdp"
)

// linkInfo is what matters of an interface.
type linkInfo struct {
	name    string
	index   int
	mac     vdp.MAC
	mtu     int
	up      bool
	removed bool
}

func (l *linkInfo) netInterface() *net.Interface {
	return &net.Interface{Index: l.index, Name: l.name, MTU: l.mtu, HardwareAddr: l.mac[:]}
}

// watchLinks calls f for every interface that exists and for each change,
// until ctx is done. A subscription that overflowed is renewed, and everything
// is reported again.
func watchLinks(ctx context.Context, f func(linkInfo)) error {
	for {
		updates := make(chan netlink.LinkUpdate, 64)
		stop := make(chan struct{})
		err := netlink.LinkSubscribeWithOptions(updates, stop, netlink.LinkSubscribeOptions{
			ListExisting:  true,
			ErrorCallback: func(error) {}, // the channel is closed, too
		})
		if err != nil {
			return err
		}
		more := true
		for more {
			select {
			case <-ctx.Done():
				close(stop)
				go drain(updates)
				return ctx.Err()
			case u, ok := <-updates:
				if more = ok; ok {
					f(linkFrom(&u))
				}
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// drain lets the subscription's goroutine end.
func drain(c <-chan netlink.LinkUpdate) {
	for range c {
	}
}

func linkFrom(u *netlink.LinkUpdate) linkInfo {
	a := u.Attrs()
	const running = unix.IFF_UP | unix.IFF_LOWER_UP
	l := linkInfo{
		name: a.Name, index: a.Index, mtu: a.MTU,
		up: u.IfInfomsg.Flags&running == running, removed: u.Header.Type == unix.RTM_DELLINK,
	}
	if len(a.HardwareAddr) == len(l.mac) {
		l.mac = vdp.MAC(a.HardwareAddr)
	}
	return l
}
