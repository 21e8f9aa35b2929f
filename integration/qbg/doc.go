// Package qbg tests 802.1Qbg end to end: unmodified libvirt on a host, vdpd or
// Debian's lldpad as its station, and the bridge of package vdptest as the
// switch. It needs VLAN devices, and NICs without a peer that libvirt would
// follow: the test machine has both.
package qbg
