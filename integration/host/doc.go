// Package host makes libvirt hosts out of one Linux machine, for integration
// tests and for demonstrations.
//
// A [Peer] is a set of new network, mount, UTS, IPC and PID namespaces; a
// [Host] is a Peer that can run libvirtd. Inside, /proc, /sys, /run and
// /dev/shm are its own; /etc and /var are overlays whose upper layers live in
// memory; and /etc/libvirt, /etc/libvirt-direct, /var/lib/libvirt,
// /var/lib/libvirt-direct and /var/cache/libvirt start empty. Nothing done
// inside reaches the machine's own libvirt, and no domain defined there is seen
// inside. Everything else (/usr, /tmp, /home) is the machine's own.
//
// PID 1 of the PID namespace is the calling program itself, executed again: see
// [MaybeInit]. It dies with the program, however that ends, and with it the
// kernel kills every process inside and then frees the namespaces.
//
// /dev stays shared, and the kernel calls a macvtap's node /dev/tap<ifindex>
// although each network namespace counts its interfaces from 1. Where two
// namespaces hold a macvtap of one index, the second opens the first one's
// queue. Each Peer therefore counts from a number of its own.
//
// All of this needs root, and iproute2, util-linux (nsenter), coreutils
// and overlayfs. A Host also needs libvirtd and QEMU, [Peer.StartDHCP] dnsmasq, and
// [Peer.Capture] tcpdump.
package host
