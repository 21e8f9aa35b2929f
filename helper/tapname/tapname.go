// Package tapname knows the helper's TAP devices by their names, and tells when one of them has been abandoned. The
// helper and `libvirt-direct gc` remove the same ones.
package tapname

import "strconv"

// Prefix is the beginning of a device's name; the hexadecimal interface index follows.
const Prefix = "tap"

// MinIndex is the smallest interface index of a device of the helper's. The kernel counts its own up from 1.
const MinIndex = 1 << 30

// Name is the name of the device with this index.
func Name(index int) string { return Prefix + strconv.FormatInt(int64(index), 16) }

// Device is what the kernel says of a TAP device.
type Device struct {
	Index      int
	Name       string
	Kind       string // IFLA_INFO_KIND
	Persist    bool   // IFLA_TUN_PERSIST
	MultiQueue bool   // IFLA_TUN_MULTI_QUEUE
	Queues     uint32 // IFLA_TUN_NUM_QUEUES
	Disabled   uint32 // IFLA_TUN_NUM_DISABLED_QUEUES
	Carrier    bool   // IFLA_CARRIER
}

// Abandoned reports whether d is a device of the helper's that its holder made persistent (TUNSETPERSIST) and that no
// descriptor is attached to. Any other device of the helper's goes with its last descriptor.
//
// The kernel counts the queues of multi-queue devices only. Of another it takes the carrier away when the descriptor is
// closed (__tun_detach, drivers/net/tun.c). A holder can do that too (TUNSETCARRIER), and then loses his own device.
func (d Device) Abandoned() bool {
	if d.Kind != "tun" || d.Index < MinIndex || d.Name != Name(d.Index) || !d.Persist {
		return false
	}
	if d.MultiQueue {
		return d.Queues == 0 && d.Disabled == 0
	}
	return !d.Carrier
}
