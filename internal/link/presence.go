package link

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
)

// Presence says in which way this host is a station on a device, as a network manager makes
// it one: by an address, a route through the device, or IPv6, which speaks by itself; "" where
// it is none. It is for devices that Silence was for.
func (c *Conn) Presence(ctx context.Context, l Link) (string, error) {
	d := device{Link: l}
	for _, look := range []func(context.Context, device) ([]Use, error){c.addressUses, c.routeUses} {
		uses, err := look(ctx, d)
		if err != nil {
			return "", &OpError{Op: "look for addresses of", Link: l.Name, Err: mapErrno(err)}
		}
		if len(uses) > 0 {
			return uses[0].Evidence, nil
		}
	}
	off, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + l.Name + "/disable_ipv6")
	if err == nil && strings.TrimSpace(string(off)) == "0" {
		return "IPv6 is on", nil
	}
	if errors.Is(err, fs.ErrNotExist) { // a kernel without IPv6
		err = nil
	}
	if err != nil {
		return "", &OpError{Op: "look at IPv6 of", Link: l.Name, Err: err}
	}
	return "", nil
}
