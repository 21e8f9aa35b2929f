// Package sysctl sets kernel parameters of a network namespace and its devices (Documentation/networking/ip-sysctl.rst).
package sysctl

import (
	"errors"

	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/privilege"
	"libvirt-direct/helper/internal/rtnl"
)

const root = "/proc/sys/net/"

// Net is the parameters of the network namespace in which the thread was that opened it: the kernel looks a directory
// below /proc/sys/net up in the namespace of who asks, and what is below the open directory in that of the directory.
type Net struct{ ipv4, ipv6 int }

// Open opens the parameters of the calling thread's namespace.
func Open() (*Net, error) {
	n := &Net{-1, -1}
	for _, d := range [...]struct {
		fd   *int
		path string
	}{{&n.ipv4, root + "ipv4/conf"}, {&n.ipv6, root + "ipv6/conf"}} {
		fd, err := unix.Open(d.path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil && err != unix.ENOENT { // a kernel without the protocol
			return nil, errors.New(d.path + ": " + err.Error())
		}
		*d.fd = fd
	}
	return n, nil
}

// NoIPv6 keeps the host from speaking IPv6 on a device that is not up yet: it has no address there, takes none from a
// router advertisement, and announces no multicast group. Where /proc/sys is read-only, as in
// containers, the device only gets no address of its own. c is a socket of the device's namespace.
func (n *Net) NoIPv6(c *rtnl.Conn, index int, device string) error {
	err := set(n.ipv6, device+"/disable_ipv6", "1")
	if err == unix.EROFS {
		return NoIPv6Address(c, index)
	}
	return err
}

// Mute does that, and keeps the host from taking IPv4 packets from the device. That it answers no ARP requests is the
// device's flag IFF_NOARP.
func (n *Net) Mute(c *rtnl.Conn, index int, device string) error {
	if err := n.NoIPv6(c, index, device); err != nil {
		return err
	}
	// No route leads to the device, so that no source address passes the strict test (RFC 3704, section 2.2).
	err := set(n.ipv4, device+"/rp_filter", "1")
	if err == unix.EROFS { // whoever made it so answers for its content
		return nil
	}
	return err
}

// NoIPv6Address keeps the kernel from giving the device an address. A kernel without IPv6 has nothing against that.
func NoIPv6Address(c *rtnl.Conn, index int) error {
	var m rtnl.Batch
	m.NoIPv6Address(index)
	return c.Do(&m, 0)
}

// Set writes the parameter of the calling thread's namespace whose path below /proc/sys/net is given, and reports whether
// that could be done: /proc/sys may be read-only. If the kernel has no such parameter, there is nothing to be done.
func Set(path, value string) (bool, error) {
	err := set(unix.AT_FDCWD, root+path, value)
	if err == unix.EROFS {
		return false, nil
	}
	return err == nil, err
}

func set(dir int, path, value string) error {
	if dir == -1 {
		return nil
	}
	text := []byte(value)
	err := privilege.With(privilege.NetAdmin, func() error {
		fd, err := unix.Openat(dir, path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		_, err = unix.Write(fd, text)
		unix.Close(fd)
		return err
	})
	switch err {
	case nil, unix.ENOENT:
		return nil
	case unix.EROFS:
		return err
	}
	return errors.New(path + ": " + err.Error())
}
