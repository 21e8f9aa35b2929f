package main

import (
	"errors"

	"libvirt-direct/helper/internal/policy"
	"libvirt-direct/helper/internal/rtnl"
)

// Errors of a macvlan or macvtap as lower device.
var (
	errMacvtapLower  = errors.New("a macvtap is one guest's device and goes with it; name the device below it")
	errMacvlanWhole  = errors.New("a macvlan of mode passthru has the device below it to itself, and the kernel puts no macvtap beside it")
	errMacvlanShares = errors.New("mode passthrough needs a device to itself, and a macvlan shares the one below it")
	errMacvlanVLAN   = errors.New("a macvlan receives only frames to its own address, so a guest on a VLAN of it would receive none; name the device below it")
)

// belowMacvlan returns the device on which the kernel puts a macvtap that is asked for on l: of a macvlan the device
// below it (macvlan_common_newlink, drivers/net/macvlan.c), of any other l itself.
func (s *session) belowMacvlan(l rtnl.Link, p *policy.Profile) (rtnl.Link, error) {
	whole := l.MacvlanMode == uint32(policy.Passthrough)
	switch {
	case l.Kind == "macvtap":
		return l, errMacvtapLower
	case l.Kind != "macvlan":
		return l, nil
	case p.VLAN != 0 && whole: // which receives everything
		return l, nil
	case p.VLAN != 0:
		return l, errMacvlanVLAN
	case whole:
		return l, errMacvlanWhole
	case p.Mode == policy.Passthrough:
		return l, errMacvlanShares
	case l.LowerElsewhere: // the kernel finds it all the same
		return l, nil
	}
	return s.host.LinkByIndex(l.Lower)
}
