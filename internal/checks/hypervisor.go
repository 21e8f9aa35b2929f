package checks

import (
	"context"
	"path/filepath"

	"libvirt-direct/internal/link"
)

// hypervisor says what the switch of the hypervisor below has to let pass where this host is a
// guest itself: its guests' MACs are not that of its NIC.
func hypervisor(_ context.Context, _ *Env, _ kernel, u uplink) (found []Finding) {
	for _, d := range link.WithLowers("/sys", u.device.Name) {
		if what, virtual := virtualNIC(driverOf("/sys", d)); virtual {
			found = append(found, finding(Note, "uplink "+u.config.Name, "%s is a NIC of a virtual machine, whose hypervisor may drop frames of guests' MACs: %s", d, what))
		}
	}
	return found
}

func driverOf(root, device string) string {
	target, err := filepath.EvalSymlinks(filepath.Join(root, "class/net", device, "device/driver"))
	if err != nil {
		return "" // it has none
	}
	return filepath.Base(target)
}

// virtualNIC says by a NIC's driver what its hypervisor has to allow.
func virtualNIC(driver string) (allow string, virtual bool) {
	switch driver {
	case "vmxnet3":
		return "allow forged transmits and promiscuous mode, or MAC learning, in the port group", true
	case "hv_netvsc":
		return "Set-VMNetworkAdapter -MacAddressSpoofing On", true
	case "virtio_net":
		return "its host has to let them pass: a bridge does, a macvtap only with trustGuestRxFilters, and libvirt's filter no-mac-spoofing does not", true
	case "ena", "gve", "gvnic", "mana": // older kernels call gve gvnic
		return "a cloud's network knows the MAC of the NIC alone, and guests need routes instead", true
	case "vif", "xen_netfront":
		return "its host has to let them pass: look for locking-mode of the VIF, and for the ebtables of dom0", true
	}
	return "", false
}
