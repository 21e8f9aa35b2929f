// Package netns makes network namespaces that nothing keeps alive but the descriptors opened in them.
//
// The socket behind a TAP's or a macvtap's descriptor belongs to the namespace in which its node was opened (tun_chr_open,
// drivers/net/tun.c; tap_open, drivers/net/tap.c), so the kernel ends the namespace, and every device in it, as soon as the last descriptor is closed,
// however that comes about.
package netns

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/privilege"
	"libvirt-direct/helper/internal/rtnl"
	"libvirt-direct/helper/internal/sysctl"
)

// Namespace is one that the calling thread has entered.
type Namespace struct {
	*rtnl.Conn      // to the namespace
	ID         int  // by which the host's namespace knows it
	TID        int  // the thread, by which netlink requests name it
	ipv6       bool // could not be switched off
}

// Enter makes a namespace and moves the calling thread, which has to be locked to its goroutine, into it for good. From
// the namespace of host it is known by id until it ends: see rtnl.Conn.HasNamespace. Its own IP stack does not speak
// IPv6.
func Enter(host *rtnl.Conn, id int) (*Namespace, error) {
	if err := privilege.With(privilege.SysAdmin, func() error { return unix.Unshare(unix.CLONE_NEWNET) }); err != nil {
		return nil, err
	}
	n := &Namespace{ID: id, TID: unix.Gettid()}
	// Before any device joins the two namespaces, for which the kernel would make up an id.
	var m rtnl.Batch
	m.NameNamespace(id, n.TID)
	if err := host.Do(&m, -1); err != nil {
		return nil, err
	}
	off, err := sysctl.Set("ipv6/conf/default/disable_ipv6", "1")
	if err != nil {
		return nil, err
	}
	n.ipv6 = !off
	n.Conn, err = rtnl.Dial()
	return n, err
}

// Silence sees to it that devices of the namespace, which are not up yet, get no IPv6 address, where Enter could not switch
// IPv6 off altogether.
func (n *Namespace) Silence(indexes ...int) error {
	for _, index := range indexes {
		if !n.ipv6 {
			return nil
		}
		if err := sysctl.NoIPv6Address(n.Conn, index); err != nil {
			return err
		}
	}
	return nil
}

// BridgesSkipNetfilter keeps the packet filter, if the kernel has it loaded for bridges, from dropping what it cannot
// parse.
func (n *Namespace) BridgesSkipNetfilter() error {
	for _, family := range [...]string{"iptables", "ip6tables", "arptables"} {
		if _, err := sysctl.Set("bridge/bridge-nf-call-"+family, "0"); err != nil {
			return err
		}
	}
	return nil
}

// NoChecksumOffload has the kernel fill in the checksums of the frames that a device of the namespace sends.
func (n *Namespace) NoChecksumOffload(device string) error {
	value := struct{ cmd, data uint32 }{unix.ETHTOOL_STXCSUM, 0} // struct ethtool_value
	var r struct {                                               // struct ifreq (netdevice(7))
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(r.name[:unix.IFNAMSIZ-1], device)
	r.data = unsafe.Pointer(&value)
	socket := uintptr(n.FD())
	return privilege.With(privilege.NetAdmin, func() error {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, socket, unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&r)))
		if errno != 0 {
			return errno
		}
		return nil
	})
}
