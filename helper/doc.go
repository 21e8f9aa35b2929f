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
// Go runtime could not start). It takes 5 seconds at most: then the kernel kills it. If the line says "access denied by acl file", the
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
// /run/libvirt-direct/claims.N counts what was handed out under profiles in the network namespace with the inode number N;
// its format is that of package internal/registry. Plain bridges are not counted. It may be deleted when no device is in
// use.
//
// Each grant and each denial is one line in the system log, facility authpriv, in the form of package internal/audit: by way
// of /dev/log, or /dev/kmsg where that takes nothing. The log is opened before anything is changed, and a grant is logged
// before the descriptor is sent, so that the caller cannot have the one without the other. Where neither takes a line,
// nothing is granted.
//
// # What is made
//
// Devices are called tap, or mvt for kind macvtap, and a number in hexadecimal, 2^30 or more. All but plain TAPs of one queue
// have to do with an anonymous network namespace that the descriptors hold and nothing else: the kernel removes it, and what
// is in it, when the last one is closed, whoever dies how (package internal/netns). The number is the id of that namespace in
// the caller's, by which a claim on the device is known to live (rtnl.Conn.HasNamespace). A port of a bridge has it for its
// interface index, too.
//
//	kind bridge, ovs    isolated  a veth pair, a hub and a TAP device (internal/port, internal/hub)
//	                    tap       a TAP device of root's (internal/tap)
//	kind macvtap        isolated  a macvlan, a hub and a TAP device (internal/station, internal/hub)
//	                    macvtap   a macvtap on the lower device (internal/macvtap)
//	bridge.conf                   a TAP device of root's
//
// With visible = yes a macvtap is in the caller's namespace, where the kernel leaves it behind; its node is opened in an
// anonymous one all the same, and the next call for a visible profile removes those whose namespace has ended, as does any that
// they are in the way of.
//
// With vlan, a sub-interface DEVICE.VID that is missing is made and stays: other guests may be on it, and the kernel does
// not tell which devices in other namespaces are.
//
// A port has a random address that begins with fe, so that the bridge does not take it for its own, and the bridge's MTU.
// The holder of a descriptor may make a plain TAP device persistent (TUNSETPERSIST); the kernel has no means against that.
// It keeps counting until nobody has a queue of it; then the next call for such a device in the same bridge removes it, or
// `libvirt-direct gc`.
//
// Under a profile of kind ovs the device becomes a port of Open vSwitch, made in one transaction (package internal/ovsdb)
// after the device; ovs-vswitchd has made it when the descriptor is sent. The port's row outlives the device. It has
// external_ids:libvirt-direct=helper, and each call for such a profile removes the rows whose device is gone.
//
// The host does not speak on any of them, nor on a sub-interface that the helper makes: it has no IPv6 there and answers no
// ARP request (package internal/sysctl). They are made so while they are down, and a call that was killed before leaves
// them down for the next one to finish.
//
// # Threat model
//
// The caller controls the arguments, the environment, the descriptors, the resource limits, the signals and the moment
// of death. He must not get a device that the configuration does not give him, nor more of them, nor a frame onto the
// wire that the anti-spoof filter forbids, nor learn what only root may read, nor hinder other users.
//
//   - Privileges go in steps, on all threads, the first before anything of the caller's is looked at (package
//     internal/privilege). A capability is in effect for single system calls; nothing is left when the log, the error or
//     the answer is written, which may take time.
//   - The environment is forgotten; if it holds a variable for the Go runtime, the program starts again without it.
//   - Names are checked before they are compared, and looked up once; from then on the interface index counts. A line of
//     bridge.conf is about the device under all its names, not about the one that the caller uses.
//   - A claim is written before its device is made, and counts as long as the kernel has what it is about, which nobody
//     without CAP_NET_ADMIN can make or keep (internal/registry).
//   - What a holder may change of his device stays within its namespace, but for plain TAPs and macvtaps.
//   - The filter is on the device before the device is up and the descriptor sent (internal/antispoof).
//   - It works in the caller's network namespace, provided that this belongs to the user namespace in which the program
//     is setuid root; only root can put a caller into another one.
//
// Under no_new_privs (QEMU -sandbox, libvirt's system mode guests) a setuid program is powerless, and says so: start
// QEMU through the launcher, or hand it a descriptor.
package main
