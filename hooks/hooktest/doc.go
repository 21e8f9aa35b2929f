// Package hooktest plays a host for tests of the hook: a kernel, an Open vSwitch, a
// station, libvirt and the disk, each a state machine in memory that can fail, be
// killed at any point, and lose what a real one can lose.
//
// Kernel, OVS and Station stand in for link.Conn, ovs.DB and a real station. Contract
// holds them to what the real ones do: the same table is run against both.
//
// World puts them together and plays stories. Several actors, libvirt with its domains,
// gc, an administrator's tool, go forward one at a time from boundary to boundary: before
// and after each change of the host, each read, each write, each lock. A Tape of octets
// decides at each boundary who goes on, what fails and who is killed; octet 0 always is
// the dullest choice, so that a tape with more zeros tells a shorter story. World checks
// invariants of the host after every boundary and when everything has ended. It knows
// nothing of package hooks: the programs under test are given to it.
package hooktest
