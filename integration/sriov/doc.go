// Package sriov holds the tests that need SR-IOV: they run inside the test machine of
// package vm, with QEMU's igb as the card, and with testnic, a driver of our own for
// what igb refuses and for 802.1Qbh port profiles.
package sriov
