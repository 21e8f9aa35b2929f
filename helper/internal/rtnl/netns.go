package rtnl

import (
	"golang.org/x/sys/unix"
)

// Attributes of a network namespace's id (linux/net_namespace.h).
const (
	netnsaNSID = 1 // NETNSA_NSID
	netnsaPID  = 2 // NETNSA_PID
)

// NameNamespace gives the network namespace of a thread an id in the socket's namespace. It is EEXIST if either has one
// already. The kernel forgets the id when the namespace ends, and lets nobody without CAP_NET_ADMIN over the socket's
// namespace set one (net/core/net_namespace.c).
func (m *Batch) NameNamespace(id, tid int) {
	m.begin(unix.RTM_NEWNSID, 0)
	m.u32(unix.AF_UNSPEC) // struct rtgenmsg
	m.attr32(netnsaNSID, uint32(id))
	m.attr32(netnsaPID, uint32(tid))
	m.end()
}

// HasNamespace reports whether a namespace of this id lives. An answer that cannot be had counts as one that does.
func (c *Conn) HasNamespace(id int) bool {
	var m Batch
	m.begin(unix.RTM_GETNSID, 0)
	m.u32(unix.AF_UNSPEC)
	m.attr32(netnsaNSID, uint32(id))
	m.end()
	msg, err := c.ask(&m)
	if err != nil {
		return true
	}
	return get16(msg[4:]) != unix.NLMSG_ERROR || unix.Errno(-int32(get32(msg[unix.SizeofNlMsghdr:]))) != unix.ENOENT
}
