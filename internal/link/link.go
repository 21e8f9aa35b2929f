// Package link speaks rtnetlink for the devices that guests are attached to:
// macvtap, VLAN sub-interfaces, SR-IOV virtual functions, and what lies below them.
//
// It looks links up one by one, never through a dump of all of them where the name
// or index is known, and asks for the virtual functions' data only to set them: the
// cost of a look-up must not grow with the number of links or VFs of the host
// (rtnetlink(7), net/core/rtnetlink.c).
package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// Errors that callers tell apart with errors.Is; the kernel's errno stays in the
// chain beside them.
var (
	// ErrNotFound: there is no such link (ENODEV).
	ErrNotFound = errors.New("no such network device")
	// ErrExists: the name, the index, or the parent's VLAN is taken (EEXIST).
	ErrExists = errors.New("already exists")
	// ErrBusy: the device is in use (EBUSY), for instance by a passthrough macvtap.
	ErrBusy = errors.New("in use")
	// ErrNotSupported: the kernel lacks what was asked (EOPNOTSUPP), for instance
	// the module 8021q.
	ErrNotSupported = errors.New("not supported by this kernel")
	// ErrMalformed: a netlink message that cannot be read.
	ErrMalformed = errors.New("malformed netlink message")
	// ErrMACFixed: the device may not have another MAC.
	ErrMACFixed = errors.New("its MAC cannot be changed: by a VF, if its PF has given it one and does not trust it")
	// ErrNodeTaken: /dev/tapN belongs to another network namespace's device.
	ErrNodeTaken = errors.New("the device node belongs to another device")
)

// OpError says which operation failed on which link.
type OpError struct {
	Op   string // "create macvtap", "look up" …
	Link string // name, or "index 7"
	Err  error
}

func (e *OpError) Error() string { return fmt.Sprintf("%s %s: %v", e.Op, e.Link, e.Err) }

// Unwrap returns the cause, which matches this package's errors and the errno.
func (e *OpError) Unwrap() error { return e.Err }

// Link is what the kernel says of one network device.
type Link struct {
	Index    int    `json:"index"`
	Name     string `json:"name"`
	Kind     string `json:"kind,omitempty"` // "macvtap", "vlan", "bridge" …; "" for a physical device
	MAC      string `json:"mac,omitempty"`
	PermMAC  string `json:"permanent_mac,omitempty"`
	MTU      int    `json:"mtu"`
	Up       bool   `json:"up"`       // IFF_UP
	Carrier  bool   `json:"carrier"`  // IFF_LOWER_UP
	AllMulti bool   `json:"allmulti"` // IFF_ALLMULTI as asked for
	Parent   int    `json:"parent"`   // IFLA_LINK, 0 when there is none
	// ParentElsewhere: Parent is an index in another network namespace.
	ParentElsewhere bool `json:"parent_elsewhere,omitempty"`
	// Master is the index of the bridge or bond whose port this is (IFLA_MASTER).
	Master int    `json:"master,omitempty"`
	VLANID int    `json:"vlan,omitempty"`
	Mode   string `json:"mode,omitempty"` // a macvtap's mode in libvirt's words
	Alias  string `json:"alias,omitempty"`
	// AltNames are other names of the device (ip link property).
	AltNames []string `json:"altnames,omitempty"`

	Bridge *Bridge     `json:"bridge,omitempty"` // nil for what is no Linux bridge
	Port   *BridgePort `json:"port,omitempty"`   // nil for what is no port of one
}

// Called reports whether the kernel would find the link by that name.
func (l Link) Called(name string) bool {
	if l.Name == name {
		return true
	}
	for _, a := range l.AltNames {
		if a == name {
			return true
		}
	}
	return false
}

// modes are libvirt's words for enum macvlan_mode (include/uapi/linux/if_link.h).
var modes = [...]struct {
	word  string
	value uint32
}{{"private", 1}, {"vepa", 2}, {"bridge", 4}, {"passthrough", 8}}

func modeValue(word string) (uint32, bool) {
	for _, m := range modes {
		if m.word == word {
			return m.value, true
		}
	}
	return 0, false
}

// parseLink reads the payload of an RTM_NEWLINK message: struct ifinfomsg and its
// attributes.
func parseLink(b []byte) (Link, error) {
	if len(b) < unix.SizeofIfInfomsg {
		return Link{}, fmt.Errorf("%w: %d octets", ErrMalformed, len(b))
	}
	flags := binary.NativeEndian.Uint32(b[8:])
	l := Link{
		Index:    int(int32(binary.NativeEndian.Uint32(b[4:]))),
		Up:       flags&unix.IFF_UP != 0,
		Carrier:  flags&unix.IFF_LOWER_UP != 0,
		AllMulti: flags&unix.IFF_ALLMULTI != 0,
	}
	err := EachAttr(b[unix.SizeofIfInfomsg:], func(typ uint16, v []byte) error {
		var err error
		switch typ {
		case unix.IFLA_IFNAME:
			l.Name = cstring(v)
		case unix.IFLA_IFALIAS:
			l.Alias = cstring(v)
		case unix.IFLA_ADDRESS:
			l.MAC = net.HardwareAddr(v).String()
		case unix.IFLA_PERM_ADDRESS:
			l.PermMAC = net.HardwareAddr(v).String()
		case unix.IFLA_MTU:
			l.MTU, err = u32(v)
		case unix.IFLA_LINK:
			l.Parent, err = u32(v)
		case unix.IFLA_LINK_NETNSID:
			l.ParentElsewhere = true
		case unix.IFLA_MASTER:
			l.Master, err = u32(v)
		case unix.IFLA_LINKINFO:
			err = l.parseInfo(v)
		case unix.IFLA_PROP_LIST:
			err = EachAttr(v, func(typ uint16, v []byte) error {
				if typ == unix.IFLA_ALT_IFNAME {
					l.AltNames = append(l.AltNames, cstring(v))
				}
				return nil
			})
		}
		return err
	})
	return l, err
}

// parseInfo reads IFLA_LINKINFO: the kind, and what we know of its data.
func (l *Link) parseInfo(b []byte) error {
	var data, port []byte
	slave := ""
	err := EachAttr(b, func(typ uint16, v []byte) error {
		switch typ {
		case unix.IFLA_INFO_KIND:
			l.Kind = cstring(v)
		case unix.IFLA_INFO_DATA:
			data = v
		case unix.IFLA_INFO_SLAVE_KIND:
			slave = cstring(v)
		case unix.IFLA_INFO_SLAVE_DATA:
			port = v
		}
		return nil
	})
	if err != nil {
		return err
	}
	if slave == "bridge" {
		if l.Port, err = parseBridgePort(port); err != nil {
			return err
		}
	}
	if l.Kind == "bridge" {
		l.Bridge, err = parseBridge(data)
		return err
	}
	return EachAttr(data, func(typ uint16, v []byte) error {
		switch {
		case l.Kind == "vlan" && typ == unix.IFLA_VLAN_ID:
			if len(v) != 2 {
				return fmt.Errorf("%w: VLAN id of %d octets", ErrMalformed, len(v))
			}
			l.VLANID = int(binary.NativeEndian.Uint16(v))
		case (l.Kind == "macvtap" || l.Kind == "macvlan") && typ == unix.IFLA_MACVLAN_MODE:
			value, err := u32(v)
			if err != nil {
				return err
			}
			for _, m := range modes {
				if m.value == uint32(value) {
					l.Mode = m.word
				}
			}
		}
		return nil
	})
}

// EachAttr calls f for each netlink attribute, its type without the flag bits, until f fails.
// It fails with f's error, or with ErrMalformed.
// (nl.ParseRouteAttr panics on an attribute whose padding is cut off.)
func EachAttr(b []byte, f func(typ uint16, value []byte) error) error {
	for len(b) >= unix.SizeofRtAttr {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			return fmt.Errorf("%w: attribute of %d octets in %d", ErrMalformed, size, len(b))
		}
		typ := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		if err := f(typ, b[unix.SizeofRtAttr:size]); err != nil {
			return err
		}
		b = b[min(len(b), (size+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1)):]
	}
	if len(b) > 0 {
		return fmt.Errorf("%w: %d octets behind the attributes", ErrMalformed, len(b))
	}
	return nil
}

func u32(v []byte) (int, error) {
	if len(v) != 4 {
		return 0, fmt.Errorf("%w: number of %d octets", ErrMalformed, len(v))
	}
	return int(int32(binary.NativeEndian.Uint32(v))), nil
}

func cstring(b []byte) string { return unix.ByteSliceToString(b) }
