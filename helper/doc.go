// Command qemu-direct-helper gives QEMU and libvirt's session mode network devices without root: macvtap devices on a
// host NIC, and TAP devices in a Linux bridge or in Open vSwitch. It takes the place of qemu-bridge-helper, is installed setuid root as
// /usr/libexec/qemu-direct-helper, and is started as
//
//	qemu-direct-helper [--use-vnet] --br=NAME[/MAC] --fd=N [--queues=N]
//	qemu-direct-helper --list
//
// # Contract
//
// The arguments may come in any order; of one that stands twice the last counts; any other word is an error. N after
// --fd= is a connected unix stream socket, numbered 3 or higher, that the real user of the caller has made. On it the
// helper sends one NUL octet with one descriptor as SCM_RIGHTS (unix(7)) and exits with status 0. It exits 0 only after
// that, and does nothing after that. Otherwise it sends nothing, writes one line to standard error and exits 1 (2 if the
// Go runtime could not start). It takes 5 seconds at most. If the line says "access denied by acl file", the
// configuration did not allow the request.
//
// With --use-vnet each frame is preceded by a struct virtio_net_hdr. With --queues=N, 1 to 64, which QEMU and libvirt
// never ask for, N descriptors of one multi-queue device come in the one message. The descriptors answer TUNGETIFF, and
// for macvtap SIOCGIFHWADDR tells the address that the guest has to have.
//
// --list prints one line for each profile that the caller may use: its name, kind and max-per-user, and if it has derived
// addresses the caller's, for slot 0 and up, all separated by blanks.
//
// NAME/MAC is at most 64 characters of A–Z a–z 0–9 _ . : / -. NAME is a profile or, if no profile has that name, a
// bridge. MAC is six pairs of hexadecimal digits with colons, unicast. With a plain bridge it is noted in the log and
// has no other effect.
//
// # Files
//
// /etc/libvirt-direct/helper.conf has the profiles; its format is that of package internal/policy, function Parse.
// Without the file there are none.
//
// /etc/qemu/bridge.conf and /etc/qemu-kvm/bridge.conf are qemu-bridge-helper's access lists for plain bridges, of which
// both count; package internal/bridgeconf has the format, and the places where the helper is stricter.
//
// Each of these files, and /etc/passwd, /etc/group (asked for user: and group: words only; local files alone) and
// /etc/machine-id (for derived addresses) has to be a regular file of root's that neither group nor others may write,
// in directories of which the same holds (or that are sticky), with no symbolic link on the way, and no larger than
// 256 KiB. Otherwise the request is refused.
//
// /run/libvirt-direct/helper.claims counts what was handed out under profiles; its format is that of package
// internal/registry. Plain bridges are not counted. It may be deleted when no device is in use.
//
// Each grant and each denial is one line in the system log, facility authpriv, in the form of package internal/audit. A
// grant is logged before the descriptor is sent, so that the caller cannot have the one without the other.
//
// # What is made
//
// A macvtap device is called mvt and its interface index in hexadecimal, 2^30 or more. It is in an anonymous network
// namespace that the descriptors hold and nothing else: the kernel removes it when the last one is closed, whoever dies
// how. With visible = yes it is in the caller's namespace, where the kernel leaves it behind; the next call for a
// visible profile removes those that nobody holds any more (only in the host's first pid namespace, since /proc/locks
// tells the truth only there).
//
// With vlan, a sub-interface DEVICE.VID that is missing is made and stays: other guests may be on it, and the kernel does
// not tell which devices in other namespaces are. The host speaks no IPv6 on it.
//
// A TAP device is called tap and its interface index in hexadecimal. It has a random address that begins with fe, so
// that the bridge does not take it for its own, and the bridge's MTU. The holder of a descriptor may make a TAP device
// persistent (TUNSETPERSIST); the kernel has no means against that, and the device keeps counting.
//
// Under a profile of kind ovs it is not in a Linux bridge but a port of Open vSwitch, made in one transaction (package
// internal/ovsdb) after the device; ovs-vswitchd has made it when the descriptor is sent. The port's row outlives the
// device. It has external_ids:libvirt-direct=helper, and each call for such a profile removes the rows whose device is gone.
//
// Neither gets an IPv6 address of its own.
//
// # Threat model
//
// The caller controls the arguments, the environment, the descriptors, the resource limits, the signals and the moment
// of death. He must not get a device that the configuration does not give him, nor more of them, nor a frame onto the
// wire that the anti-spoof filter forbids, nor learn what only root may read, nor hinder other users.
//
//   - Privileges go in steps, on all threads, the first before anything of the caller's is looked at (package
//     internal/privilege); nothing is left when the descriptor is sent.
//   - The environment is forgotten; if it holds a variable for the Go runtime, the program starts again without it.
//   - Names are checked before they are compared, and looked up once; from then on the interface index counts. A line of
//     bridge.conf is about the device under all its names, not about the one that the caller uses.
//   - A claim is written before its device is made, and counts as long as the kernel has the device (internal/registry).
//   - The filter is on the device before the device is up and the descriptor sent (internal/antispoof).
//   - It works in the caller's network namespace, provided that this belongs to the user namespace in which the program
//     is setuid root; only root can put a caller into another one.
//
// Under no_new_privs (QEMU -sandbox, libvirt's system mode guests) a setuid program is powerless, and says so: start
// QEMU through the launcher, or hand it a descriptor.
package main
