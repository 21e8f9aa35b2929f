// Package rtnl speaks as much rtnetlink (rtnetlink(7), linux/rtnetlink.h, linux/if_link.h) as the helper needs: its
// messages are built by hand, so that the setuid program links nothing larger.
package rtnl

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Attributes and flags that x/sys/unix lacks.
const (
	extMaskSkipStats = 1 << 3 // RTEXT_FILTER_SKIP_STATS

	tunPersist           = 6 // IFLA_TUN_PERSIST
	tunMultiQueue        = 7 // IFLA_TUN_MULTI_QUEUE
	tunNumQueues         = 8 // IFLA_TUN_NUM_QUEUES
	tunNumDisabledQueues = 9 // IFLA_TUN_NUM_DISABLED_QUEUES

	operUnknown = 0 // IF_OPER_UNKNOWN
	operUp      = 6 // IF_OPER_UP

	addrGenModeNone = 1 // IN6_ADDR_GEN_MODE_NONE

	bridgeVLANInfo     = 2 // IFLA_BRIDGE_VLAN_INFO
	bridgeVLANPVID     = 2 // BRIDGE_VLAN_INFO_PVID
	bridgeVLANUntagged = 4 // BRIDGE_VLAN_INFO_UNTAGGED

	vethInfoPeer = 1 // VETH_INFO_PEER

	clsact       = 0xfffffff1 // TC_H_CLSACT
	clsactHandle = 0xffff0000
)

// Batch is one or more requests sent in one system call and answered in order.
type Batch struct {
	b     []byte
	start int // of the message being built
	n     int // messages
}

// Messages are in host byte order and their parts are aligned to 4 octets.
func (m *Batch) u16(v uint16) { m.b = append(m.b, (*[2]byte)(unsafe.Pointer(&v))[:]...) }
func (m *Batch) u32(v uint32) { m.b = append(m.b, (*[4]byte)(unsafe.Pointer(&v))[:]...) }

func (m *Batch) pad() {
	for len(m.b)%4 != 0 {
		m.b = append(m.b, 0)
	}
}

func put16(b []byte, v uint16) { copy(b, (*[2]byte)(unsafe.Pointer(&v))[:]) }
func put32(b []byte, v uint32) { copy(b, (*[4]byte)(unsafe.Pointer(&v))[:]) }

func get16(b []byte) (v uint16) {
	copy((*[2]byte)(unsafe.Pointer(&v))[:], b[:2])
	return v
}

func get32(b []byte) (v uint32) {
	copy((*[4]byte)(unsafe.Pointer(&v))[:], b[:4])
	return v
}

func (m *Batch) begin(kind, flags uint16) {
	m.start = len(m.b)
	m.n++
	m.u32(0) // length, set by end
	m.u16(kind)
	m.u16(unix.NLM_F_REQUEST | unix.NLM_F_ACK | flags)
	m.u32(0) // sequence number, set when sent
	m.u32(0)
}

func (m *Batch) end() {
	m.pad()
	put32(m.b[m.start:], uint32(len(m.b)-m.start))
}

// link appends a struct ifinfomsg.
func (m *Batch) link(family uint8, index int, flags, change uint32) {
	m.b = append(m.b, family, 0)
	m.u16(0)
	m.u32(uint32(index))
	m.u32(flags)
	m.u32(change)
}

// traffic appends a struct tcmsg.
func (m *Batch) traffic(index int, handle, parent, info uint32) {
	m.u32(unix.AF_UNSPEC)
	m.u32(uint32(index))
	m.u32(handle)
	m.u32(parent)
	m.u32(info)
}

func (m *Batch) attr(kind uint16, v []byte) {
	m.u16(uint16(4 + len(v)))
	m.u16(kind)
	m.b = append(m.b, v...)
	m.pad()
}

func (m *Batch) attrString(kind uint16, s string) { m.attr(kind, append([]byte(s), 0)) }
func (m *Batch) attr8(kind uint16, v uint8)       { m.attr(kind, []byte{v}) }
func (m *Batch) attr16(kind uint16, v uint16)     { m.attr(kind, (*[2]byte)(unsafe.Pointer(&v))[:]) }
func (m *Batch) attr32(kind uint16, v uint32)     { m.attr(kind, (*[4]byte)(unsafe.Pointer(&v))[:]) }

// nest puts what f appends into an attribute of its own.
func (m *Batch) nest(kind uint16, f func()) {
	at := len(m.b)
	m.u16(0)
	m.u16(kind | unix.NLA_F_NESTED)
	f()
	put16(m.b[at:], uint16(len(m.b)-at))
}

// attributes calls f for each attribute in b, and stops at the first that does not fit.
func attributes(b []byte, f func(kind uint16, v []byte)) {
	for len(b) >= 4 {
		n := int(get16(b))
		if n < 4 || n > len(b) {
			return
		}
		f(get16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[4:n])
		n = (n + 3) &^ 3
		if n > len(b) {
			return
		}
		b = b[n:]
	}
}

func cString(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}
