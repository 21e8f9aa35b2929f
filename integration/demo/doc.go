// Demo shows, on one screen and on one machine, what libvirt-direct does: it makes
// a throwaway libvirt host in namespaces, installs the hook there, runs guests with
// plain virsh and lets them talk to a peer on the other end of the host's NICs.
//
// Each thing that it says is checked; its exit status is 1 when one was not so.
// It needs root and the packages that integration/deps/install names.
package main
