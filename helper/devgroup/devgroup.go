// Package devgroup has the device group of what libvirt-direct makes for guests. The kernel
// takes it with the request that makes a device (IFLA_GROUP), unlike an alias: udev sees it in
// the first event about the device (ATTR{netdev_group}), and so keeps the host's network
// managers off it. The rules in packaging/managers go by it; a firewall can, too.
package devgroup

// Group is the number, "ld" in ASCII.
const Group = 0x6c64 // 27748
